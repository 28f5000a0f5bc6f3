"""Names of classes in configurations: the public path of each, and what a class takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import mbt_lightning

PACKAGE = f"{mbt_lightning.__name__}."
INNER_PATH = re.compile(rf"{re.escape(PACKAGE)}(?:\w+\.)+(\w+)")


def public_class_paths(config: Any) -> Any:
    """A configuration in which every public class of this package has its public path, `mbt_lightning.X`.

    The module that a class lies in is not part of a configuration: `mbt_lightning.data.mixup.Mixup`, or any other
    module that held it in an earlier version, is read as `mbt_lightning.Mixup`. Other names stay.

    Args:
        config: plain data, of any depth.
    """
    if isinstance(config, dict):
        return {key: public_class_paths(value) for key, value in config.items()}
    if isinstance(config, list):
        return [public_class_paths(value) for value in config]
    if isinstance(config, str) and (match := INNER_PATH.fullmatch(config)) and match[1] in mbt_lightning.__all__:
        return PACKAGE + match[1]
    return config


def is_same_class(one: str, other: str) -> bool:
    """Whether two names are of one class: `Mixup`, `mbt_lightning.Mixup` and `mbt_lightning.data.mixup.Mixup` are."""
    one, other = public_class_paths(one), public_class_paths(other)
    return one == other or ({one, other} == {PACKAGE + (name := one.rpartition(".")[2]), name})


def takes(name: str, replaced: str) -> set[str]:
    """What the class of a name takes; nothing if no class is found, which the parser then reports.

    Args:
        name: the class, by its path, or by its bare name as the parser knows it.
        replaced: another class that a configuration names at the same place; a bare name is looked up among its kin.
    """
    found = found_class(name, replaced)
    if found is None:
        return set()
    from jsonargparse import ArgumentParser  # which follows **kwargs to where they go

    parser = ArgumentParser()
    add = parser.add_class_arguments if inspect.isclass(found) else parser.add_function_arguments
    return {added.split(".")[0] for added in add(found, fail_untyped=False)}


def found_class(name: str, kin: str = "") -> Any:
    """The class or function of a name; None if there is none."""
    if "." not in name:
        relatives = found_class(kin) if "." in kin or kin in mbt_lightning.__all__ else None
        known = [c for c in all_kin(relatives) if c.__name__ == name]
        return known[0] if known else getattr(mbt_lightning, name, None) if name in mbt_lightning.__all__ else None
    module, _, last = name.rpartition(".")
    try:
        return getattr(import_module(module), last)
    except (ImportError, AttributeError):
        return None


def all_kin(found: Any) -> Iterator[type]:
    """The classes that share a base with a class, other than `object`."""
    pending = [base for base in found.__mro__ if base is not object] if inspect.isclass(found) else []
    for base in pending:
        yield base
        pending += base.__subclasses__()
