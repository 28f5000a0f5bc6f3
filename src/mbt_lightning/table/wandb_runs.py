"""Runs of a W&B project or sweep, as `runs/read.py` gives those of folders. W&B is imported when they are read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from mbt_lightning.config.settings import flat, nested
from mbt_lightning.config.upgrade import upgrade
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.process import bounded
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.planned_runs import Plan

X_AXIS = "trainer/global_step"
EMPTY = "{}"
STATES = {
    "running": "running",
    "pending": "waiting",
    "failed": "failed",
    "crashed": "killed",
    "killed": "killed",
    "preempting": "running",
    "preempted": "stopped",
}
"""W&B's names of states and ours; for `finished` see `state_of`."""

STOPPED = (130, 143)
"""Exit codes of runs that were stopped by a signal."""

PATIENCE_SECONDS = 180.0
"""How long W&B may take to list all runs."""

MOST_POINTS = 100_000
"""More points than any sweep has."""

T = TypeVar("T")


def read_wandb(path: str, seconds: float = PATIENCE_SECONDS) -> tuple[list[Run], list[Plan]]:
    """Read the runs of a project or of a sweep; of a sweep also the points of its grid that have not been started.

    Args:
        path: `ENTITY/PROJECT` or `ENTITY/PROJECT/SWEEP`.
        seconds: how long this may take.

    Returns:
        The runs; of a sweep also what it varies, as a plan without points.

    Raises:
        UserError: there is no such project or sweep, no login, or no answer in time.
    """
    parts = path.strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise UserError(f"W&B's runs of {path!r}: write ENTITY/PROJECT or ENTITY/PROJECT/SWEEP")
    project = "/".join(parts[:2])

    def read() -> tuple[list[Run], list[Plan]]:
        import wandb

        api = wandb.Api(timeout=max(1, min(30, int(seconds / 2))))
        sweep = api.sweep(path.strip("/")) if len(parts) == 3 else None
        filters = {"$and": [{"sweep": parts[2]}]} if sweep else {}
        found = list(api.runs(project, filters=filters, order="+created_at", per_page=200, lazy=False))
        runs = [as_run(run) for run in found]
        if not sweep:
            return runs, []
        left = points_left(sweep.config, [run.config for run in found])
        runs += [Run(f"waiting-{i}", sweep.url, "waiting", nested(p), {}) for i, p in enumerate(left, 1)]
        return runs, [Plan(Path(sweep.url), {"name": parts[2], "parameters": varied(sweep.config)})]

    return answer(path, read, seconds)


def varied(sweep: Mapping[str, Any]) -> list[str]:
    """Names of the settings that a sweep varies; of values that are mappings, the names in them."""
    found: dict[str, None] = {}
    for name, parameter in sweep.get("parameters", {}).items():
        for value in parameter.get("values", [parameter.get("value")]):
            found |= dict.fromkeys(flat({name: value}))
    return list(found)


def answer(path: str, request: Callable[[], T], seconds: float) -> T:
    """W&B's answer; a UserError of one line if there is none in time."""
    answers: list[T] = []
    failure = bounded(lambda: answers.append(request()), seconds)
    if failure is None:
        return answers[0]
    raise UserError(f"W&B's runs of {path}: {one_line(failure)}") from failure


def as_run(found: Any) -> Run:
    """A run of W&B's interface as a `Run`."""
    about = plain(found.summaryMetrics or {})
    summary = about.get("summary") or {}
    state, message = state_of(found.state, about)
    return Run(
        name=found.id,
        source=found.url,
        state=state,
        config=config_of(found.config),
        summary=summary,
        message=message,
        curves=lambda: curves_of(found),
        ended=datetime.fromisoformat(found.heartbeatAt).timestamp() if found.heartbeatAt else 0.0,
    )


def state_of(state: str, about: Mapping[str, Any]) -> tuple[str, str]:
    """A run's state and the reason for it.

    For W&B every run is finished whose program ended with 0; here its training and its test must be done.

    Args:
        state: W&B's name of it.
        about: the run's whole summary at W&B.
    """
    summary, error = about.get("summary") or {}, str(about.get("error") or "")
    if state == "finished":
        if not summary.get("fit", {}).get("finished"):
            return "stopped", "ended before its training had"
        return ("finished", "") if summary.get("test") else ("stopped", "ended before its test was done")
    if state == "failed" and about.get("exit_code") in STOPPED:
        return "stopped", error
    return STATES.get(state, "failed"), error if state == "failed" else "" if state in STATES else f"W&B: {state}"


def config_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The nested configuration of a run's flat one.

    A sweep's own keys (`model.fusion: Bottleneck`) are left out where there are resolved ones
    (`model.fusion.class_path`).
    """
    heads = {name[:i] for name in found for i, letter in enumerate(name) if letter == "."}
    settings = {name: {} if value == EMPTY else plain(value) for name, value in found.items() if name not in heads}
    return upgrade(nested(settings))


def curves_of(found: Any) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run over the steps of training; of values logged twice, as after a resume, the last."""
    curves: dict[str, dict[int, float]] = {}

    def read() -> None:
        for row in found.scan_history():
            step = row.get(X_AXIS)
            for name, value in row.items():
                if step is not None and name != X_AXIS and not name.startswith("_") and is_number(value):
                    curves.setdefault(name, {})[int(step)] = float(value)

    answer(found.url, read, PATIENCE_SECONDS)
    return {name: sorted(points.items()) for name, points in curves.items()}


def is_number(value: Any) -> bool:
    """Whether a value of a run's history can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> Any:
    """Plain dictionaries and lists of what W&B's interface wraps."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def points_left(sweep: Mapping[str, Any], started: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of a grid without a run, by their settings' names.

    Args:
        sweep: the sweep's file, as W&B keeps it.
        started: the flat configurations of its runs, which include the sweep's values as the sweep gave them.
    """
    parameters = sweep.get("parameters", {})
    if sweep.get("method") != "grid" or any(not {"value", "values"} & p.keys() for p in parameters.values()):
        return []
    names = sorted(parameters)
    values = [parameters[name].get("values", [parameters[name].get("value")]) for name in names]
    if (count := math.prod(map(len, values))) > MOST_POINTS:
        raise UserError(f"the sweep's grid has {count} points; at most {MOST_POINTS} can be listed")
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    done = [{name: config.get(name) for name in names} for config in started]
    return [point for point in points if point not in done]
