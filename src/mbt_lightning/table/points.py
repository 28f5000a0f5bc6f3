"""Points: all runs whose settings differ in the seed at most, and what they scored and cost. Without torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mbt_lightning.runs.read import Run, is_finite
from mbt_lightning.table.paper import PaperNumber
from mbt_lightning.table.run_frame import Settings, seed_of, state_of, text
from mbt_lightning.table.strategies import Strategy, strategy_of

if TYPE_CHECKING:
    import pandas as pd

COUNTED, UNSCORED, DUPLICATE = "counted", "without a score", "duplicate"


@dataclass
class Point:
    """Runs that differ in the seed at most.

    Args:
        number: in the frame of all runs.
        settings: their settings, see `settings_of`.
        strategy: how they fuse their modalities.
        runs: those with a score, one a seed, by seed.
        unscored: the newest run of every seed without a score.
        duplicates: further runs of the same seeds, which are not counted.
        numbers: statistics of the scores and costs of `runs`, by (name, statistic).
        places: the sweep's values that lead here, without the seed; several where they mean the same.
        paper: the paper's number, if the setting is one of the paper's.
        labels: the values of what else is swept, in words, by the setting's name.
    """

    number: int
    settings: Settings
    strategy: Strategy
    runs: list[Run] = field(default_factory=list)
    unscored: list[Run] = field(default_factory=list)
    duplicates: list[Run] = field(default_factory=list)
    numbers: Mapping[tuple[str, str], float] = field(default_factory=dict)
    places: list[Settings] = field(default_factory=list)
    paper: PaperNumber | None = None
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of its first run."""
        return [*self.runs, *self.unscored][0].config

    @property
    def data(self) -> dict[str, Any]:
        """What the summary of its first run holds about the data; empty without a score."""
        return (self.runs[0].summary.get("data") or {}) if self.runs else {}

    def statistic(self, name: str, of: str = "mean") -> float | None:
        """A statistic of `test/NAME` or `summary/NAME` over its runs: mean, std, count, min or sum; None if unknown."""
        value = self.numbers.get((name, of), math.nan)
        return None if math.isnan(value) else value

    def mean(self, score: str) -> float | None:
        """Mean of a test score; None if there is none."""
        return self.statistic(f"test/{score}")

    def std(self, score: str) -> float | None:
        """Sample standard deviation of a test score; None for fewer than two runs."""
        return self.statistic(f"test/{score}", "std")

    @property
    def validation(self) -> float | None:
        """Mean over its runs of the validation score of the epoch that is tested.

        None if it is not known of all, or if the split to validate on is the one that is tested.
        """
        name, data = "summary/fit.val_score", self.config["data"]
        if data.get("val_split") == (data.get("test_split") or "test"):
            return None
        return self.statistic(name) if self.statistic(name, "count") == len(self.runs) else None

    def count(self, score: str) -> int:
        """Number of runs that have a test score."""
        return int(self.statistic(f"test/{score}", "count") or 0)

    def by_seed(self, score: str) -> dict[Any, float]:
        """A test score of all its runs that have it, by seed."""
        return {seed_of(run): run.test[score] for run in self.runs if is_finite(run.test.get(score))}

    @property
    def gflops(self) -> float | None:
        """Billions of multiply-adds of a clip, as counted on the model."""
        return self.statistic("summary/gflops_per_clip", "min")

    @property
    def gflops_as_coded(self) -> float | None:
        """Billions of multiply-adds of a clip in the authors' code; None if that has no such model."""
        return self.statistic("summary/gflops_as_coded", "min")

    @property
    def seeds(self) -> str:
        """Number of seeds in words, e.g. `2 of 3, 1 failed`."""
        if not self.unscored:
            return str(len(self.runs))
        states = Counter(state_of(run) for run in self.unscored)
        total = len(self.runs) + len(self.unscored)
        return f"{len(self.runs)} of {total}, " + ", ".join(f"{n} {state}" for state, n in states.items())

    def coverage(self, split: str) -> float | None:
        """The least part of the official clips of a split that one of its runs had."""
        return self.statistic(f"summary/data.coverage.{split}", "min")

    @property
    def test_coverage(self) -> float | None:
        """The least part of the official clips of the test split that one of its runs was tested on."""
        tested = self.statistic("summary/test_coverage", "min")
        return self.coverage(self.config["data"].get("test_split") or "test") if tested is None else tested


def collect(
    frame: pd.DataFrame, runs: Sequence[Run], settings: Mapping[int, Settings], swept: Sequence[str]
) -> list[Point]:
    """The points of runs that differ in what is swept at most.

    Of several runs of one seed the newest with a score is counted, or else the newest. The frame's columns
    ("run", "role") and ("run", "point") are filled in.

    Args:
        frame: a row a run.
        runs: the run of each row.
        settings: by row, of the runs to collect.
        swept: the settings that vary.
    """
    import pandas as pd

    values = {row: text({key: own.get(key, "–") for key in swept}) for row, own in settings.items()}
    about = frame["run"].loc[list(settings)].assign(point=pd.Series(values))
    about["point"] = about.groupby("point", sort=False).ngroup()
    about = about.sort_values(["is_scored", "ended", "run"], ascending=False)
    about["role"] = about["is_scored"].map({True: COUNTED, False: UNSCORED})
    about.loc[about.assign(seed=about["seed"].map(repr)).duplicated(["point", "seed"]), "role"] = DUPLICATE
    frame["run", "point"], frame["run", "role"] = about["point"], about["role"]
    counted = frame[frame["run", "role"] == COUNTED]
    scores = counted.loc[:, [name for name in counted if name[0] in ("test", "summary")]]
    scores.columns = pd.Index(["/".join(names) for names in scores.columns])
    by_point = scores.groupby(counted["run", "point"])
    statistics = by_point.agg(["mean", "std", "count", "min", "sum"]).to_dict("index") if len(scores) else {}
    points = []
    for number, rows in about.groupby("point"):
        lists: dict[str, list[Run]] = {COUNTED: [], UNSCORED: [], DUPLICATE: []}
        for row in sorted(rows.index, key=lambda row: by_number(seed_of(runs[row]))):
            lists[rows.at[row, "role"]].append(runs[row])
        first = min(rows.index)
        strategy = strategy_of([*lists[COUNTED], *lists[UNSCORED]][0].config)
        points.append(
            Point(
                number,
                settings[first],
                strategy,
                lists[COUNTED],
                lists[UNSCORED],
                lists[DUPLICATE],
                statistics.get(number, {}),
            )
        )
    return points


def by_number(value: Any) -> tuple[int, float, str]:
    """What sorts numbers by size, and everything else by its text after them."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if is_number else (1, 0.0, text(value))
