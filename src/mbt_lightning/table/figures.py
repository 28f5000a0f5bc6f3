"""Figures of a table, as PNG and as SVG whose text is text. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from mbt_lightning.table.columns import axis_title, paper_gap
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.points import Point
from mbt_lightning.table.significance import pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
"""Okabe and Ito's, which colour-blind readers tell apart, and two more."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
MAIN_COLOUR = {"bottleneck": 0, "cross-attention": 1, "joint self-attention": 2}
GREY = "#6b6b6b"
MOST_LINES = 8
MOST_LEVELS = 6
MOST_GROUPS = 9

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mbt",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


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
    points: list[tuple[float, Point]] = field(default_factory=list)
    is_best: bool = False


def draw(found: Comparison, out: Path) -> list[str]:
    """Draw all figures that have something to show.

    Args:
        found: the table's points.
        out: folder that the files are written into.

    Returns:
        Names of the figures, each of which is `<name>.png` and `<name>.svg` there.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figures: dict[str, Figure] = {}
        for axis in axes_of(found):
            lines, others = lines_of(found, axis)
            if not lines:
                continue
            figures[f"score_over_{axis.name}"] = scores(found, axis, lines, others)
            if found.groups:
                figures[f"groups_over_{axis.name}"] = groups(found, axis, lines, others)
            if axis.name == "fusion_layer" and any(p.gflops for line in lines for _, p in line.points):
                figures[f"gflops_over_{axis.name}"] = costs(axis, lines)
        costed = [p for p in found.points if p.gflops and p.mean(found.main) is not None]
        if len({p.gflops for p in costed}) > 1:
            figures["score_over_gflops"] = score_over_cost(found, costed)
        for kind in ("score", "groups", "gflops"):  # of an earlier call, perhaps of other runs
            for old in [*out.glob(f"{kind}_over_*.png"), *out.glob(f"{kind}_over_*.svg")]:
                old.unlink()
        for name, figure in figures.items():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # once is enough
            figure.savefig(out / f"{name}.png", dpi=200)
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    return list(figures)


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn
# ---------------------------------------------------------------------------------------------------------------------


def axes_of(found: Comparison) -> list[Axis]:
    """The settings that points are drawn over."""
    axes = [
        Axis("fusion_layer", "fusion layer $L_f$", lambda p: p.fusion_layer, "model.fusion_layer"),
        Axis("bottlenecks", "bottleneck tokens $B$", lambda p: p.num_bottlenecks, "num_bottlenecks", is_log=True),
    ]
    for key in found.axes:
        if key == "data.manifest":
            axes.append(Axis("clips", "training clips", train_clips, key, is_log=True))
        elif all(is_number(p.settings.get(key)) for p in found.points):
            axes.append(Axis(key.rpartition(".")[2], plain(axis_title(key)), lambda p, key=key: p.settings[key], key))  # type: ignore[misc]
        else:
            axes.append(Axis(key.rpartition(".")[2], plain(axis_title(key)), lambda p, key=key: p.labels[key], key))  # type: ignore[misc]
    return axes


def is_number(value: Any) -> bool:
    """Whether a setting is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def train_clips(point: Point) -> float | None:
    """Number of clips that a point is trained on."""
    found = point.about("data", "clips", "train")
    return found[0] if found else None


