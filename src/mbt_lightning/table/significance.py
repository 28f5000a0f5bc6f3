"""What the scores of points say: which are worth their cost, and whether the best is better than the next."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from mbt_lightning.runs.read import is_finite
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.points import Point, seed_of


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of some (cost, score) are optimal: none costs less for at least the score, or scores more for the cost."""
    return [
        not any((c <= cost and s >= score) and (c < cost or s > score) for c, s in points) for cost, score in points
    ]


@dataclass(frozen=True)
class PairedComparison:
    """The best points of two strategies, seed by seed.

    Args:
        one: the better point.
        other: the other one.
        seeds: that both have.
        difference: mean of the differences; None without common seeds.
        std: their sample standard deviation; None of fewer than two.
        p: two-sided, of a paired t-test; None of fewer than two seeds, of equal differences, or without scipy.
        is_chosen: whether one of them was chosen among several by the very score that is tested.
        is_tie: whether their mean scores are equal.
        as_good: further points of either strategy that are equal to the one that stands for it.
    """

    one: Point
    other: Point
    seeds: int
    difference: float | None
    std: float | None
    p: float | None
    is_chosen: bool
    is_tie: bool = False
    as_good: tuple[Point, ...] = ()


def paired_comparisons(found: Comparison) -> list[PairedComparison]:
    """The best point of the best strategy against the best of every other, on each data set by itself.

    Raises:
        ModuleNotFoundError: scipy is not there, and a test is to be made.
    """
    on_data: dict[str, list[Point]] = defaultdict(list)
    for point in found.points:
        if point.mean(found.main) is not None:
            on_data[str(point.settings.get("data.manifest"))].append(point)
    return [one for points in on_data.values() for one in paired_comparisons_of(found, points)]


def paired_comparisons_of(found: Comparison, points: Sequence[Point]) -> list[PairedComparison]:
    """The same of points with a score on one data set."""
    by_kind: dict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_kind[point.kind].append(point)
    best = [max(alike, key=lambda point: point.mean(found.main) or 0) for alike in by_kind.values()]
    best.sort(key=lambda point: point.mean(found.main) or 0, reverse=True)
    several = {kind for kind, alike in by_kind.items() if len(alike) > 1}
    fought = [duel(best[0], other, found.main, bool({best[0].kind, other.kind} & several)) for other in best[1:]]
    return [
        replace(
            one,
            is_tie=is_equal(one.one, one.other, found.main),
            as_good=tuple(
                p
                for mine in (one.one, one.other)
                for p in by_kind[mine.kind]
                if p is not mine and is_equal(p, mine, found.main)
            ),
        )
        for one in fought
    ]


def is_equal(one: Point, other: Point, name: str) -> bool:
    """Whether the mean scores of two points are equal but for rounding."""
    return math.isclose(one.mean(name) or 0, other.mean(name) or 0, rel_tol=0, abs_tol=1e-9)


def duel(one: Point, other: Point, name: str, is_chosen: bool) -> PairedComparison:
    """Two points, seed by seed."""
    theirs = {seed_of(run): run.test.get(name) for run in other.runs}
    pairs = [
        (run.test[name], theirs[seed_of(run)])
        for run in one.runs
        if is_finite(run.test.get(name)) and is_finite(theirs.get(seed_of(run)))
    ]
    gaps = [a - b for a, b in pairs]
    if not gaps:
        return PairedComparison(one, other, 0, None, None, None, is_chosen)
    std = stdev(gaps) if len(gaps) > 1 else None
    p = None
    if std and std > 1e-12:  # else rounding is all the spread there is
        from scipy.special import stdtr  # what scipy.stats.ttest_rel computes; scipy.stats takes a second to import

        p = float(2 * stdtr(len(gaps) - 1, -abs(fmean(gaps)) / (std / math.sqrt(len(gaps)))))
    return PairedComparison(one, other, len(gaps), fmean(gaps), std, p, is_chosen)
