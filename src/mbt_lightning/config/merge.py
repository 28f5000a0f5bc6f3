"""Several configurations as one: a checkpoint's, files', a sweep's values and options. What comes last wins.

Mappings are merged key by key. A class may be written by its name, `Mixup`, or with its arguments, `{class_path: Mixup,
init_args: {alpha: 0.5}}`; its arguments alone change those of the class that was named before. Another class keeps of
the arguments before it those that it takes too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from typing import Any

from mbt_lightning.config.class_paths import all_kin, arguments_of, found_class, is_same_class
from mbt_lightning.config.settings import flat, nested
from mbt_lightning.process import rank

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}

FUSION = "model.fusion.init_args."
BOTTLENECK = "mbt_lightning.Bottleneck"
"""One of the strategies, which the others are kin of."""


@dataclass(frozen=True)
class Layer:
    """One configuration of those that are merged.

    Args:
        source: the file, or another name for messages.
        content: nested plain data.
        is_point: whether it is a point of a sweep, whose arguments may be those of another strategy of the sweep.
    """

    source: str
    content: Mapping[str, Any]
    is_point: bool = False


def merge(layers: Sequence[Layer]) -> dict[str, Any]:
    """One nested configuration; a later layer wins over an earlier one.

    An argument of a point that its fusion strategy does not take, but another one does, is left out, and printed: a
    sweep that crosses strategies with an argument of one of them has such points.
    """
    config: dict[str, Any] = reduce(merged, [layer.content for layer in layers], {})
    named = {name for layer in layers if layer.is_point for name in flat(layer.content)}
    given = {name.removeprefix(FUSION) for name in named if name.startswith(FUSION)}
    chosen = config.get("model", {}).get("fusion")
    if given and is_class(chosen):
        strategy = found_class(chosen["class_path"], kin=BOTTLENECK)
        known = set().union(*map(arguments_of, all_kin(found_class(BOTTLENECK))))
        for name in sorted(given & known - arguments_of(strategy)):
            del chosen["init_args"][name]
            if rank() == 0:
                print(f"{FUSION}{name} has no effect on {strategy.__name__}: left out", flush=True)
    return config


def undotted(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose keys may be dotted names as a nested one; a class comes before its arguments."""
    return reduce(merged, [nested({name: content[name]}) for name in sorted(content)], {})


def merged(below: Any, above: Any, find: Callable[..., Any] = found_class) -> Any:
    """A value and what replaces it, or changes a part of it; `find` looks up classes, see `found_class`."""
    if isinstance(above, str) and is_class(below):
        above = {"class_path": above}
    if isinstance(below, str) and isinstance(above, Mapping) and (above.keys() <= CLASS_KEYS or find(below)):
        below = {"class_path": below}
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return deepcopy(above)
    if is_class(below) and above:
        if not above.keys() & CLASS_KEYS:
            above = {"init_args": above}
        name, before = above.get("class_path"), below["class_path"]
        if isinstance(name, str) and not is_same_class(name, before):
            takes = arguments_of(find(name, kin=before))
            kept = {key: value for key, value in (below.get("init_args") or {}).items() if key in takes}
            below = {"class_path": name} | ({"init_args": kept} if kept else {})
    result = deepcopy(dict(below))
    for key, value in above.items():
        result[key] = merged(below[key], value, find) if key in below else deepcopy(value)
    return result


def is_class(value: Any) -> bool:
    """Whether a value names a class and may hold its arguments."""
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str) and value.keys() <= CLASS_KEYS
