"""The figures of `mbt table`: which are drawn, of what, and that their text is text."""

import re
from pathlib import Path

import pytest
from made_runs import CROSS, JOINT, bottleneck, made, paper_run, unscored
from matplotlib.axes import Axes

from mbt_lightning.runs.read import Run
from mbt_lightning.table.compare import compare
from mbt_lightning.table.figures import caption, draw, group_figure, score_figure
from mbt_lightning.table.series import Axis, axes_of, lines_of

LAYERS = [
    *(made(seed, 0.6 + layer / 100, model__fusion_layer=layer) for layer in (8, 0, 12) for seed in (0, 1)),
    *(made(0, 0.5 + layer / 100, model__fusion=CROSS, model__fusion_layer=layer) for layer in (4, 0)),
    made(0, 0.5, model__modalities=["rgb"]),
]


def axis_of(runs: list[Run], name: str) -> Axis:
    (axis,) = [axis for axis in axes_of(compare(runs)) if axis.name == name]
    return axis


def over(runs: list[Run], name: str) -> tuple[dict[str, list], list[str]]:
    """Labels and values of the lines over an axis, and the strategies without a place on it."""
    lines, others = lines_of(compare(runs), axis_of(runs, name))
    return {line.label: [x for x, _ in line.points] for line in lines}, [point.strategy.name for point in others]


def caption_of(runs: list[Run], name: str) -> str:
    found = compare(runs)
    return caption(found, *lines_of(found, axis_of(runs, name)))


def drawn(runs: list[Run], name: str) -> Axes:
    found, axis = compare(runs), axis_of(runs, name)
    (panel,) = score_figure(found, axis, *lines_of(found, axis)).axes
    return panel


def legend_of(panel: Axes) -> list[str]:
    (legend,) = panel.get_figure().legends
    return [text.get_text().replace("\n", " ") for text in legend.get_texts()]


def test_every_line_ends_at_late_fusion() -> None:
    lines, others = over(LAYERS, "fusion_layer")
    assert lines == {"cross-attention": [0, 4, 12], "bottleneck B = 4 (sequential)": [0, 8, 12]}
    assert others == ["rgb only"]


def test_lines_over_b_are_of_the_bottleneck_alone() -> None:
    runs = [made(model__fusion=bottleneck(b, update)) for b in (64, 4, 16) for update in ("sequential", "symmetric")]
    lines, others = over([*runs, made(model__fusion=JOINT)], "bottlenecks")
    assert lines == {"bottleneck (sequential)": [4, 16, 64], "bottleneck (symmetric)": [4, 16, 64]}
    assert others == ["joint self-attention"] and axis_of(runs, "bottlenecks").is_log
    assert over(runs[:1], "bottlenecks")[0] == {}, "one value is no line"


def test_lines_over_another_setting_have_all_else_in_common() -> None:
    runs = [
        made(model__modalities=list(m), model__fusion_layer=layer, data__window_seconds=t)
        for t in (3.2, 0.8, 1.6)
        for m, layer in ((("rgb",), 8), (("rgb", "spectrogram"), 4), (("rgb", "spectrogram"), 8))
    ]
    names = ["rgb only", "bottleneck B = 4 (sequential), L_f = 4", "bottleneck B = 4 (sequential), L_f = 8"]
    assert over(runs, "window_seconds") == ({name: [0.8, 1.6, 3.2] for name in names}, [])
    assert axis_of(runs, "window_seconds").title == "window (s)"


def test_too_many_lines_leave_the_best_of_each_strategy() -> None:
    runs = [
        made(0, 0.5 + layer / 100, model__fusion=fusion, model__fusion_layer=layer, data__window_seconds=t)
        for layer in range(6)
        for fusion in (bottleneck(), CROSS)
        for t in (1.6, 3.2)
    ]
    lines, _ = over(runs, "window_seconds")
    assert sorted(lines) == ["bottleneck B = 4 (sequential), L_f = 5", "cross-attention, L_f = 5"]
    assert "best line of each strategy" in caption_of(runs, "window_seconds")


def test_too_many_levels_leave_the_best_of_each_strategy() -> None:
    """With their layers, where these vary."""
    wide = [made(0, 0.5 + b / 1000, model__fusion=bottleneck(b)) for b in (4, 8)]
    cross = [made(0, 0.4 + layer / 100, model__fusion=CROSS, model__fusion_layer=layer) for layer in range(8)]
    runs = [*wide, *cross, made(0, 0.3, model__fusion_layer=12)]
    names = legend_of(drawn(runs, "bottlenecks"))
    assert names == ["bottleneck (sequential), $L_f$ = 8", "late fusion", "cross-attention, $L_f$ = 7"]
    assert "7 omitted" in caption_of(runs, "bottlenecks")
    few = legend_of(drawn(runs[:6], "bottlenecks"))
    assert {f"cross-attention, $L_f$ = {layer}" for layer in range(4)} <= {*few}


