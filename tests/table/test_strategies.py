"""Names, order and colours of strategies."""

import random

from made_runs import CROSS, JOINT, bottleneck, configuration, made

from mbt_lightning.table.compare import compare
from mbt_lightning.table.strategies import COLOURS, line_styles, strategy_of, styles

GATE = {"class_path": "my.strategies.Gate", "init_args": {"width": 3}}


def test_strategies_in_the_fields_words_and_order() -> None:
    runs = [
        made(model__modalities=["rgb"]),
        made(model__modalities=["spectrogram"]),
        made(model__fusion_layer=12),
        made(model__fusion=JOINT),
        made(model__fusion=CROSS),
        made(model__fusion=bottleneck(4)),
        made(model__modalities=["spectrogram", "rgb"]),
        made(model__fusion=bottleneck(16, "symmetric")),
        made(model__fusion=GATE),
    ]
    random.Random(1).shuffle(runs)
    assert [p.strategy.name for p in compare(runs).points] == [
        "rgb only",
        "spectrogram only",
        "late fusion",
        "joint self-attention",
        "cross-attention",
        "bottleneck B = 4 (sequential)",
        "bottleneck B = 4 (sequential, spectrogram first)",
        "bottleneck B = 16 (symmetric)",
        "Gate (width 3)",
    ]


def test_what_a_strategy_is_made_of() -> None:
    one = strategy_of(configuration(model__fusion={"class_path": "mbt_lightning.Bottleneck"}))
    assert (one.kind, one.num_bottlenecks, one.update, one.fusion_layer) == ("bottleneck", 4, "rgb first", 8)
    late = strategy_of(configuration(model__fusion_layer=12))
    assert late.is_late and (late.class_path, late.num_bottlenecks, late.update) == ("", None, "")
    alone = strategy_of(configuration(model__modalities=["rgb"]))
    assert (alone.kind, alone.fusion_layer, alone.class_path) == ("rgb only", None, "")


def test_points_with_the_same_name_are_distinguished() -> None:
    """By the order of their modalities, or by the whole paths of their classes."""
    order = ["spectrogram", "rgb"]
    runs = [made(model__fusion=CROSS, model__modalities=m) for m in (["rgb", "spectrogram"], order)]
    runs += [made(model__fusion={"class_path": f"my.{name}.Gate"}) for name in "ab"]
    found = compare([*runs, made(model__fusion=JOINT), made(model__fusion={"class_path": "my.Other"})])
    names = {point.strategy.name for point in found.points}
    assert names == {
        "cross-attention, of rgb, spectrogram",
        "cross-attention, of spectrogram, rgb",
        "joint self-attention",
        "my.a.Gate",
        "my.b.Gate",
        "Other",
    }
    assert {"my.a.Gate", "my.b.Gate"} <= {point.strategy.kind for point in found.points}


def test_a_class_that_is_only_called_as_ours_is_none_of_ours() -> None:
    own = {"class_path": "my.Bottleneck", "init_args": {"num_bottlenecks": 4}}
    assert strategy_of(configuration(model__fusion=own)).kind == "Bottleneck"


def test_strategies_keep_their_colours() -> None:
    found = styles(["rgb only", "Gate", "cross-attention", "bottleneck", "Gate"])
    assert list(found) == ["rgb only", "Gate", "cross-attention", "bottleneck"]
    assert found["bottleneck"] == ("#0072B2", "o") and found["cross-attention"] == ("#D55E00", "s")
    assert len({colour for colour, _ in found.values()}) == 4
    lines = ["bottleneck", "cross-attention", *["bottleneck"] * (len(COLOURS) - 2)]
    chosen = line_styles(lines, found)
    assert len(set(chosen)) == len(COLOURS) and chosen[:2] == [found["bottleneck"], found["cross-attention"]]
