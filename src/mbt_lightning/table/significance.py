"""Which points are worth their cost, and whether the best strategy is better than the others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.points import Point


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of some (cost, score) are optimal: none costs less for at least the score, or scores more for the cost."""
    return [
        not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points) for cost, score in points
    ]


@dataclass(frozen=True)
class PairedComparison:
    """The best points of two strategies, compared seed by seed.

    Args:
        one: the better point.
        other: the other one.
        seeds: number of seeds that both have.
        difference: mean of the differences; None without common seeds.
        std: their sample standard deviation; None for fewer than two.
        p: two-sided, of a paired t-test; None for fewer than two seeds or equal differences.
        is_chosen: whether one of them was chosen among several by the very score that is tested.
        is_tie: whether their mean scores are equal.
        as_good: further points of either strategy whose mean is equal to that of the compared one.
    """

    one: Point
    other: Point
    seeds: int
    difference: float | None
    std: float | None
    p: float | None
    is_chosen: bool
    is_tie: bool
    as_good: tuple[Point, ...]

    @property
    def significance(self) -> str:
        """The outcome in words."""
        if self.difference is None:
            return "no seed in common"
        seeds = f"{self.seeds} seed{'s' * (self.seeds != 1)}"
        text = f"{'a tie, ' * self.is_tie}{100 * self.difference:+.2f} points, paired over n = {seeds}"
        if self.seeds < 2:
            return f"{text}; no test: it needs two seeds or more"
        if self.p is None:
            return f"{text}; no test: the difference is the same for every seed"
        return f"{text}, p = {self.p:.2g}"


def paired_comparisons(found: Comparison) -> list[PairedComparison]:
    """The best point of the best strategy against the best of every other, on each data set by itself."""
    on_data: dict[str, list[Point]] = defaultdict(list)
    for point in found.points:
        if point.mean(found.main) is not None:
            on_data[str(point.settings.get("data.manifest"))].append(point)
    comparisons = []
    for points in on_data.values():
        by_kind: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            by_kind[point.strategy.kind].append(point)
        groups = sorted(
            by_kind.values(), key=lambda group: mean_of(best_of(group, found.main), found.main), reverse=True
        )
        comparisons += [paired_comparison(groups[0], group, found.main) for group in groups[1:]]
    return comparisons


def best_of(points: Sequence[Point], score: str) -> Point:
    """The point with the best mean; the first of equal ones."""
    return max(points, key=lambda point: mean_of(point, score))


def mean_of(point: Point, score: str) -> float:
    """A mean score, without the last digits that rounding decides."""
    return round(point.mean(score) or 0.0, 9)


def paired_comparison(ones: Sequence[Point], others: Sequence[Point], score: str) -> PairedComparison:
    """The best points of two strategies, seed by seed."""
    one, other = best_of(ones, score), best_of(others, score)
    ours, theirs = one.by_seed(score), other.by_seed(score)
    gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    std = stdev(gaps) if len(gaps) > 1 else None
    p = None
    if std and std > 1e-12:  # else rounding is all the spread there is
        from scipy.special import stdtr  # what scipy.stats.ttest_rel computes; scipy.stats takes a second to import

        p = float(2 * stdtr(len(gaps) - 1, -abs(fmean(gaps)) / (std / math.sqrt(len(gaps)))))
    as_good = [
        p for mine, all_ in ((one, ones), (other, others)) for p in all_ if p is not mine and equal(p, mine, score)
    ]
    return PairedComparison(
        one,
        other,
        len(gaps),
        fmean(gaps) if gaps else None,
        std,
        p,
        is_chosen=len(ones) > 1 or len(others) > 1,
        is_tie=equal(one, other, score),
        as_good=tuple(as_good),
    )


def equal(one: Point, other: Point, score: str) -> bool:
    """Whether two mean scores are equal but for rounding."""
    return math.isclose(one.mean(score) or 0, other.mean(score) or 0, rel_tol=0, abs_tol=1e-9)