def test_too_many_groups_are_noted() -> None:
    tests = {f"fused/mAP/group {i}": i / 20 for i in range(11)} | {"score": 0.7, "fused/mAP": 0.7}
    found = compare([made(model__fusion_layer=layer, parts={"test": tests}) for layer in (0, 4)])
    axis = axes_of(found)[0]
    figure = group_figure(found, axis, *lines_of(found, axis))
    assert len(figure.axes) == 9 and "9 of 11 groups" in figure.get_suptitle()


def test_what_is_drawn_is_what_was_scored() -> None:
    panel = drawn(LAYERS, "fusion_layer")
    curves = {tuple(line.get_xdata()): list(line.get_ydata()) for line in panel.lines}
    assert curves[0, 8, 12] == pytest.approx([60, 68, 72]) and curves[0, 4, 12] == pytest.approx([50, 54, 72])
    assert legend_of(panel) == ["cross-attention", "bottleneck B = 4 (sequential)", "rgb only"]
    assert "late fusion" in caption_of(LAYERS, "fusion_layer")


def test_a_line_breaks_where_there_is_no_score() -> None:
    runs = [made(0, 0.5, model__fusion_layer=n) for n in (0, 2, 6, 8)]
    (line,) = drawn([*runs, unscored("f", model__fusion_layer=4)], "fusion_layer").lines
    assert [*line.get_xdata()] == [0, 2, 4, 6, 8] and [y for y in line.get_ydata() if y == y] == [50] * 4
    assert line.get_ydata()[2] != line.get_ydata()[2], "NaN"


def test_lines_that_coincide_are_all_seen() -> None:
    """What is drawn first is wider; lines that meet in late fusion alone are as they are."""
    runs = [
        made(0, 0.7 - layer / 100, model__fusion=f, model__fusion_layer=layer)
        for f in (bottleneck(), CROSS, JOINT)
        for layer in (0, 4)
    ]
    widths = [line.get_linewidth() for line in drawn(runs, "fusion_layer").lines]
    assert widths == sorted(widths, reverse=True) and len({*widths}) == 3 and widths[-1] == pytest.approx(1.6)
    assert {line.get_linewidth() for line in drawn(LAYERS, "fusion_layer").lines[:2]} == {1.6}


def test_the_band_is_the_spread_over_seeds() -> None:
    runs = [
        made(seed, 0.5 + seed / 50 + layer / 100, model__fusion_layer=layer) for layer in (0, 4) for seed in (0, 1, 2)
    ]
    panel = drawn(runs, "fusion_layer")
    (band,) = panel.collections
    assert tuple(band.get_datalim(panel.transData).intervaly) == pytest.approx((52 - 2, 56 + 2))
    assert caption_of(runs, "fusion_layer") == "test, mean of 3 seeds, band: ± standard deviation"


def test_the_papers_curve_is_drawn_where_the_setting_is_the_papers() -> None:
    def dashed(**settings) -> list[tuple[list, list]]:
        common = {"data__window_seconds": 4.0, **settings}
        runs = [paper_run(str(x), 0.4 + x / 1000, model__fusion_layer=x, **common) for x in (0, 4, 8)]
        lines = [line for line in drawn(runs, "fusion_layer").lines if line.is_dashed()]
        return [(list(line.get_xdata()), list(line.get_ydata())) for line in lines]

    assert dashed() == [([0, 4, 8], [40.76, 40.96, 42.44])]
    assert dashed(trainer__max_epochs=5) == []


def test_files(tmp_path: Path) -> None:
    names = draw(compare(LAYERS), tmp_path)
    assert names == [
        "score_over_fusion_layer",
        "groups_over_fusion_layer",
        "gflops_over_fusion_layer",
        "score_over_gflops",
    ]
    endings = ("png", "svg", "pdf")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in names for kind in endings}
    svg = (tmp_path / "score_over_fusion_layer.svg").read_text()
    assert "bottleneck B = 4 (sequential)</text>" in svg and "rgb only</text>" in svg, "text is text"
    png = (tmp_path / "score_over_fusion_layer.png").read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == round(6.2 * 200)
    assert (tmp_path / "score_over_fusion_layer.pdf").read_bytes().startswith(b"%PDF")
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
    assert draw(compare([unscored("w", "waiting", model__fusion_layer=2)]), tmp_path) == []


def test_words_are_an_axis_too(tmp_path: Path) -> None:
    mixups = [None, {"class_path": "Mixup", "init_args": {"alpha": 0.3}}]
    assert "score_over_mixup" in draw(compare([made(model__mixup=mixup) for mixup in mixups]), tmp_path)
