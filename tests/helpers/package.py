"""What the package defines."""

import importlib
import pkgutil
from functools import cache

import mbt_lightning


@cache
def import_all() -> None:
    """Import every module of the package."""
    for module in pkgutil.walk_packages(mbt_lightning.__path__, "mbt_lightning."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def defined(base: type) -> set[type]:
    """All classes of the package that derive from one, at any depth."""
    import_all()

    def below(c: type) -> set[type]:
        return {c}.union(*(below(child) for child in c.__subclasses__()))

    return {c for c in below(base) - {base} if c.__module__.startswith("mbt_lightning.")}
