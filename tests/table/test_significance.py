"""Paired comparisons of the best points, and which points are Pareto-optimal."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import CROSS, STRATEGIES, cells, changed, made, notes
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
    assert one.p == pytest.approx(0.0742, abs=5e-5) and not one.chosen_by
    assert one.interval == pytest.approx((0.02 - 0.024841, 0.02 + 0.024841), abs=1e-5)
    assert one.significance == "+2.00 points, paired over n = 3 seeds, 95 % interval -0.48 to +4.48, p = 0.074"


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


def test_points_chosen_by_the_test_score_are_not_tested_by_it() -> None:
    plain = runs_of([0.71, 0.73], [0.70, 0.69])
    runs = plain + [made(s, 0.8 + s / 50, model__fusion_layer=4) for s in (0, 1)]
    one = only(runs)
    assert (one.one.strategy.fusion_layer, one.other.strategy.fusion_layer, one.chosen_by) == (4, 8, "test")
    assert one.p is None and one.interval is not None
    lines = notes(compare(runs), "Paired comparisons")
    assert "bottleneck B = 4 (sequential), L_f = 4 against cross-attention, L_f = 8: +11.50 points" in lines
    assert "optimistic" in lines and "optimistic" not in notes(compare(plain), "Paired comparisons")


def test_a_point_is_chosen_by_validation_and_compared_by_test() -> None:
    """The layer with the best test score is not the one with the best validation score."""

    def run(seed: int, score: float, val_score: float, **settings) -> Run:
        fit = {"epochs": 8, "steps": 256, "finished": True, "val_score": val_score}
        return made(seed, score, parts={"fit": fit}, **settings)

    gaps = (0.0, 0.01, 0.03)
    runs = [run(s, 0.70 + g, 0.9, model__fusion_layer=4) for s, g in enumerate(gaps)]
    runs += [run(s, 0.80 + g, 0.8, model__fusion_layer=6) for s, g in enumerate(gaps)]
    runs += [run(s, 0.60, 0.5, model__fusion=CROSS) for s in range(3)]
    one = only(runs)
    assert (one.one.strategy.fusion_layer, one.chosen_by) == (4, "validation")
    assert one.difference == pytest.approx(0.1 + sum(gaps) / 3) and one.p is not None
    found = compare(runs)
    assert sorted(cell.split(" ")[0] for cell in cells(found)["validation"]) == ["50.00", "80.00", "90.00"]
    assert "best validation score" in notes(found, "Paired comparisons")
    runs[0] = run(0, 0.7, float("nan"), model__fusion_layer=4)
    assert only(runs).chosen_by == "test", "one validation score is missing"


class NullPoint:
    """A point of a table in which all strategies and layers are alike: scores are noise."""

    def __init__(self, kind: str, scores: np.ndarray, val_scores: np.ndarray):
        self.strategy, self.settings = SimpleNamespace(kind=kind), {}
        self.scores, self.validation = scores, float(val_scores.mean())

    def mean(self, score: str) -> float:
        return float(self.scores.mean())

    def by_seed(self, score: str) -> dict[int, float]:
        return dict(enumerate(self.scores.tolist()))


@pytest.mark.parametrize(
    ("points", "common"),
    [((1, 1), 0.0), ((6, 1), 0.5), ((6, 1), 1.0), ((6, 1, 1), 0.9), ((6, 6, 6, 6), 0.5)],
)
def test_where_nothing_differs_a_table_finds_a_difference_in_at_most_one_of_twenty(
    points: tuple, common: float
) -> None:
    """Strategies with these numbers of points, three seeds each; the common part of validation and test variance."""
    random_ = np.random.default_rng(0)
    tables, hits = 12_000 // sum(points), 0
    for _ in range(tables):
        found = []
        for kind, number in enumerate(points):
            for shared, val, test in random_.normal(0, 0.01, (number, 3, 3)):
                scores = [0.5 + common**0.5 * shared + (1 - common) ** 0.5 * own for own in (test, val)]
                found.append(NullPoint(f"s{kind}", *scores))
        pairs = paired_comparisons(SimpleNamespace(points=found, main="x"))
        assert len(pairs) == len(points) - 1 and all(one.p is not None for one in pairs)
        hits += any(one.p < 0.05 for one in pairs)
    assert hits <= 0.05 * tables


def test_p_pays_for_every_pair_of_points_that_could_have_been_compared() -> None:
    """Three points against two of another strategy: six pairs."""
    random_ = np.random.default_rng(1)
    found = [NullPoint(kind, random_.normal(0.5, 0.01, 5), random_.normal(0.5, 0.01, 5)) for kind in "aaabb"]
    (one,) = paired_comparisons(SimpleNamespace(points=found, main="x"))
    assert one.p == pytest.approx(min(1, 6 * ttest_rel(one.one.scores, one.other.scores).pvalue))


def test_a_validation_score_on_the_test_split_is_none() -> None:
    def run(seed: int, score: float, layer: int, fusion=CROSS) -> Run:
        fit = {"epochs": 8, "steps": 256, "finished": True, "val_score": score}
        one = made(seed, score, parts={"fit": fit}, model__fusion=fusion, model__fusion_layer=layer)
        return replace(one, config=changed(one.config, data__val_split="test"))

    runs = [run(s, 0.6 + layer / 100 + s * s / 100, layer) for s in range(3) for layer in (2, 4)]
    runs += [run(s, 0.5 + s / 100, 2, STRATEGIES["Bottleneck"]) for s in range(3)]
    assert only(runs).chosen_by == "test" and only(runs).p is None
    assert "validation" not in cells(compare(runs))


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
