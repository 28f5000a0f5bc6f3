"""Which points are worth their cost, and whether the best strategy is better than the others."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
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
    """The chosen points of two strategies, compared seed by seed.

    Args:
        one: the point of the best strategy.
        other: the other one.
        seeds: number of seeds that both have.
        difference: mean of the differences of the test score; None without common seeds.
        std: their sample standard deviation; None for fewer than two.
        interval: 95 % confidence interval of the difference (Student's t); None without a spread.
        p: two-sided, of a paired t-test, times the number of pairs of points that could have been compared
            (Bonferroni): however much validation and test scores have in common, the choice is paid for. None where
            there is no spread, or where a point was chosen among several by the very score that is tested.
        chosen_by: the score by which a strategy's point was chosen among several: `validation`, `test`, or `` for none.
        is_tie: whether their mean scores are equal.
        as_good: further points of either strategy whose mean is equal to that of the compared one.
    """

    one: Point
    other: Point
    seeds: int
    difference: float | None
    std: float | None
    interval: tuple[float, float] | None
    p: float | None
    chosen_by: str
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
        if self.interval is None:
            return f"{text}; no test: the difference is the same for every seed"
        low, high = (100 * bound for bound in self.interval)
        spread = f"{text}, 95 % interval {low:+.2f} to {high:+.2f}"
        if self.p is None:
            return f"{spread}; no test: the points were chosen by the score that is compared"
        return f"{spread}, p = {self.p:.2g}"


def paired_comparisons(found: Comparison) -> list[PairedComparison]:
    """The point of the best strategy against that of every other, on each data set by itself.

    A strategy's point is the one with the best validation score, if all points of the data set have one; else the one
    with the best test score.
    """
    on_data: dict[str, list[Point]] = defaultdict(list)
    for point in found.points:
        if point.mean(found.main) is not None:
            on_data[str(point.settings.get("data.manifest"))].append(point)
    comparisons = []
    for points in on_data.values():
        validated = all(point.validation is not None for point in points)
        by_kind: dict[str, list[Point]] = defaultdict(list)
        for point in points:
            by_kind[point.strategy.kind].append(point)

        def worth(point: Point, validated: bool = validated) -> float:
            """What points are chosen by, without the last digits that rounding decides."""
            return round((point.validation if validated else point.mean(found.main)) or 0.0, 9)

        groups = sorted(by_kind.values(), key=lambda group: max(map(worth, group)), reverse=True)
        pairs = sum(len(some) * len(others) for some, others in combinations(groups, 2))
        comparisons += [
            paired_comparison(groups[0], group, found.main, worth, "validation" if validated else "test", pairs)
            for group in groups[1:]
        ]
    return comparisons


def paired_comparison(
    ones: Sequence[Point],
    others: Sequence[Point],
    score: str,
    worth: Callable[[Point], float],
    chosen_by: str,
    pairs: int,
) -> PairedComparison:
    """The chosen points of two strategies, seed by seed."""
    one, other = max(ones, key=worth), max(others, key=worth)
    ours, theirs = one.by_seed(score), other.by_seed(score)
    gaps = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    std = stdev(gaps) if len(gaps) > 1 else None
    interval = p = None
    chosen_by = chosen_by if len(ones) > 1 or len(others) > 1 else ""
    if std and std > 1e-12:  # else rounding is all the spread there is
        from scipy.special import stdtr, stdtrit  # what scipy.stats uses, which takes a second to import

        mean, error, freedom = fmean(gaps), std / math.sqrt(len(gaps)), len(gaps) - 1
        half = float(stdtrit(freedom, 0.975)) * error
        interval = (mean - half, mean + half)
        if chosen_by != "test":
            p = min(1.0, pairs * float(2 * stdtr(freedom, -abs(mean) / error)))
    as_good = [
        p for mine, all_ in ((one, ones), (other, others)) for p in all_ if p is not mine and equal(p, mine, score)
    ]
    return PairedComparison(
        one,
        other,
        len(gaps),
        fmean(gaps) if gaps else None,
        std,
        interval,
        p,
        chosen_by=chosen_by,
        is_tie=equal(one, other, score),
        as_good=tuple(as_good),
    )


def equal(one: Point, other: Point, score: str) -> bool:
    """Whether two mean scores are equal but for rounding."""
    return math.isclose(one.mean(score) or 0, other.mean(score) or 0, rel_tol=0, abs_tol=1e-9)
