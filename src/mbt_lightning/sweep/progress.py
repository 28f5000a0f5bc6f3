"""The progress of a sweep: a live view on a terminal, a line for each event elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from mbt_lightning.errors import duration
from mbt_lightning.sweep.ledger import TrialStatus

SHOWN = ("running", "failed", "killed", "stopped", "done")
"""Statuses in the order in which the view shows their trials."""

MOST_ROWS = 16

ANY = "any"
"""Shown for a value that has no effect on a trial."""


def label_of(values: Mapping[str, Any]) -> str:
    """A point in a few words: its values; numbers after the last part of their names."""
    return ", ".join(
        short(value) if isinstance(value, str | list | dict) and value != ANY else f"{title_of(name)} {short(value)}"
        for name, value in values.items()
    )


def title_of(name: str) -> str:
    """The last part of a setting's name."""
    return name.rpartition(".")[2].removesuffix("_everything")


def values_of(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of each trial of a plan; `ANY` where the points that share it have different ones."""
    found: dict[str, dict[str, Any]] = {}
    for point in plan["points"]:
        values = found.setdefault(point["trial"], dict(point["values"]))
        for name in values:
            if point["values"].get(name) != values[name]:
                values[name] = ANY
    return found


def labels_of(plan: Mapping[str, Any]) -> dict[str, str]:
    """Each trial of a plan in words."""
    return {trial: label_of(values) for trial, values in values_of(plan).items()}


def short(value: Any) -> str:
    """A swept value in a few characters."""
    if isinstance(value, dict):
        return " ".join(f"{title_of(name)} {short(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return "+".join(map(short, value))
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


class SweepProgress:
    """Shows the progress of a sweep.

    Args:
        labels: each trial in words.
        metric: name of what the sweep watches.
        goal: maximize or minimize.
        score: what a trial's run has reached in the metric.
        workers: how many trials are run at a time.
        console: where it is shown.
    """

    def __init__(
        self,
        labels: Callable[[], Mapping[str, str]],
        metric: str,
        goal: str,
        score: Callable[[str], float | None],
        workers: int,
        console: Console | None = None,
    ):
        self.labels, self.metric, self.goal, self.score, self.workers = labels, metric, goal, score, workers
        self.console = console or Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.last: dict[str, TrialStatus] | None = None
        self.scores: dict[str, float | None] = {}
        self.started_at: dict[str, float] = {}

    def __enter__(self) -> SweepProgress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *stopped: Any) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, statuses: dict[str, TrialStatus]) -> None:
        """Show the present status of every trial."""
        for trial, status in statuses.items():
            if status.name == "done" and trial not in self.scores:
                self.scores[trial] = self.score(trial)
            if status.name == "running":
                self.started_at.setdefault(trial, time.monotonic())
            else:
                self.started_at.pop(trial, None)
        if self.live:
            self.live.update(self.table(statuses), refresh=True)
        else:
            self.print_events(statuses)
        self.last = dict(statuses)

    def print_events(self, statuses: dict[str, TrialStatus]) -> None:
        """Print a line for each change."""
        if self.last is None:
            print(self.line(statuses), flush=True)
            return
        has_ended = False
        for trial, status in statuses.items():
            before = self.last.get(trial, TrialStatus("waiting"))
            if (status.name, status.attempts) == (before.name, before.attempts) or status.name == "waiting":
                continue
            text = status.name
            if status.name == "done":
                score = self.scores[trial]
                text = f"done in {duration(status.seconds)}" + ("" if score is None else f", {self.metric} {score:.3f}")
            elif status.message and status.name != "running":
                text += f": {status.message}"
            print(f"{trial} {self.labels().get(trial, '')}: {text}", flush=True)
            has_ended |= status.name != "running"
        if has_ended:
            print(self.line(statuses), flush=True)

    def line(self, statuses: Mapping[str, TrialStatus]) -> str:
        """A summary in one line: done, running, failed, time left, best so far."""
        count = Counter(status.name for status in statuses.values())
        parts = [f"{count['done']} of {len(statuses)} done"]
        parts += [f"{count[name]} {name}" for name in ("running", "failed", "killed", "stopped") if count[name]]
        if (left := self.seconds_left(statuses)) is not None:
            parts.append(f"about {duration(left)} left")
        if best := self.best():
            trial, score = best
            parts.append(f"best {self.metric} {score:.3f} ({self.labels().get(trial, trial)})")
        return ", ".join(parts)

    def best(self) -> tuple[str, float] | None:
        """The trial with the best score so far."""
        scores = {trial: score for trial, score in self.scores.items() if score is not None}
        if not scores:
            return None
        trial = (max if self.goal == "maximize" else min)(scores, key=scores.__getitem__)
        return trial, scores[trial]

    def seconds_left(self, statuses: Mapping[str, TrialStatus]) -> float | None:
        """An estimate by the mean of the trials that are done; None before one is."""
        durations = [status.seconds for status in statuses.values() if status.name == "done"]
        num_left = sum(status.name not in ("done", "failed") for status in statuses.values())
        if not durations or not num_left:
            return None
        mean = sum(durations) / len(durations)
        spent = sum(min(mean, time.monotonic() - since) for since in self.started_at.values())
        return max(0.0, mean * num_left - spent) / max(1, min(self.workers, num_left))

    def table(self, statuses: Mapping[str, TrialStatus]) -> Table:
        """The live view."""
        table = Table(title=escape(self.line(statuses)), title_justify="left")
        table.add_column("trial")
        table.add_column("point", overflow="fold")
        table.add_column("status")
        table.add_column(self.metric, justify="right")
        latest = list(statuses.items())[::-1]
        rows = [(trial, status) for name in SHOWN for trial, status in latest if status.name == name]
        for trial, status in rows[:MOST_ROWS]:
            score = self.scores.get(trial)
            text = status.name if status.name in ("done", "running") else f"{status.name}: {status.message}"
            if status.name == "running" and trial in self.started_at:
                text += f", {duration(time.monotonic() - self.started_at[trial])}"
            label = self.labels().get(trial, "")
            table.add_row(trial, escape(label), escape(text), "" if score is None else f"{score:.3f}")
        if len(rows) > MOST_ROWS:
            table.caption = f"and {len(rows) - MOST_ROWS} more"
        return table
