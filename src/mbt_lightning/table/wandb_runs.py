"""Runs of a W&B project or sweep, as tables know runs. W&B is imported only when it is asked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from mbt_lightning.config.settings import flat, nested
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
"""What W&B calls a run's state, and what we do; `finished` needs a second look."""

STOPPED = (130, 143)
"""Exit codes of runs that a signal has stopped."""

PATIENCE_SECONDS = 180.0
"""How long W&B may take to list all runs."""

T = TypeVar("T")


def read_wandb(path: str, seconds: float = PATIENCE_SECONDS) -> tuple[list[Run], list[Plan]]:
    """Read the runs of a project, or of a sweep and then the points of its grid that nobody has begun too.

    Args:
        path: `ENTITY/PROJECT` or `ENTITY/PROJECT/SWEEP`.
        seconds: how long that may take.

    Returns:
        The runs; of a sweep also what it varies, as a plan without points.

    Raises:
        UserError: there is no such place, nobody is logged in, or W&B cannot be reached in time.
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

    return asked(path, read, seconds)


def varied(sweep: Mapping[str, Any]) -> list[str]:
    """Names of the settings that a sweep varies; of values that are mappings, the names in them."""
    found: dict[str, None] = {}
    for name, parameter in sweep.get("parameters", {}).items():
        for value in parameter.get("values", [parameter.get("value")]):
            found |= dict.fromkeys(flat({name: value}))
    return list(found)


def asked(path: str, question: Callable[[], T], seconds: float) -> T:
    """W&B's answer; a UserError of one line if there is none in time."""
    answers: list[T] = []
    failure = bounded(lambda: answers.append(question()), seconds)
    if failure is None:
        return answers[0]
    raise UserError(f"W&B's runs of {path}: {one_line(failure)}") from failure


def as_run(found: Any) -> Run:
    """A run of W&B's interface as our record."""
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
    """Our word for a run's state, and why it is so.

    W&B takes every run for finished whose program ended with 0; here its training and its test must be done.

    Args:
        state: W&B's word.
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

    A sweep's own keys stand beside the resolved ones (`model.fusion: Bottleneck` beside `model.fusion.class_path`),
    which say more.
    """
    heads = {name[:i] for name in found for i, letter in enumerate(name) if letter == "."}
    return nested({name: {} if value == EMPTY else plain(value) for name, value in found.items() if name not in heads})


def curves_of(found: Any) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run over the training's steps; what was logged again after a resumption counts."""
    curves: dict[str, dict[int, float]] = {}

    def read() -> None:
        for row in found.scan_history():
            step = row.get(X_AXIS)
            for name, value in row.items():
                if step is not None and name != X_AXIS and not name.startswith("_") and is_number(value):
                    curves.setdefault(name, {})[int(step)] = float(value)

    asked(found.url, read, PATIENCE_SECONDS)
    return {name: sorted(points.items()) for name, points in curves.items()}


def is_number(value: Any) -> bool:
    """Whether a value of a run's history can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> Any:
    """Plain dictionaries and lists of what W&B's interface wraps."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def points_left(sweep: Mapping[str, Any], begun: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The points of a grid that no run was begun for, by their settings' names.

    Args:
        sweep: the sweep's file, as W&B keeps it.
        begun: the flat configurations of its runs, in which a sweep's values stand as it gave them.
    """
    parameters = sweep.get("parameters", {})
    if sweep.get("method") != "grid" or any(not {"value", "values"} & p.keys() for p in parameters.values()):
        return []
    names = sorted(parameters)
    values = [parameters[name].get("values", [parameters[name].get("value")]) for name in names]
    points = [dict(zip(names, point, strict=True)) for point in itertools.product(*values)]
    done = [{name: config.get(name) for name in names} for config in begun]
    return [point for point in points if point not in done]
