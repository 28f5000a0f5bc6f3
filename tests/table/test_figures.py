"""The figures of `mbt table`: which are drawn, of what, and that their text is text."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from made_runs import CROSS, JOINT, bottleneck, configuration, summary_of
from test_paper import MINI, paper_setting
from test_table import made

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from mbt_lightning.runs.read import Run
from mbt_lightning.table.compare import compare
from mbt_lightning.table.figures import axes_of, caption, colours_of, draw, groups, lines_of, scores


def over(runs: list[Run], name: str):
    """Lines over an axis, and the points without a place on it."""
    found = compare(runs)
    (axis,) = [axis for axis in axes_of(found) if axis.name == name]
    lines, others = lines_of(found, axis)
    return found, axis, {line.label: [x for x, _ in line.points] for line in lines}, others


LAYERS = [
    *(made(seed, 0.6 + layer / 100, model__fusion_layer=layer) for layer in (8, 0, 12) for seed in (0, 1)),
    *(made(0, 0.5 + layer / 100, model__fusion=CROSS, model__fusion_layer=layer) for layer in (4, 0)),
    made(0, 0.5, model__modalities=["rgb"]),
]


def test_late_fusion_is_where_every_line_ends() -> None:
    _, _, lines, others = over(LAYERS, "fusion_layer")
    assert lines == {"cross-attention": [0, 4, 12], "bottleneck B = 4 (sequential)": [0, 8, 12]}
    assert [point.strategy for point in others] == ["rgb only"]


def test_lines_over_b_are_of_the_bottleneck_alone() -> None:
    runs = [made(model__fusion=bottleneck(b, update)) for b in (64, 4, 16) for update in ("sequential", "symmetric")]
    _, axis, lines, others = over([*runs, made(model__fusion=JOINT)], "bottlenecks")
    assert lines == {"bottleneck (sequential)": [4, 16, 64], "bottleneck (symmetric)": [4, 16, 64]}
    assert [point.kind for point in others] == ["joint self-attention"] and axis.is_log
    assert over(runs[:1], "bottlenecks")[2] == {}, "one value is no line"


def test_lines_over_another_setting_have_all_else_in_common() -> None:
    runs = [
        made(model__modalities=list(m), model__fusion_layer=layer, data__window_seconds=t)
        for t in (3.2, 0.8, 1.6)
        for m, layer in ((("rgb",), 8), (("rgb", "spectrogram"), 4), (("rgb", "spectrogram"), 8))
    ]
    _, axis, lines, others = over(runs, "window_seconds")
    names = ["rgb only", "bottleneck B = 4 (sequential), L_f = 4", "bottleneck B = 4 (sequential), L_f = 8"]
    assert lines == {name: [0.8, 1.6, 3.2] for name in names} and others == [] and axis.title == "window (s)"


def test_too_many_lines_leave_the_best_of_each_strategy() -> None:
    runs = [
        made(0, 0.5 + layer / 100, model__fusion=fusion, model__fusion_layer=layer, data__window_seconds=t)
        for layer in range(6)
        for fusion in (bottleneck(), CROSS)
        for t in (1.6, 3.2)
    ]
    found, axis, lines, _ = over(runs, "window_seconds")
    assert caption(found, *lines_of(found, axis)) == "test, mean of 1 seed; of each strategy its best line"
    assert sorted(lines) == ["bottleneck B = 4 (sequential), L_f = 5", "cross-attention, L_f = 5"]


def test_of_too_many_levels_the_best_of_each_strategy_are_left_and_named() -> None:
    """With their layers, where these vary."""
    wide = [made(0, 0.5 + b / 1000, model__fusion=bottleneck(b)) for b in (4, 8)]
    cross = [made(0, 0.4 + layer / 100, model__fusion=CROSS, model__fusion_layer=layer) for layer in range(8)]
    runs = [*wide, *cross, made(0, 0.3, model__fusion_layer=12)]
    (panel,) = drawn(runs, "bottlenecks").axes
    names = {text.get_text().replace("\n", " ") for text in panel.texts}
    assert names == {"bottleneck (sequential), $L_f$ = 8", "cross-attention, $L_f$ = 7", "late fusion"}
    found, axis = compare(runs), axes_of(compare(runs))[1]
    assert "dotted: the best of each strategy, 7 left out" in caption(found, *lines_of(found, axis))
    (panel,) = drawn(runs[:6], "bottlenecks").axes
    assert {f"cross-attention, $L_f$ = {layer}" for layer in range(4)} <= {t.get_text() for t in panel.texts}


def test_of_too_many_groups_it_is_said_that_some_are_left_out() -> None:
    tests = {f"fused/mAP/group {i}": i / 20 for i in range(11)} | {"score": 0.7, "fused/mAP": 0.7}
    found = compare([made(model__fusion_layer=layer, parts={"test": tests}) for layer in (0, 4)])
    axis = axes_of(found)[0]
    figure = groups(found, axis, *lines_of(found, axis))
    assert figure.get_suptitle() == "9 of 11 groups, the others are in the table"


def test_a_line_breaks_where_there_is_no_score() -> None:
    failed = Run("f", "runs/f", "failed", configuration(model__fusion_layer=4), {}, "boom")
    (panel,) = drawn([*(made(0, 0.5, model__fusion_layer=n) for n in (0, 2, 6, 8)), failed], "fusion_layer").axes
    (line,) = panel.lines
    assert [*line.get_xdata()] == [0, 2, 4, 6, 8] and [y for y in line.get_ydata() if y == y] == [50] * 4
    assert line.get_ydata()[2] != line.get_ydata()[2], "NaN"


def test_lines_that_coincide_are_all_seen() -> None:
    """What is drawn first is wider; lines that meet in late fusion alone are as they are."""
    runs = [
        made(0, 0.7 - layer / 100, model__fusion=f, model__fusion_layer=layer)
        for f in (bottleneck(), CROSS, JOINT)
        for layer in (0, 4)
    ]
    (panel,) = drawn(runs, "fusion_layer").axes
    widths = [line.get_linewidth() for line in panel.lines]
    assert widths == sorted(widths, reverse=True) and len({*widths}) == 3 and widths[-1] == pytest.approx(1.6)
    (panel,) = drawn(LAYERS, "fusion_layer").axes
    assert {line.get_linewidth() for line in panel.lines[:2]} == {1.6}


def drawn(runs: list[Run], name: str) -> Figure:
    found = compare(runs)
    (axis,) = [axis for axis in axes_of(found) if axis.name == name]
    return scores(found, axis, *lines_of(found, axis))


def test_what_is_drawn_is_what_was_scored() -> None:
    (panel,) = drawn(LAYERS, "fusion_layer").axes
    curves = {tuple(line.get_xdata()): list(line.get_ydata()) for line in panel.lines}
    assert curves[0, 8, 12] == pytest.approx([60, 68, 72]) and curves[0, 4, 12] == pytest.approx([50, 54, 72])
    labels = {text.get_text() for text in panel.texts}
    assert labels == {"bottleneck B = 4 (sequential)", "cross-attention", "late fusion", "rgb only"}
    heights = sorted(text.xy[1] for text in panel.texts)
    bottom, top = panel.get_ylim()
    assert min(b - a for a, b in pairwise(heights)) > 0.05 * (top - bottom), "names do not overlap"


def test_the_band_is_the_spread_over_seeds() -> None:
    runs = [
        made(seed, 0.5 + seed / 50 + layer / 100, model__fusion_layer=layer) for layer in (0, 4) for seed in (0, 1, 2)
    ]
    (panel,) = drawn(runs, "fusion_layer").axes
    (band,) = panel.collections
    low, high = band.get_datalim(panel.transData).intervaly
    assert (low, high) == pytest.approx((52 - 2, 56 + 2))
    found, axis = compare(runs), axes_of(compare(runs))[0]
    assert caption(found, *lines_of(found, axis)) == "test, mean of 3 seeds, band: ± standard deviation"


def test_the_papers_curve_is_drawn_where_the_setting_is_the_papers() -> None:
    def point(layer: int, **settings) -> Run:
        config = paper_setting(model__fusion_layer=layer, data__window_seconds=4.0, **settings)
        return Run(str(layer), f"runs/{layer}", "finished", config, summary_of(config, 0.4 + layer / 1000, data=MINI))

    dashed = [line for line in drawn([point(x) for x in (0, 4, 8)], "fusion_layer").axes[0].lines if line.is_dashed()]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in dashed] == [([0, 4, 8], [40.76, 40.96, 42.44])]
    others = drawn([point(x, trainer__max_epochs=5) for x in (0, 4, 8)], "fusion_layer").axes[0].lines
    assert not [line for line in others if line.is_dashed()]


def test_strategies_keep_their_colours() -> None:
    found, axis, *_ = over(LAYERS, "fusion_layer")
    lines, _ = lines_of(found, axis)
    assert dict(zip([line.kind for line in lines], colours_of(lines), strict=True)) == {
        "cross-attention": ("#D55E00", "s"),
        "bottleneck": ("#0072B2", "o"),
    }
    many = [line for line in lines for _ in range(4)]
    assert len(set(colours_of(many))) == len(many)


def test_files(tmp_path: Path) -> None:
    names = draw(compare(LAYERS), tmp_path)
    assert names == [
        "score_over_fusion_layer",
        "groups_over_fusion_layer",
        "gflops_over_fusion_layer",
        "score_over_gflops",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    svg = (tmp_path / "score_over_fusion_layer.svg").read_text()
    assert "bottleneck B = 4 (sequential)</text>" in svg and "late fusion</text>" in svg, "text is text"
    png = (tmp_path / "score_over_fusion_layer.png").read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == round(6.2 * 200)
    first = {name: (tmp_path / f"{name}.svg").read_text() for name in names}
    draw(compare(LAYERS), tmp_path)
    again = {name: (tmp_path / f"{name}.svg").read_text() for name in names}
    assert {n: re.sub(r"\s", "", x) for n, x in first.items()} == {n: re.sub(r"\s", "", x) for n, x in again.items()}


def test_names_are_no_formulas(tmp_path: Path) -> None:
    own = {"class_path": "my.Cost$^", "init_args": {"price": "$_"}}
    runs = [made(0, 0.5, model__fusion=own, model__fusion_layer=layer) for layer in (0, 4)]
    tests = {f"fused/mAP/$_{i}": i / 20 for i in range(3)} | {"score": 0.7, "fused/mAP": 0.7}
    runs += [made(0, parts={"test": tests}, model__mixup={"class_path": f"my.M$^{i}"}) for i in range(2)]
    names = draw(compare(runs), tmp_path)
    assert {"score_over_mixup", "groups_over_mixup", "score_over_fusion_layer", "score_over_gflops"} <= {*names}
    assert "Cost$^ (price $_)" in (tmp_path / "score_over_fusion_layer.svg").read_text()


def test_nothing_to_draw(tmp_path: Path) -> None:
    assert draw(compare([made(0), made(1)]), tmp_path) == [] and list(tmp_path.iterdir()) == []
    waiting = Run("w", "runs/w", "waiting", configuration(model__fusion_layer=2), {})
    assert draw(compare([waiting]), tmp_path) == []


def test_words_are_an_axis_too(tmp_path: Path) -> None:
    mixups = [None, {"class_path": "Mixup", "init_args": {"alpha": 0.3}}]
    assert "score_over_mixup" in draw(compare([made(model__mixup=mixup) for mixup in mixups]), tmp_path)
