"""Which names a weight file may use: its configuration is foreign data, and building it must not run foreign code.

A class that a configuration names is built, and a function is called. Users' own command lines and files may name
anything. A weight file, and an experiment file that names weights beside it, may only name classes of this package
and optimisers of `torch.optim`, each where such a class is expected; any other module must be trusted explicitly.
Nothing is imported before its name has been accepted.
"""

from __future__ import annotations

import collections.abc
import importlib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer

from mbt_lightning.config.trusted import NAME, trusted
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.errors import UserError
from mbt_lightning.model.mbt import MBT
from mbt_lightning.training.module import AudioVisualClassifier, sgd

KNOWN = ("mbt_lightning", "torch.optim")
"""The modules of the classes that every weight file may name."""

FUNCTIONS = {f"{sgd.__module__}.{sgd.__qualname__}": Optimizer, "mbt_lightning.sgd": Optimizer}
"""The functions that may be named, and what they create."""

OVERLAY = ("base", "ckpt_path", "experiment", "seed_everything", "verbose", "model", "data", "trainer")
"""What an experiment file that names weights beside it may set."""

TRAINING_ONLY = ("optimizer", "init", "mixup")
"""Settings of `model` that only training needs; other models are built without them."""

SIMPLE = (str, int, float, bool, type(None), Path, timedelta)
"""Types whose values are not names."""

WORD = re.compile(r"[\w-]*")


def check_config(config: Mapping[str, Any], path: str | Path, trust: Iterable[str] = ()) -> None:
    """Refuse a configuration from a weight file that uses forbidden names.

    Args:
        config: the parts that will be built: `model`, `data`, `trainer`, ...
        path: the file, for the message.
        trust: further allowed modules, or full names in them; those of `--trust` and `MBT_TRUST` are always allowed.

    Raises:
        UserError: a forbidden name, or a value that is not plain data.
    """
    Check(path, (*KNOWN, *trusted(), *([trust] if isinstance(trust, str) else trust))).config(config)


def check_overlay(config: Mapping[str, Any], path: str | Path) -> None:
    """Refuse an experiment file that names weights beside it if it uses names that those weights may not use.

    Args:
        config: the content of the file, or of one that it builds on.
        path: the file, for the message.

    Raises:
        UserError: a forbidden name, a setting of where files are written, or a value that is not plain data.
    """
    check = OverlayCheck(path, (*KNOWN, *trusted()))
    for name in config:
        if name not in OVERLAY:
            check.refuse("setting", name, f"not one of {', '.join(OVERLAY)}")
    if "default_root_dir" in (config.get("trainer") or {}):
        check.refuse("setting", "trainer.default_root_dir", "which is for you to set")
    check.config({name: value for name, value in config.items() if value is not None})


