"""Names of classes in configurations: the public path of each, and what a class takes."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import Any

import mbt_lightning

PACKAGE = f"{mbt_lightning.__name__}."
INNER_PATH = re.compile(rf"{re.escape(PACKAGE)}(?:\w+\.)+(\w+)")


def public_classes() -> list[str]:
    """The bare names of the classes of this package that configurations may name."""
    return list(mbt_lightning._CLASSES)


def import_public_classes() -> None:
    """Import them all: the parser knows by its bare name only what is imported."""
    for name in public_classes():
        getattr(mbt_lightning, name)


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


def found_class(name: str, kin: str = "") -> Any:
    """The class or function of a name; None if there is none, which the parser reports.

    Args:
        name: its path, or its bare name as the parser knows it.
        kin: another class that a configuration names at the same place; a bare name is looked up among its kin too.
    """
    module, _, last = name.rpartition(".")
    if not module:
        known = [kind for kind in all_kin(found_class(kin)) if kind.__name__ == name] if kin else []
        return known[0] if known else getattr(mbt_lightning, name) if name in public_classes() else None
    try:
        return getattr(import_module(module), last)
    except (ImportError, AttributeError, TypeError, ValueError):
        return None


def own_class(name: str, kin: str = "") -> Any:
    """As `found_class`, but None for names of other packages: what others wrote must not have a module imported."""
    is_own = [not name or "." not in name or name.startswith(PACKAGE) for name in (name, kin)]
    return found_class(name, kin) if all(is_own) else None


def all_kin(found: Any) -> list[type]:
    """The classes that share a base of its own package with a class, the nearest first."""
    package = getattr(found, "__module__", "").partition(".")[0]
    kin = [base for base in getattr(found, "__mro__", ()) if base.__module__.partition(".")[0] == package]
    for base in kin:  # which grows
        kin += [kind for kind in base.__subclasses__() if kind not in kin]
    return kin


def arguments_of(found: Any) -> set[str]:
    """The arguments of a class or function by name; none of None."""
    if found is None:
        return set()
    from jsonargparse import ArgumentParser  # which follows **kwargs to where they are taken

    parser = ArgumentParser()
    add = parser.add_class_arguments if inspect.isclass(found) else parser.add_function_arguments
    return {name.partition(".")[0] for name in add(found, fail_untyped=False)}
