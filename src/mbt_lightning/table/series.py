"""What the figures show: the settings that points are drawn over, and the lines that points make there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mbt_lightning.table.compare import Comparison, axis_title
from mbt_lightning.table.points import Point

T = TypeVar("T")

MOST_LINES = 8
MOST_LEVELS = 6


@dataclass(frozen=True)
class Axis:
    """A setting that points are drawn over.

    Args:
        name: for the file.
        title: of the axis.
        value: of a point; None where the setting has no meaning for it.
        key: the setting.
        is_log: whether the axis is logarithmic.
    """

    name: str
    title: str
    value: Callable[[Point], Any]
    key: str
    is_log: bool = False


@dataclass
class Line:
    """Points that differ in one setting only.

    Args:
        label: what they have in common.
        kind: their strategy.
        points: (value of the setting, point), in order.
        is_best: whether it was chosen among several of its strategy by its best score.
    """

    label: str
    kind: str
    points: list[tuple[Any, Point]] = field(default_factory=list)
    is_best: bool = False


def axes_of(found: Comparison) -> list[Axis]:
    """The settings that points are drawn over."""
    axes = [
        Axis("fusion_layer", "fusion layer $L_f$", lambda p: p.strategy.fusion_layer, "model.fusion_layer"),
        Axis("bottlenecks", "bottleneck tokens $B$", lambda p: p.strategy.num_bottlenecks, "num_bottlenecks", True),
    ]
    for key in found.axes:
        name, title = key.rpartition(".")[2], axis_title(key).replace("$", r"\$")
        if key == "data.manifest":
            axes.append(Axis("clips", "training clips", train_clips, key, is_log=True))
        elif all(is_number(p.settings.get(key)) for p in found.points):
            axes.append(Axis(name, title, lambda p, key=key: p.settings[key], key))  # type: ignore[misc]
        else:
            axes.append(Axis(name, title, lambda p, key=key: p.labels[key], key))  # type: ignore[misc]
    return axes


def is_number(value: Any) -> bool:
    """Whether a setting is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def train_clips(point: Point) -> float | None:
    """Number of clips that a point is trained on."""
    return point.statistic("summary/data.clips.train", "min")


def lines_of(found: Comparison, axis: Axis) -> tuple[list[Line], list[Point]]:
    """Lines over a setting, and the points for which it has no meaning.

    Late fusion is where every strategy's line over L_f ends. Of more lines than can be distinguished each strategy
    keeps its best.
    """

    def peak(line: Line) -> float:
        return max(point.mean(found.main) or 0 for _, point in line.points)

    lines: dict[tuple, Line] = {}
    others: list[Point] = []
    late: list[Point] = []
    for point in found.points:
        value, is_scored = axis.value(point), point.mean(found.main) is not None
        if axis.key == "model.fusion_layer" and point.strategy.is_late:
            late.append(point)
        elif value is None:
            others += [point] * is_scored
        else:
            line = lines.setdefault(in_common(found, axis, point), Line("", point.strategy.kind))
            line.points.append((value, point))
    for name, line in lines.items():
        line.label = ", ".join(name)
        line.points += [(axis.value(p), p) for p in late if in_common(found, axis, p)[1:] == name[1:]]
    chosen = [line for line in lines.values() if len({x for x, p in line.points if p.mean(found.main) is not None}) > 1]
    for line in chosen:
        if all(is_number(value) for value, _ in line.points):
            line.points.sort(key=lambda pair: pair[0])
    if len(chosen) > MOST_LINES:
        best = best_of_each(chosen, lambda line: line.kind, peak)
        chosen = [replace(line, is_best=True) for line in best]
    return chosen, others


def levels_of(found: Comparison, others: Sequence[Point]) -> list[Point]:
    """The points without a place on an axis that are drawn as levels; of too many the best of each strategy."""
    if len(others) <= MOST_LEVELS:
        return list(others)
    return best_of_each(others, lambda point: point.strategy.kind, lambda point: point.mean(found.main) or 0)


def best_of_each(items: Iterable[T], kind: Callable[[T], str], score: Callable[[T], float]) -> list[T]:
    """The first of the best items of each kind."""
    best: dict[str, T] = {}
    for item in items:
        if kind(item) not in best or score(item) > score(best[kind(item)]):
            best[kind(item)] = item
    return list(best.values())


def in_common(found: Comparison, axis: Axis, point: Point) -> tuple[str, ...]:
    """What the points of a line have in common, in words; the strategy comes first."""
    strategy = point.strategy
    name = strategy.name
    if axis.key == "num_bottlenecks" and strategy.num_bottlenecks is not None:
        name = name.replace(f"B = {strategy.num_bottlenecks} ", "")
    names = [name]
    has_layer = strategy.fusion_layer is not None and not strategy.is_late and found.has_layers
    if has_layer and axis.key != "model.fusion_layer":
        names.append(f"L_f = {strategy.fusion_layer}")
    names += [f"{axis_title(key)} {point.labels[key]}" for key in found.axes if key != axis.key]
    return tuple(names)
