"""How a sweep is coming along: a live view on a terminal, a line for each event elsewhere."""

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
from mbt_lightning.sweep.ledger import State

SHOWN = ("running", "failed", "killed", "stopped", "done")
"""States in the order in which the view shows their trials."""

MOST_ROWS = 16

ANY = "any"
"""In the place of a value that means nothing to a trial."""


def label_of(values: Mapping[str, Any]) -> str:
    """A point in a few words: its values, numbers with the last part of their names."""
    return ", ".join(
        short(value) if isinstance(value, str | list | dict) and value != ANY else f"{title_of(name)} {short(value)}"
        for name, value in values.items()
    )


def title_of(name: str) -> str:
    """A setting's name in short: its last part."""
    return name.rpartition(".")[2].removesuffix("_everything")


def values_of(plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of each trial of a plan; `ANY` where the points that it stands for have different ones."""
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


class Progress:
    """Shows how it stands with the trials of a sweep.

    Args:
        labels: each trial in words.
        metric: name of what the sweep watches.
        goal: maximize or minimize.
        score: what a trial's run has reached.
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
        self.last: dict[str, State] | None = None
        self.scores: dict[str, float | None] = {}
        self.began: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *stopped: Any) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, states: dict[str, State]) -> None:
        """Show how it stands now."""
        for trial, state in states.items():
            if state.name == "done" and trial not in self.scores:
                self.scores[trial] = self.score(trial)
            if state.name == "running":
                self.began.setdefault(trial, time.monotonic())
            else:
                self.began.pop(trial, None)
        if self.live:
            self.live.update(self.table(states), refresh=True)
        else:
            self.tell_events(states)
        self.last = dict(states)

    def tell_events(self, states: dict[str, State]) -> None:
        """Print a line for what has changed."""
        if self.last is None:
            print(self.line(states), flush=True)
            return
        has_ended = False
        for trial, state in states.items():
            before = self.last.get(trial, State("waiting"))
            if (state.name, state.attempts) == (before.name, before.attempts) or state.name == "waiting":
                continue
            told = state.name
            if state.name == "done":
                score = self.scores[trial]
                told = f"done in {duration(state.seconds)}" + ("" if score is None else f", {self.metric} {score:.3f}")
            elif state.message and state.name != "running":
                told += f": {state.message}"
            print(f"{trial} {self.labels().get(trial, '')}: {told}", flush=True)
            has_ended |= state.name != "running"
        if has_ended:
            print(self.line(states), flush=True)

    def line(self, states: Mapping[str, State]) -> str:
        """Everything in one line: done, running, failed, time left, best so far."""
        count = Counter(state.name for state in states.values())
        parts = [f"{count['done']} of {len(states)} done"]
        parts += [f"{count[name]} {name}" for name in ("running", "failed", "killed", "stopped") if count[name]]
        if (left := self.seconds_left(states)) is not None:
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

    def seconds_left(self, states: Mapping[str, State]) -> float | None:
        """An estimate by the mean of the trials that are done; None before one is."""
        took = [state.seconds for state in states.values() if state.name == "done"]
        ahead = [trial for trial, state in states.items() if state.name not in ("done", "failed")]
        if not took or not ahead:
            return None
        mean = sum(took) / len(took)
        spent = sum(min(mean, time.monotonic() - since) for since in self.began.values())
        return max(0.0, mean * len(ahead) - spent) / max(1, min(self.workers, len(ahead)))

    def table(self, states: Mapping[str, State]) -> Table:
        """The live view."""
        table = Table(title=escape(self.line(states)), title_justify="left")
        table.add_column("trial")
        table.add_column("point", overflow="fold")
        table.add_column("state")
        table.add_column(self.metric, justify="right")
        rows = [
            (trial, state) for name in SHOWN for trial, state in reversed(list(states.items())) if state.name == name
        ]
        for trial, state in rows[:MOST_ROWS]:
            score = self.scores.get(trial)
            told = state.name if state.name in ("done", "running") else f"{state.name}: {state.message}"
            if state.name == "running" and trial in self.began:
                told += f", {duration(time.monotonic() - self.began[trial])}"
            table.add_row(
                trial, escape(self.labels().get(trial, "")), escape(told), "" if score is None else f"{score:.3f}"
            )
        if len(rows) > MOST_ROWS:
            table.caption = f"and {len(rows) - MOST_ROWS} more"
        return table