class Check:
    """Walks through a configuration, comparing each value with the type of its place."""

    source = "a weight file"

    def __init__(self, path: str | Path, allowed: Sequence[str]):
        self.path, self.allowed = path, tuple(allowed)

    def refuse(self, place: str, value: Any, why: str, module: str = "MODULE") -> typing.NoReturn:
        text = value if isinstance(value, str) else repr(value)
        raise UserError(
            f"{self.path}: its {place[:100]} is {text[:100]!r}, {why}: {self.source} may name classes of mbt_lightning "
            "and torch.optim only, as whoever wrote it could have anything run; if it is your own code, allow it by "
            f"--trust {module[:100]}, in Python by trust={(module[:100],)}"
        )

    def config(self, config: Mapping[str, Any]) -> None:
        """Check a whole configuration."""
        places = {"model": model_hints(), "data": hints_of(AudioVisualData), "trainer": hints_of(Trainer)}
        for name, value in config.items():
            if name in places:
                self.settings(name, value, places[name])
            else:
                self.value(name, value, str | int | float | None)

    def settings(self, place: str, value: Any, hints: Mapping[str, Any]) -> None:
        if not isinstance(value, Mapping):
            self.refuse(place, value, "not a mapping of settings")
        for name, part in value.items():
            self.value(self.below(place, name), part, hints.get(name, Any))

    def below(self, place: str, name: Any) -> str:
        """The name of a place within another; a dotted name would refer to another place."""
        if not isinstance(name, str) or not WORD.fullmatch(name):
            self.refuse(place, name, "no name of a setting")
        return f"{place}.{name}"

    def value(self, place: str, value: Any, hint: Any) -> None:
        """Check a value for a place of a type."""
        if isinstance(value, str):
            self.text(place, value, hint)
        elif isinstance(value, Mapping):
            self.mapping(place, value, hint)
        elif isinstance(value, list | tuple):
            for number, part in enumerate(value):
                self.value(f"{place}.{number}", part, hint)
        elif type(value) not in (int, float, bool, type(None)):
            self.refuse(place, value, "no plain data")

    def text(self, place: str, value: str, hint: Any) -> None:
        """Check a text, which may be the name of a class."""
        kinds = leaves(hint)
        is_word = WORD.fullmatch(value) and (str in kinds or not bases_of(hint))
        if not is_word and not is_number(value) and not kinds <= {*SIMPLE, dict} and value not in self.functions(hint):
            self.named(place, value, hint)

    def functions(self, hint: Any) -> list[str]:
        """The functions allowed in a place."""
        return [name for name, made in FUNCTIONS.items() if issubclass(made, bases_of(hint))]

    def mapping(self, place: str, value: Mapping[str, Any], hint: Any) -> None:
        """Check a class with its settings, or plain settings by name."""
        if "class_path" in value:
            kind = self.named(place, value["class_path"], hint)
            for name, part in value.items():
                if name in ("init_args", "dict_kwargs"):
                    self.settings(f"{place}.{name}", part or {}, hints_of(kind) if kind else {})
                elif name != "class_path":
                    self.refuse(place, name, "unknown beside class_path and init_args")
            return
        bases = bases_of(hint)
        plain = [base for base in bases if is_dataclass(base)]
        if bases and not plain and dict not in leaves(hint):
            hint = self.unnamed(place, value)
        for name, part in value.items():
            own = [hints_of(base)[name] for base in plain if name in hints_of(base)]
            self.value(self.below(place, name), part, own[0] if own else hint)

    def unnamed(self, place: str, value: Mapping[str, Any]) -> Any:
        """The type of the values in settings of a class that is not named."""
        self.refuse(place, value, "without the class_path of a class")

    def named(self, place: str, name: Any, hint: Any) -> type | None:
        """The class of a name, which must be allowed and fit its place; None: a function, trusted by its full name."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            self.refuse(place, name, "not the name of a class")
        bases = bases_of(hint)
        module, _, last = name.rpartition(".")
        if not module:
            found: list[Any] = [kind for base in bases for kind in subclasses(base) if kind.__name__ == name]
            if not found:
                self.refuse(place, name, "not the name of a class that fits there")
        elif not self.allows(name):
            self.refuse(place, name, "which is not ours", module)
        else:
            try:
                found = [getattr(importlib.import_module(module), last)]
            except (ImportError, AttributeError) as error:
                self.refuse(place, name, f"which cannot be imported ({str(error)[:100]})", module)
        for kind in found:
            if not isinstance(kind, type):
                if name in self.allowed:
                    return None
                self.refuse(place, name, "not a class", name)
            if not self.allows(f"{kind.__module__}.{kind.__qualname__}"):
                self.refuse(place, name, f"which is defined in {kind.__module__}", kind.__module__)
            if not issubclass(kind, bases):
                self.refuse(place, name, "not a class that fits there")
        return found[0]

    def allows(self, name: str) -> bool:
        return any(name == module or name.startswith(f"{module}.") for module in self.allowed)


class OverlayCheck(Check):
    """Checks a file that may change some settings of a class that is named elsewhere."""

    source = "an experiment file beside its weights"

    def unnamed(self, place: str, value: Mapping[str, Any]) -> Any:
        return Any


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def subclasses(base: type) -> list[type]:
    """A class and all its loaded subclasses."""
    children: list[type] = type.__subclasses__(base)
    return [base, *(kind for child in children for kind in subclasses(child))]


def bases_of(hint: Any) -> tuple[type, ...]:
    """The classes of which one may be named in a place of a type; none if only plain values are allowed."""
    return tuple(kind for kind in leaves(hint) if isinstance(kind, type) and kind not in (*SIMPLE, dict, Any))


def leaves(hint: Any) -> set[Any]:
    """The types in a type: of alternatives, of the contents of lists and mappings, and of results of callables.

    A mapping also counts as `dict`; an unknown type as `Any`.
    """
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Ellipsis:
        return set()
    if origin is typing.Literal:
        return {type(part) for part in parts}
    if origin is type or hint is type:
        return {Any}
    if origin is typing.Annotated:
        return leaves(parts[0])
    if isinstance(origin, type) and issubclass(origin, collections.abc.Callable):  # type: ignore[arg-type]
        return leaves(parts[-1]) | {Any}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {dict} | leaves(parts[-1])
    if origin in (typing.Union, types.UnionType) or isinstance(origin, type):
        return set().union(*map(leaves, parts))
    if hint in (dict, list, tuple, object):
        return {Any}
    return {hint} if isinstance(hint, type) else {Any}


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The types of a class's settings by name, including those passed on to its bases."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            try:
                found |= typing.get_type_hints(base.__init__)  # type: ignore[misc]
            except (NameError, TypeError):  # names that only type checkers know: the types stay unknown
                continue
    return found


def model_hints() -> dict[str, Any]:
    """The types of the settings of `model`, including those of the network."""
    return hints_of(MBT) | hints_of(AudioVisualClassifier)
