"""The strategy of a run: its name, its place in a table, its colour and marker. Everything that shows one asks here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mbt_lightning.config.settings import is_late

LATE = "late fusion"

KINDS = {
    "mbt_lightning.JointSelfAttention": "joint self-attention",
    "mbt_lightning.CrossAttention": "cross-attention",
    "mbt_lightning.Bottleneck": "bottleneck",
}
"""The field's words for our own classes, in the order of a table; any other class goes by its name, after these."""

BOTTLENECK = {"num_bottlenecks": 4, "update": "sequential"}
"""The arguments of a bottleneck that names none, as in `mbt_lightning.model.fusion`."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
"""Okabe and Ito's colours, which colour-blind readers can distinguish, and two more."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Style = tuple[str, str]
"""A colour and a marker."""

STYLES: list[Style] = list(zip(COLOURS, MARKERS, strict=True))

OWN_STYLE = {"bottleneck": 0, "cross-attention": 1, "joint self-attention": 2}
"""Strategies whose colour and marker are the same in every table."""


FREE = [number for number in range(len(STYLES)) if number not in OWN_STYLE.values()]


@dataclass(frozen=True)
class Strategy:
    """How a run fuses its modalities.

    Args:
        kind: the strategy without its arguments, in the field's words.
        name: the strategy with its arguments.
        class_path: of its class; empty where none is used: late fusion, a single modality.
        modalities: names of the modalities, in their order.
        fusion_layer: L_f; None for a single modality.
        num_bottlenecks: B; None without a bottleneck.
        update: rule of the bottleneck; the sequential one by the modality that comes first, e.g. `rgb first`.
    """

    kind: str
    name: str
    class_path: str
    modalities: tuple[str, ...]
    fusion_layer: int | None
    num_bottlenecks: int | None = None
    update: str = ""

    @property
    def rank(self) -> tuple:
        """What strategies are sorted by: single modalities, late fusion, our own in their order, all others."""
        known = [LATE, *KINDS.values()]
        place = -1 if len(self.modalities) == 1 else known.index(self.kind) if self.kind in known else len(known)
        return (place, self.kind, self.num_bottlenecks or 0, self.name)

    @property
    def is_late(self) -> bool:
        """Whether the modalities are fused by their logits only."""
        return self.kind == LATE


def strategy_of(config: Mapping[str, Any]) -> Strategy:
    """The strategy of a resolved configuration."""
    model = config["model"]
    modalities = tuple(model["modalities"])
    if len(modalities) == 1:
        kind = f"{modalities[0]} only"
        return Strategy(kind, kind, "", modalities, None)
    layer = model["fusion_layer"]
    if is_late(config):
        return Strategy(LATE, LATE, "", modalities, layer)
    path, arguments = model["fusion"]["class_path"], model["fusion"].get("init_args") or {}
    kind = KINDS.get(path, class_of(model["fusion"]))
    if kind == "bottleneck":
        chosen = BOTTLENECK | arguments
        tokens, rule = chosen["num_bottlenecks"], chosen["update"]
        order = f", {modalities[0]} first" if rule == "sequential" and modalities[0] != "rgb" else ""
        update = f"{modalities[0]} first" if rule == "sequential" else rule
        name = f"bottleneck B = {tokens} ({rule}{order})"
        return Strategy(kind, name, path, modalities, layer, tokens, update)
    return Strategy(kind, kind + (f" ({show(arguments)})" if arguments else ""), path, modalities, layer)


def with_distinct_names(strategies: Sequence[Strategy], others: Sequence[tuple]) -> list[Strategy]:
    """Strategies of different points, none of which share a name: with the class's whole path, or the modalities.

    Args:
        strategies: one for each point.
        others: what else each point is known by.
    """
    paths: dict[str, set[str]] = {}
    for one in strategies:
        paths.setdefault(one.kind, set()).add(one.class_path)
    named = [
        replace(one, kind=one.class_path, name=one.name.replace(one.kind, one.class_path, 1))
        if len(paths[one.kind]) > 1 and one.class_path
        else one
        for one in strategies
    ]
    orders: dict[tuple, set[tuple[str, ...]]] = {}
    known = [(one.name, one.fusion_layer, *other) for one, other in zip(named, others, strict=True)]
    for one, key in zip(named, known, strict=True):
        orders.setdefault(key, set()).add(one.modalities)
    return [
        replace(one, name=f"{one.name}, of {', '.join(one.modalities)}") if len(orders[key]) > 1 else one
        for one, key in zip(named, known, strict=True)
    ]


def styles(kinds: Iterable[str]) -> dict[str, Style]:
    """Colour and marker of each kind of strategy in a table; those without one of their own get the next free one."""
    kinds = list(dict.fromkeys(kinds))
    others = [kind for kind in kinds if kind not in OWN_STYLE]
    numbers = OWN_STYLE | {kind: FREE[i % len(FREE)] for i, kind in enumerate(others)}
    return {kind: STYLES[numbers[kind]] for kind in kinds}


def line_styles(kinds: Sequence[str], of_kind: Mapping[str, Style]) -> list[Style]:
    """Colour and marker of each line of a figure: its strategy's, or another one where an earlier line has that.

    Args:
        kinds: the strategy of each line.
        of_kind: see `styles`.
    """
    chosen: list[Style] = []
    for kind in kinds:
        own = of_kind[kind]
        others = [style for style in STYLES if style not in chosen and style not in map(of_kind.get, kinds)]
        chosen.append(own if own not in chosen else [*others, own][0])
    return chosen


def class_of(value: Any) -> str:
    """Name of the class of a setting; empty if it is none."""
    return str(value["class_path"]).rpartition(".")[2] if isinstance(value, Mapping) and "class_path" in value else ""


def show(value: Any) -> str:
    """A setting's value in a few words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(show, value))
    if isinstance(value, Mapping):
        return class_of(value) or ", ".join(f"{name} {show(inner)}" for name, inner in value.items())
    return str(value)