def lines_of(found: Comparison, axis: Axis) -> tuple[list[Line], list[Point]]:
    """Lines over a setting, and the points for which it has no meaning.

    Late fusion is where every strategy's line over L_f ends. Of more lines than can be told apart each strategy keeps
    its best.
    """
    over_layers = axis.key == "model.fusion_layer"
    lines: dict[tuple, Line] = {}
    others: list[Point] = []
    late: list[Point] = []
    for point in found.points:
        value, is_scored = axis.value(point), point.mean(found.main) is not None
        if over_layers and point.kind == "late fusion":
            late.append(point)
        elif value is None:
            others += [point] * is_scored
        else:
            lines.setdefault(in_common(found, axis, point), Line("", point.kind)).points.append((value, point))
    for name, line in lines.items():
        line.label = ", ".join(name)
        line.points += [(axis.value(p), p) for p in late if in_common(found, axis, p)[1:] == name[1:]]
    chosen = [
        line
        for line in lines.values()
        if len({value for value, p in line.points if p.mean(found.main) is not None}) > 1
    ]
    for line in chosen:
        if all(is_number(value) for value, _ in line.points):
            line.points.sort(key=lambda pair: pair[0])
    if len(chosen) > MOST_LINES:
        best: dict[str, Line] = {}
        for line in chosen:
            if line.kind not in best or peak(found, line) > peak(found, best[line.kind]):
                best[line.kind] = line
        chosen = [replace(line, is_best=True) for line in best.values()]
    return chosen, others


def peak(found: Comparison, line: Line) -> float:
    """The best score on a line."""
    return max(point.mean(found.main) or 0 for _, point in line.points)


def levels_of(found: Comparison, others: Sequence[Point]) -> list[Point]:
    """The points without a place on an axis that are drawn as levels; of too many the best of each strategy."""
    if len(others) <= MOST_LEVELS:
        return list(others)
    best: dict[str, Point] = {}
    for point in others:
        if point.kind not in best or (point.mean(found.main) or 0) > (best[point.kind].mean(found.main) or 0):
            best[point.kind] = point
    return list(best.values())


def level_name(found: Comparison, point: Point) -> str:
    """What a level is called."""
    has_layer = found.has_layers and point.fusion_layer is not None and point.kind != "late fusion"
    layer = [f"L_f = {point.fusion_layer}"] if has_layer else []
    return ", ".join([point.strategy, *layer, *(f"{axis_title(key)} {label}" for key, label in point.labels.items())])


def in_common(found: Comparison, axis: Axis, point: Point) -> tuple[str, ...]:
    """What the points of a line have in common, in words; the strategy comes first."""
    strategy = point.strategy
    if axis.key == "num_bottlenecks" and point.num_bottlenecks is not None:
        strategy = strategy.replace(f"B = {point.num_bottlenecks} ", "")
    names = [strategy]
    has_layer = point.fusion_layer is not None and point.kind != "late fusion" and found.has_layers
    if has_layer and axis.key != "model.fusion_layer":
        names.append(f"L_f = {point.fusion_layer}")
    names += [f"{axis_title(key)} {point.labels[key]}" for key in found.axes if key != axis.key]
    return tuple(names)


def colours_of(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Colour and marker of each line: the strategies have their own, as far as that goes."""
    free = [i for i in range(len(COLOURS)) if i not in {MAIN_COLOUR.get(line.kind) for line in lines}]
    chosen: list[tuple[str, str]] = []
    taken: set[int] = set()
    for line in lines:
        own = MAIN_COLOUR.get(line.kind)
        number = own if own is not None and own not in taken else free.pop(0) if free else len(taken) % len(COLOURS)
        taken.add(number)
        chosen.append((COLOURS[number], MARKERS[number]))
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------------------------------------------------


def scores(found: Comparison, axis: Axis, lines: Sequence[Line], others: Sequence[Point]) -> Figure:
    """The score over a setting, a line a strategy, with the spread over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    panel = figure.subplots()
    score_panel(panel, found, axis, lines, others, found.main, has_labels=True)
    panel.set_ylabel(f"{plain(found.score)} (%)")
    panel.set_xlabel(axis.title)
    panel.set_title(caption(found, lines, others), fontsize=8, color=GREY, loc="left")
    return figure


def caption(found: Comparison, lines: Sequence[Line], others: Sequence[Point]) -> str:
    """What line and band are, and how many seeds they are of."""
    levels = levels_of(found, others)
    counts = {len(p.values(found.main)) for p in [*(p for line in lines for _, p in line.points), *levels]} - {0}
    seeds = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}–{max(counts)}"
    text = f"test, mean of {seeds} seed{'s' * (seeds != '1')}"
    text += ", band: ± standard deviation" * (max(counts) > 1)
    text += "; of each strategy its best line" * any(line.is_best for line in lines)
    text += f"; dotted: the best of each strategy, {len(others) - len(levels)} left out" * (len(levels) < len(others))
    return text + ("; dashed: paper" if any(p.paper for line in lines for _, p in line.points) else "")


