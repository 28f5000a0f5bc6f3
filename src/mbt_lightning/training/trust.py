"""Whom a weight file may name: its configuration is data of a stranger, and building it must run nothing of theirs.

A class that a configuration names is built, and a function is called. What a person writes on the command line or in
files of their own is free. What comes out of a weight file may name only classes of this package and optimisers of
`torch.optim`, each in a place that expects such a class; all else has to be trusted by the name of its module. Nothing
is imported before its name has passed.
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
"""Where the classes are defined that every weight file may name."""

FUNCTIONS = {f"{sgd.__module__}.{sgd.__qualname__}": Optimizer, "mbt_lightning.sgd": Optimizer}
"""The functions that may be named, and what they make."""

TRAINING_ONLY = ("optimizer", "init", "mixup")
"""What `model` names for a training alone; a model that is only used is built without."""

SIMPLE = (str, int, float, bool, type(None), Path, timedelta)
"""Types of values that name nothing."""

WORD = re.compile(r"[\w-]*")


def check_config(config: Mapping[str, Any], path: str | Path, trust: Iterable[str] = ()) -> None:
    """Refuse a configuration out of a weight file that names what a stranger may not name.

    Args:
        config: its parts that will be built: `model`, `data`, `trainer`, ...
        path: the file, for the message.
        trust: modules, or full names in them, that may be named too; those of `--trust` and `MBT_TRUST` always may.

    Raises:
        UserError: a place names something else, or holds what is no plain data.
    """
    places = {"model": model_hints(), "data": hints_of(AudioVisualData), "trainer": hints_of(Trainer)}
    check = Check(path, (*KNOWN, *trusted(), *([trust] if isinstance(trust, str) else trust)))
    for name, value in config.items():
        if name in places:
            check.settings(name, value, places[name])
        else:
            check.value(name, value, str | int | float | None)


class Check:
    """The walk through a configuration, place by place, beside the types that the places have.

    Args:
        path: the weight file.
        allowed: modules that may be named.
    """

    def __init__(self, path: str | Path, allowed: Sequence[str]):
        self.path, self.allowed = path, tuple(allowed)

    def refuse(self, place: str, value: Any, why: str, module: str = "MODULE") -> typing.NoReturn:
        """Say in one line what is wrong where, and how to allow it."""
        text = value if isinstance(value, str) else repr(value)
        raise UserError(
            f"{self.path}: its {place[:100]} is {text[:100]!r}, {why}: a weight file may name classes of mbt_lightning "
            "and torch.optim only, as whoever wrote it could have anything run; if it is your own code, allow it by "
            f"--trust {module[:100]}, in Python by trust={(module[:100],)}"
        )

    def settings(self, place: str, value: Any, hints: Mapping[str, Any]) -> None:
        """Check a mapping of settings by name."""
        if not isinstance(value, Mapping):
            self.refuse(place, value, "not a mapping of settings")
        for name, part in value.items():
            self.value(self.below(place, name), part, hints.get(name, Any))

    def below(self, place: str, name: Any) -> str:
        """The name of a place within another; a dotted one would stand for a place elsewhere."""
        if not isinstance(name, str) or not WORD.fullmatch(name):
            self.refuse(place, name, "no name of a setting")
        return f"{place}.{name}"

    def value(self, place: str, value: Any, hint: Any) -> None:
        """Check a value in a place of a type."""
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
        """Check a text, which in the place of a class is its name."""
        kinds = leaves(hint)
        is_word = WORD.fullmatch(value) and (str in kinds or not bases_of(hint))
        if not is_word and not is_number(value) and not kinds <= {*SIMPLE, dict} and value not in self.functions(hint):
            self.named(place, value, hint)

    def functions(self, hint: Any) -> list[str]:
        """The functions that may stand in a place."""
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
            self.refuse(place, value, "without the class_path of a class")
        for name, part in value.items():
            own = [hints_of(base)[name] for base in plain if name in hints_of(base)]
            self.value(self.below(place, name), part, own[0] if own else hint)

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
        """Whether a full name lies in a module that may be named."""
        return any(name == module or name.startswith(f"{module}.") for module in self.allowed)


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def subclasses(base: type) -> list[type]:
    """A class and all loaded ones that derive from it."""
    children: list[type] = type.__subclasses__(base)
    return [base, *(kind for child in children for kind in subclasses(child))]


def bases_of(hint: Any) -> tuple[type, ...]:
    """The classes of which one may be named in a place of a type; none where only plain values may stand."""
    return tuple(kind for kind in leaves(hint) if isinstance(kind, type) and kind not in (*SIMPLE, dict, Any))


def leaves(hint: Any) -> set[Any]:
    """The types in a type: of its alternatives, of what lists and mappings hold, and what callables make.

    A mapping counts as `dict` beside what it holds; what nothing is known of as `Any`.
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
    """The types of a class's settings by name, those that it hands on to its bases included."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            try:
                found |= typing.get_type_hints(base.__init__)  # type: ignore[misc]
            except (NameError, TypeError):  # names that only type checkers know: then nothing is known of it
                continue
    return found


def model_hints() -> dict[str, Any]:
    """The types of the settings of `model`, the network's included."""
    return hints_of(MBT) | hints_of(AudioVisualClassifier)
