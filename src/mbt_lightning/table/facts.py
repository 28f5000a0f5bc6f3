"""What runs did, beside what was asked of them: equal settings are no proof of equal trainings. Without torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbt_lightning.runs.read import Run, part_of
from mbt_lightning.table.run_frame import Settings, text

if TYPE_CHECKING:
    import pandas as pd

Gaps = dict[str, tuple[str, str]]
"""Where a run differs: {name: (its value, the others')}."""

FACTS = {
    "optimiser steps": ("summary", "fit.steps"),
    "training clips": ("summary", "data.clips.train"),
    "tested clips": ("test", "clips"),
    "parameters": ("summary", "parameters"),
}
"""Names of what runs of one point must have in common, and their columns in the frame of all runs."""


def trained_otherwise(
    frame: pd.DataFrame, runs: Sequence[Run], settings: Mapping[int, Settings], swept: Sequence[str]
) -> dict[int, Gaps]:
    """The runs that did something else than most runs of their point, or that are copies of others, by row.

    Args:
        frame: a row a run.
        runs: the run of each row, of which those with a score are compared.
        settings: by row, of the runs that would be in the table.
        swept: the settings that tell the points apart.
    """
    scored = {row: own for row, own in settings.items() if runs[row].is_scored}
    found = copies(runs, scored)
    points: dict[str, list[int]] = defaultdict(list)
    for row, own in scored.items():
        if row not in found:
            points[text({key: own.get(key, "–") for key in swept})].append(row)
    for rows in points.values():
        choose_steps = any(stops_early(runs[row]) for row in rows)
        for name, column in FACTS.items():
            if column not in frame or (choose_steps and name == "optimiser steps"):
                continue
            add_unusual(name, {row: f"{value:.12g}" for row, value in frame.loc[rows, column].dropna().items()}, found)
        add_unusual("processes", {row: known for row in rows if (known := processes_of(runs[row]))}, found)
    return found


def add_unusual(name: str, values: Mapping[int, str], found: dict[int, Gaps]) -> None:
    """Add the runs that have another value than most; of equally frequent ones the largest counts as usual."""
    counts = Counter(values.values())
    usual = max(counts, key=lambda value: (counts[value], len(value), value), default="")
    for row, value in values.items():
        if value != usual:
            found.setdefault(row, {})[name] = (value, usual)


def processes_of(run: Run) -> str:
    """The numbers of processes that a run was trained by, one after the other; empty if unknown."""
    parts = part_of(run.summary, "provenance").get("fit") or [run.summary]
    return " then ".join(dict.fromkeys(str(part["processes"]) for part in parts if part.get("processes")))


def stops_early(run: Run) -> bool:
    """Whether the number of steps is the training's own choice."""
    callbacks = run.config.get("trainer", {}).get("callbacks")
    names = [one.get("class_path") for one in callbacks or [] if isinstance(one, Mapping)]
    return any(str(name).endswith("EarlyStopping") for name in names)


def copies(runs: Sequence[Run], settings: Mapping[int, Settings]) -> dict[int, Gaps]:
    """Runs with the scores and the training time of another one, to the last digit, but another configuration."""
    first: dict[str, int] = {}
    found: dict[int, Gaps] = {}
    for row in sorted(settings, key=lambda row: (is_renamed(runs[row]), runs[row].ended, runs[row].source)):
        fit: Mapping[str, Any] = part_of(runs[row].summary, "fit")
        if not fit.get("clips_per_second"):
            continue
        known = first.setdefault(text([fit, runs[row].test]), row)
        if known != row and runs[known].config != runs[row].config:
            found[row] = {"scores and training time": (f"those of {runs[known].source}", "each run's own")}
    return found


def is_renamed(run: Run) -> bool:
    """Whether a run's folder has another name than the run had, as a copy's has."""
    return run.summary.get("run", run.name) != run.name
