"""Paired comparisons of the best points, and which points are Pareto-optimal."""

import random

import pytest
from made_runs import CROSS, made, notes
from scipy.stats import ttest_rel

from mbt_lightning.runs.read import Run
from mbt_lightning.table.compare import compare
from mbt_lightning.table.significance import PairedComparison, paired_comparisons, pareto


def runs_of(ours: list[float], theirs: list[float]) -> list[Run]:
    """Runs of a bottleneck and of cross-attention with these scores, a seed each."""
    runs = [made(seed, score) for seed, score in enumerate(ours)]
    return runs + [made(seed, score, model__fusion=CROSS) for seed, score in enumerate(theirs)]


def only(runs: list[Run]) -> PairedComparison:
    (one,) = paired_comparisons(compare(runs))
    return one


def test_pareto_by_brute_force() -> None:
    chance = random.Random(3)
    for _ in range(50):
        points = [(chance.randrange(6), chance.randrange(6)) for _ in range(12)]
        for place, (cost, score) in enumerate(points):
            beaten = False
            for other_cost, other_score in points:
                as_good = other_cost <= cost and other_score >= score
                beaten = beaten or (as_good and (other_cost, other_score) != (cost, score))
            assert pareto(points)[place] is not beaten


def test_p_by_hand() -> None:
    """Differences 1, 2, 3 per cent: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom, p = 0.0742."""
    one = only(runs_of([0.71, 0.72, 0.73], [0.70, 0.70, 0.70]))
    assert (one.one.strategy.kind, one.other.strategy.kind, one.seeds) == ("bottleneck", "cross-attention", 3)
    assert one.difference == pytest.approx(0.02) and one.std == pytest.approx(0.01)
    assert one.p == pytest.approx(0.0742, abs=5e-5) and not one.is_chosen
    assert one.significance == "+2.00 points, paired over n = 3 seeds, p = 0.074"


def test_p_is_that_of_scipys_paired_test() -> None:
    chance = random.Random(5)
    for n in (2, 3, 10):
        ours, theirs = ([chance.random() for _ in range(n)] for _ in range(2))
        assert only(runs_of(ours, theirs)).p == pytest.approx(float(ttest_rel(ours, theirs).pvalue), rel=1e-9)


def test_only_common_seeds_are_paired() -> None:
    one = only(runs_of([0.71, 0.72, 0.73], [0.70]))
    assert (one.seeds, one.p) == (1, None) and one.difference == pytest.approx(0.01)
    assert "no test" in one.significance
    strangers = only([made(5, 0.9), made(0, 0.7, model__fusion=CROSS)])
    assert (strangers.seeds, strangers.difference) == (0, None) and strangers.significance == "no seed in common"


@pytest.mark.parametrize("scores", [([0.75, 0.5], [0.5, 0.25]), ([0.8, 0.7, 0.6], [0.7, 0.6, 0.5])])
def test_equal_differences_have_no_test(scores) -> None:
    """Equal but for rounding too."""
    one = only(runs_of(*scores))
    assert one.p is None and "no test" in one.significance


def test_equal_means_are_a_tie() -> None:
    runs = runs_of([0.7, 0.6], [0.6, 0.7]) + [made(s, 0.7 - s / 10, model__fusion_layer=4) for s in (0, 1)]
    one = only(runs)
    assert one.is_tie and one.significance.startswith("a tie, ")
    assert [(point.strategy.kind, point.strategy.fusion_layer) for point in one.as_good] == [("bottleneck", 8)]
    plain = only(runs_of([0.71, 0.73], [0.70, 0.69]))
    assert not plain.is_tie and plain.as_good == ()


def test_the_best_layer_of_each_is_compared_and_that_is_called_optimistic() -> None:
    plain = runs_of([0.71, 0.73], [0.70, 0.69])
    runs = plain + [made(s, 0.8 + s / 50, model__fusion_layer=4) for s in (0, 1)]
    one = only(runs)
    assert (one.one.strategy.fusion_layer, one.other.strategy.fusion_layer, one.is_chosen) == (4, 8, True)
    lines = notes(compare(runs), "Paired comparisons")
    assert "bottleneck B = 4 (sequential), L_f = 4 against cross-attention, L_f = 8: +11.50 points" in lines
    assert "optimistic" in lines and "optimistic" not in notes(compare(plain), "Paired comparisons")


def test_strategies_are_compared_on_the_same_data_only() -> None:
    runs = []
    for name, gain in (("small", 0.0), ("large", 0.2)):
        parts = {"data": {"hash": name}}
        runs += [made(0, 0.5 + gain, parts, data__manifest=name)]
        runs += [made(0, 0.4 + gain, parts, data__manifest=name, model__fusion=CROSS)]
    found = compare(runs)
    assert len(found.excluded) == 2 and len(paired_comparisons(found)) == 1
    for point, (name, score) in zip(found.points, (("a", 0.4), ("b", 0.5)), strict=True):
        point.settings["data.manifest"] = name
        assert point.mean("fused/mAP") == pytest.approx(score + 0.2, abs=0.21)
    assert paired_comparisons(found) == []
