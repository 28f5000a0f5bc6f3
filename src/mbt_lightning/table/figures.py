"""Figures of a table, as PNG, PDF and SVG whose text is text. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from mbt_lightning.table.columns import paper_gap
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.points import Point
from mbt_lightning.table.series import Axis, Line, axes_of, is_number, levels_of, lines_of
from mbt_lightning.table.significance import pareto
from mbt_lightning.table.strategies import line_styles, styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#6b6b6b"
MOST_GROUPS = 9
DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))

FORMATS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
"""What a figure is saved as."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mbt",
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "mathtext.default": "regular",  # one font less to embed, which takes a quarter of a second
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.titlesize": 9,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "lines.markeredgecolor": "white",
    "lines.markeredgewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def draw(found: Comparison, out: Path) -> list[str]:
    """Draw all figures that have something to show.

    Args:
        found: the table's points.
        out: folder that the files are written into.

    Returns:
        Names of the figures, each of which is `<name>.png`, `<name>.svg` and `<name>.pdf` there.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figures: dict[str, Figure] = {}
        for axis in axes_of(found):
            lines, others = lines_of(found, axis)
            if not lines:
                continue
            figures[f"score_over_{axis.name}"] = score_figure(found, axis, lines, others)
            if found.groups:
                figures[f"groups_over_{axis.name}"] = group_figure(found, axis, lines, others)
            if axis.name == "fusion_layer" and any(p.gflops for line in lines for _, p in line.points):
                figures[f"gflops_over_{axis.name}"] = gflops_figure(found, axis, lines)
        costed = [p for p in found.points if p.gflops and p.mean(found.main) is not None]
        if len({p.gflops for p in costed}) > 1:
            figures["score_over_gflops"] = cost_figure(found, costed)
        for kind in ("score", "groups", "gflops"):  # of an earlier call, perhaps of other runs
            for old in (path for ending in FORMATS for path in out.glob(f"{kind}_over_*.{ending}")):
                old.unlink()
        for name, figure in figures.items():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # once is enough
            for ending, options in FORMATS.items():
                figure.savefig(out / f"{name}.{ending}", **options)
    return list(figures)


# ---------------------------------------------------------------------------------------------------------------------
# Scores over a setting
# ---------------------------------------------------------------------------------------------------------------------


def score_figure(found: Comparison, axis: Axis, lines: Sequence[Line], others: Sequence[Point]) -> Figure:
    """The score over a setting, a line a strategy, with the spread over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    panel = figure.subplots()
    score_panel(panel, found, axis, lines, others, found.main)
    panel.set_ylabel(f"{plain(found.score)} (%)")
    panel.set_xlabel(axis.title)
    add_caption(figure, caption(found, lines, others))
    figure.legend(loc="outside right upper")
    return figure


def group_figure(found: Comparison, axis: Axis, lines: Sequence[Line], others: Sequence[Point]) -> Figure:
    """The same for each group of classes, side by side."""
    from matplotlib.figure import Figure

    names = found.groups[:MOST_GROUPS]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(0.4 + 2.2 * columns + 2.0, 0.5 + 2.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for i, (panel, group) in enumerate(zip(panels, names, strict=False)):
        score_panel(panel, found, axis, lines, others, f"{found.main}/{group}")
        panel.set_title(plain(group), loc="left")
        panel.set_xlabel(axis.title if i >= len(names) - columns else "")
        panel.set_ylabel(f"{plain(found.score)} (%)" if i % columns == 0 else "")
    for panel in list(panels)[len(names) :]:
        panel.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    notes = []
    if len(names) < len(found.groups):
        notes.append(f"{len(names)} of {len(found.groups)} groups, the others are in the table")
    if omitted := len(others) - len(levels_of(found, others)):
        notes.append(f"dotted: the best of each strategy, {omitted} omitted")
    if notes:
        add_caption(figure, "; ".join(notes))
    return figure


def caption(found: Comparison, lines: Sequence[Line], others: Sequence[Point]) -> str:
    """What lines and bands are, and over how many seeds."""
    levels = levels_of(found, others)
    counts = {p.count(found.main) for p in [*(p for line in lines for _, p in line.points), *levels]} - {0}
    seeds = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)}–{max(counts)}"
    parts = [f"test, mean of {seeds} seed{'s' * (seeds != '1')}"]
    if max(counts) > 1:
        parts[0] += ", band: ± standard deviation"
    if any(p.strategy.is_late for line in lines for _, p in line.points):
        parts.append("at the end: late fusion")
    if any(line.is_best for line in lines):
        parts.append("the best line of each strategy")
    if len(levels) < len(others):
        parts.append(f"dotted: the best of each strategy, {len(others) - len(levels)} omitted")
    if any(p.paper for line in lines for _, p in line.points):
        parts.append("dashed: paper")
    return "; ".join(parts)