def score_panel(
    panel: Axes,
    found: Comparison,
    axis: Axis,
    lines: Sequence[Line],
    others: Sequence[Point],
    name: str,
    has_labels: bool,
) -> None:
    """Draw the lines of one score, and the points without a place on the axis as levels."""
    ends: list[tuple[float, str, str]] = []
    late: dict[str, float] = {}
    hidden = hidden_by(lines, name)
    for line, (colour, marker), below in zip(lines, colours_of(lines), hidden, strict=True):
        drawn = [(x, p) for x, p in line.points if p.mean(name) is not None]
        if not drawn:
            continue
        xs = [x for x, _ in line.points]
        heights = heights_of(line, name)  # broken where there is no score
        means = [100 * (p.mean(name) or 0) for _, p in drawn]
        stds = [100 * (p.std(name) or 0) for _, p in line.points]
        low, high = ([m + sign * s for m, s in zip(heights, stds, strict=True)] for sign in (-1, 1))
        panel.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
        width: dict[str, Any] = {"linewidth": 1.6 + 2.2 * below, "markersize": 5 + 2.8 * below}
        panel.plot(xs, heights, color=colour, marker=marker, markeredgecolor="white", markeredgewidth=0.6, **width)
        theirs = (
            [(x, p.paper.score) for x, p in drawn if p.paper and paper_gap(p) is not None] if name == found.main else []
        )
        if theirs:
            panel.plot(
                *zip(*theirs, strict=True), color=colour, linestyle=(0, (4, 2)), linewidth=1, marker=".", alpha=0.8
            )
        ends_late = axis.key == "model.fusion_layer" and drawn[-1][1].kind == "late fusion"
        ends.append((means[-2 if ends_late and len(means) > 1 else -1], line.label, colour))
        if ends_late:  # where all lines meet
            late[", ".join(["late fusion", *drawn[-1][1].labels.values()])] = means[-1]
    ends += [(height, label, "#222222") for label, height in late.items()]
    for point in levels_of(found, others):
        if (mean := point.mean(name)) is not None:
            panel.axhline(100 * mean, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
            ends.append((100 * mean, level_name(found, point), GREY))
    scale(panel, axis, [x for line in lines for x, _ in line.points])
    if has_labels:
        label_ends(panel, ends)


def heights_of(line: Line, name: str) -> list[float]:
    """The scores on a line, per cent; NaN where there is none."""
    return [nan if (mean := point.mean(name)) is None else 100 * mean for _, point in line.points]


def hidden_by(lines: Sequence[Line], name: str) -> list[int]:
    """How many lines that are drawn later would hide a part of each: it is drawn so much wider."""
    curves = [dict(zip([x for x, _ in line.points], heights_of(line, name), strict=True)) for line in lines]
    known = [y for curve in curves for y in curve.values() if isfinite(y)]
    near = 0.01 * (max(known, default=0.0) - min(known, default=0.0))

    def hides(one: dict, other: dict) -> bool:
        same = [x in other and abs(y - other[x]) <= near for x, y in one.items()]
        return any(a and b for a, b in pairwise(same))

    return [sum(hides(curve, later) for later in curves[place + 1 :]) for place, curve in enumerate(curves)]


def scale(panel: Axes, axis: Axis, xs: Sequence[Any]) -> None:
    """A tick at every value that there is."""
    if not all(is_number(x) for x in xs):
        names = list(dict.fromkeys(xs))
        panel.margins(x=0.08)
        panel.set_xticks(names, [fill(plain(name), 14, break_long_words=False) for name in names])
        return
    ticks = sorted(set(xs))
    if axis.is_log:
        panel.set_xscale("log", base=2)
        panel.minorticks_off()
    if len(ticks) <= 14:
        panel.set_xticks(ticks, [f"{x:g}" if x < 1e4 else f"{x:,.0f}" for x in ticks])


def label_ends(panel: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name beside its end, moved up or down as far as the names need."""
    panel.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]  # settles the limits
    bottom, top = panel.get_ylim()
    wanted = [(height, wrapped(label), colour) for height, label, colour in sorted(ends, key=lambda end: end[0])]
    points = panel.get_window_extent().height * 72 / panel.get_figure(root=True).dpi  # type: ignore[union-attr]
    sizes = [(top - bottom) * (5 * text.count("\n") + 6) / points for _, text, _ in wanted]  # half a label's height
    places: list[float] = []
    for i, (height, _, _) in enumerate(wanted):
        places.append(max(height, places[-1] + sizes[i - 1] + sizes[i]) if places else height)
    excess = max(0.0, (places[-1] if places else 0) - top)
    for i in range(len(places) - 1, -1, -1):  # what grew over the top is pushed down again
        limit = places[i + 1] - sizes[i + 1] - sizes[i] if i + 1 < len(places) else places[i] - excess
        places[i] = min(places[i], limit)
    for place, (_, text, colour) in zip(places, wanted, strict=True):
        panel.annotate(
            text,
            (1, place),
            xytext=(6, 0),
            xycoords=panel.get_yaxis_transform(),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=8,
        )


def plain(text: str) -> str:
    """Text in which matplotlib takes nothing for a formula."""
    return text.replace("$", r"\$")


def wrapped(label: str) -> str:
    """A label in lines that leave room for the figure."""
    kept = plain(label).replace(" = ", "\u00a0=\u00a0")  # not to be broken
    return fill(kept, 30, break_long_words=False).replace("\u00a0", " ").replace("L_f", "$L_f$")


def groups(found: Comparison, axis: Axis, lines: Sequence[Line], others: Sequence[Point]) -> Figure:
    """The same for each group of classes, side by side."""
    from matplotlib.figure import Figure

    names = found.groups[:MOST_GROUPS]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(0.4 + 2.2 * columns + 2.0, 0.5 + 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for i, (panel, group) in enumerate(zip(panels, names, strict=False)):
        is_last = i == len(names) - 1
        score_panel(panel, found, axis, lines, others, f"{found.main}/{group}", has_labels=is_last)
        panel.set_title(plain(group), fontsize=9, loc="left")
        panel.set_xlabel(axis.title if i >= len(names) - columns else "")
        panel.set_ylabel(f"{plain(found.score)} (%)" if i % columns == 0 else "")
    for panel in list(panels)[len(names) :]:
        panel.set_visible(False)
    notes = [f"{len(names)} of {len(found.groups)} groups, the others are in the table"] * (
        len(names) < len(found.groups)
    )
    if left_out := len(others) - len(levels_of(found, others)):
        notes.append(f"dotted: the best of each strategy, {left_out} left out")
    if notes:
        figure.suptitle("; ".join(notes), fontsize=8, color=GREY, x=0.01, ha="left")
    return figure


def costs(axis: Axis, lines: Sequence[Line]) -> Figure:
    """GFLOPs over L_f, as this program runs it and as the authors' code would."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    panel = figure.subplots()
    has_theirs = False
    styled = list(zip(lines, colours_of(lines), strict=True))
    for line, (colour, marker) in styled:
        ours = [(x, p.gflops or nan) for x, p in line.points if any(q.gflops for _, q in line.points)]
        theirs = [(x, p.gflops_as_coded or nan) for x, p in line.points]
        if ours:
            panel.plot(
                *zip(*ours, strict=True), color=colour, marker=marker, markeredgecolor="white", markeredgewidth=0.6
            )
        if sum(isfinite(y) for _, y in theirs) > 1:
            has_theirs = True
            panel.plot(*zip(*theirs, strict=True), color=colour, linestyle=(0, (4, 2)), linewidth=1.2)
    panel.set_ylabel("GFLOPs a clip")
    panel.set_xlabel(axis.title)
    scale(panel, axis, [x for line in lines for x, _ in line.points])
    handles = [Line2D([], [], color=colour, marker=m, label=wrapped(line.label)) for line, (colour, m) in styled]
    panel.legend(handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    told = "multiply-adds, as this program runs it" + "; dashed: as in the authors' code" * has_theirs
    panel.set_title(told, fontsize=8, color=GREY, loc="left")
    return figure


def score_over_cost(found: Comparison, points: Sequence[Point]) -> Figure:
    """The score over GFLOPs; a grey line joins the points that no other beats in both."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    panel = figure.subplots()
    places = [(p.gflops or 0.0, 100 * (p.mean(found.main) or 0)) for p in points]
    optimal = pareto(places)
    kinds = list(dict.fromkeys(p.kind for p in points))
    handles = []
    for kind, (colour, marker) in zip(kinds, colours_of([Line(k, k) for k in kinds]), strict=True):
        own = [(x, y, best) for (x, y), best, p in zip(places, optimal, points, strict=True) if p.kind == kind]
        panel.scatter(
            [x for x, _, _ in own],
            [y for _, y, _ in own],
            s=34,
            marker=marker,
            facecolors=[colour if best else "white" for _, _, best in own],
            edgecolors=colour,
            linewidths=1.2,
            zorder=3,
        )
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="", label=plain(kind)))
    front = sorted(place for place, best in zip(places, optimal, strict=True) if best)
    panel.plot(*zip(*front, strict=True), color="#b0b0b0", linewidth=1, zorder=1)
    label_front(panel, found, places, optimal, points)
    if max(x for x, _ in places) > 4 * min(x for x, _ in places):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.minorticks_off()
    else:
        panel.xaxis.set_major_locator(MaxNLocator(6))
    panel.set_xlabel("GFLOPs a clip, as run")
    panel.set_ylabel(f"{plain(found.score)} (%)")
    panel.set_title(
        "filled: Pareto-optimal, no other point is as cheap and as good", fontsize=8, color=GREY, loc="left"
    )
    panel.legend(handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def label_front(
    panel: Axes,
    found: Comparison,
    places: Sequence[tuple[float, float]],
    optimal: Sequence[bool],
    points: Sequence[Point],
) -> None:
    """Say of optimal points what distinguishes them, the best first, as far as there is room."""
    has_layers = len({p.fusion_layer for p in points if p.kind != "late fusion"} - {None}) > 1
    has_tokens = len({p.num_bottlenecks for p in points} - {None}) > 1
    left = min(x for x, _ in places)
    width = max(x for x, _ in places) - left
    height = max(y for _, y in places) - min(y for _, y in places)
    taken: list[tuple[float, float]] = []
    for best, (x, y), point in sorted(zip(optimal, places, points, strict=True), key=lambda one: -one[1][1]):
        words = [f"$L_f$ = {point.fusion_layer}"] if has_layers and point.fusion_layer is not None else []
        words += [f"$B$ = {point.num_bottlenecks}"] if has_tokens and point.num_bottlenecks is not None else []
        words += (
            [plain(f"{axis_title(key)} {label}") for key, label in point.labels.items()]
            if len(point.labels) < 2
            else []
        )
        is_free = all(abs(x - a) > 0.16 * width or abs(y - b) > 0.05 * height for a, b in taken)
        if best and words and is_free and point.kind != "late fusion":
            taken.append((x, y))
            side, gap = ("left", 6) if x < left + 0.4 * width else ("right", -6)
            style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": GREY, "ha": side}
            panel.annotate(", ".join(words), (x, y), xytext=(gap, 3), **style)