def add_caption(figure: Figure, text: str) -> None:
    """Write above a figure what it shows."""
    figure.suptitle(fill(text, 110), fontsize=8, color=GREY, x=0.01, ha="left")


def score_panel(
    panel: Axes, found: Comparison, axis: Axis, lines: Sequence[Line], others: Sequence[Point], name: str
) -> None:
    """Draw the lines of one score, and the points without a place on the axis as dotted levels."""
    levels = levels_of(found, others)
    kinds = [line.kind for line in lines] + [point.strategy.kind for point in levels]
    chosen = line_styles(kinds, styles(point.strategy.kind for point in found.points))
    for line, (colour, marker), hidden in zip(lines, chosen, hidden_by(lines, name), strict=False):
        xs, heights = [x for x, _ in line.points], heights_of(line, name)
        stds = [100 * (p.std(name) or 0) for _, p in line.points]
        low, high = ([m + sign * s for m, s in zip(heights, stds, strict=True)] for sign in (-1, 1))
        panel.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
        wider: dict[str, Any] = {"linewidth": 1.6 + 2.2 * hidden, "markersize": 5 + 2.8 * hidden}
        panel.plot(xs, heights, color=colour, marker=marker, label=wrapped(line.label), **wider)
        theirs = [(x, p.paper.score) for x, p in line.points if p.paper and paper_gap(p) is not None]
        if theirs and name == found.main:
            panel.plot(*zip(*theirs, strict=True), color=colour, linestyle=DASHED, linewidth=1, marker=".", alpha=0.8)
    for point, (colour, _) in zip(levels, chosen[len(lines) :], strict=True):
        if (mean := point.mean(name)) is not None:
            label = wrapped(found.name_of(point))
            panel.axhline(100 * mean, color=colour, linewidth=1.2, linestyle=DOTTED, label=label)
    scale(panel, axis, [x for line in lines for x, _ in line.points])


def heights_of(line: Line, name: str) -> list[float]:
    """The scores on a line, per cent; NaN, which breaks the line, where there is none."""
    return [nan if (mean := point.mean(name)) is None else 100 * mean for _, point in line.points]


def hidden_by(lines: Sequence[Line], name: str) -> list[int]:
    """How many lines that are drawn later would hide a part of each, which is drawn so much wider."""
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


def plain(text: str) -> str:
    """Text in which matplotlib takes nothing for a formula."""
    return text.replace("$", r"\$")


def wrapped(label: str) -> str:
    """A label in lines that leave room for the figure."""
    kept = plain(label).replace(" = ", "\u00a0=\u00a0")  # not to be broken
    return fill(kept, 30, break_long_words=False).replace("\u00a0", " ").replace("L_f", "$L_f$")


# ---------------------------------------------------------------------------------------------------------------------
# Costs
# ---------------------------------------------------------------------------------------------------------------------


def gflops_figure(found: Comparison, axis: Axis, lines: Sequence[Line]) -> Figure:
    """GFLOPs over L_f, as this program runs it and as the authors' code would."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    panel = figure.subplots()
    has_theirs = False
    chosen = line_styles([line.kind for line in lines], styles(point.strategy.kind for point in found.points))
    for line, (colour, marker) in zip(lines, chosen, strict=True):
        xs = [x for x, _ in line.points]
        panel.plot(
            xs, [p.gflops or nan for _, p in line.points], color=colour, marker=marker, label=wrapped(line.label)
        )
        theirs = [p.gflops_as_coded or nan for _, p in line.points]
        if sum(map(isfinite, theirs)) > 1:
            has_theirs = True
            panel.plot(xs, theirs, color=colour, linestyle=DASHED, linewidth=1.2)
    panel.set_ylabel("GFLOPs a clip")
    panel.set_xlabel(axis.title)
    scale(panel, axis, [x for line in lines for x, _ in line.points])
    add_caption(figure, "multiply-adds, as this program runs it" + "; dashed: as in the authors' code" * has_theirs)
    figure.legend(loc="outside right upper")
    return figure


def cost_figure(found: Comparison, points: Sequence[Point]) -> Figure:
    """The score over GFLOPs; a grey line joins the points that no other beats in both."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    panel = figure.subplots()
    places = [(p.gflops or 0.0, 100 * (p.mean(found.main) or 0)) for p in points]
    optimal = pareto(places)
    for kind, (colour, marker) in styles(point.strategy.kind for point in found.points).items():
        own = [
            (*place, best) for place, best, p in zip(places, optimal, points, strict=True) if p.strategy.kind == kind
        ]
        if own:
            xs, ys, are_best = zip(*own, strict=True)
            faces = [colour if best else "white" for best in are_best]
            panel.scatter(xs, ys, s=34, marker=marker, facecolors=faces, edgecolors=colour, linewidths=1.2, zorder=3)
            panel.scatter([], [], s=34, marker=marker, color=colour, label=wrapped(kind))
    front = sorted(place for place, best in zip(places, optimal, strict=True) if best)
    panel.plot(*zip(*front, strict=True), color="#b0b0b0", linewidth=1, zorder=1)
    label_optimal(panel, found, [(*place, p) for place, best, p in zip(places, optimal, points, strict=True) if best])
    if max(x for x, _ in places) > 4 * min(x for x, _ in places):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.minorticks_off()
    else:
        panel.xaxis.set_major_locator(MaxNLocator(6))
    panel.set_xlabel("GFLOPs a clip, as run")
    panel.set_ylabel(f"{plain(found.score)} (%)")
    add_caption(figure, "filled: Pareto-optimal, no other point is as cheap and as good")
    figure.legend(loc="outside right upper")
    return figure


def label_optimal(panel: Axes, found: Comparison, optimal: Sequence[tuple[float, float, Point]]) -> None:
    """Write beside optimal points which of their strategy they are, the best first, as far as there is room."""
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    taken: list[tuple[float, float]] = []
    for x, y, point in sorted(optimal, key=lambda place: -place[1]):
        layer, tokens = point.strategy.fusion_layer, point.strategy.num_bottlenecks
        words = [f"$L_f$ = {layer}"] if found.has_layers and layer is not None else []
        words += (
            [f"$B$ = {tokens}"]
            if len({p.strategy.num_bottlenecks for p in found.points} - {None}) > 1 and tokens
            else []
        )
        is_free = all(abs(x - a) > 0.16 * (right - left) or abs(y - b) > 0.05 * (top - bottom) for a, b in taken)
        if words and is_free and not point.strategy.is_late:
            taken.append((x, y))
            side, gap = ("left", 6) if x < left + 0.4 * (right - left) else ("right", -6)
            style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": GREY, "ha": side}
            panel.annotate(", ".join(words), (x, y), xytext=(gap, 3), **style)
