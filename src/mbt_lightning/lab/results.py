"""Runs as they lie in their folders: what they were set to, how far they came, what they scored. Without torch.

A run's folder is `<runs>/<experiment>/<run id>/` with `config.yaml`, `metrics.csv`, `summary.json` and, since there is
one, `state.json`. A sweep keeps its plan beside its runs, in `<runs>/<sweep>/sweep/plan.json`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.errors import UserError
from mbt_lightning.lab.ledger import read_ledger
from mbt_lightning.settings import nested

Curves = dict[str, list[tuple[int, float]]]
"""Values of each metric by step: {name: [(step, value), ...]}."""

FILES = ("config.yaml", "state.json", "summary.json")
"""What makes a folder a run's."""

NOT_TRAININGS = ("verbose", "return_predictions")
"""Settings that only `mbt validate`, `mbt test` and `mbt predict` have."""


@dataclass(frozen=True)
class Run:
    """One training, as a table needs it.

    Args:
        name: its id.
        source: its folder, or its W&B address.
        state: `finished`, `running`, `failed`, `stopped` (by a signal), `killed` (its process is gone) or `waiting`
            (planned by a sweep, not begun).
        config: the resolved configuration, nested; empty if unknown.
        summary: as in `summary.json`; empty if there is none.
        message: why it failed, in one line.
        curves: gives the values of each metric by step when they are asked for.
        ended: when it was last heard of, in seconds since 1970; 0 if unknown.
    """

    name: str
    source: str
    state: str
    config: dict[str, Any]
    summary: dict[str, Any]
    message: str = ""
    curves: Callable[[], Curves] = dict
    ended: float = 0.0

    @property
    def test(self) -> dict[str, Any]:
        """The test's scores by name, fractions from 0 to 1."""
        return self.summary.get("test") or {}

    @property
    def is_scored(self) -> bool:
        """Whether the training was ended and its test gave a score."""
        return self.state == "finished" and isinstance(self.test.get("score"), int | float)

    @property
    def is_training(self) -> bool:
        """Whether it is a training at all, not a `mbt test` or `mbt predict` of a checkpoint."""
        return not any(name in self.config for name in NOT_TRAININGS)


@dataclass(frozen=True)
class Plan:
    """What a sweep meant to run.

    Args:
        folder: the folder of the sweep's runs.
        content: of its `plan.json`: `name`, `parameters`, `points` (values and trial) and `trials` (their settings).
        states: state and message of trials that have no folder of their own; those that it does not name wait.
    """

    folder: Path
    content: dict[str, Any] = field(repr=False)
    states: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    @property
    def parameters(self) -> list[str]:
        """The swept settings by dotted names."""
        return list(self.content.get("parameters", []))

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every point of the grid: its `values` and the `trial` that it is scored by."""
        return list(self.content.get("points", []))

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        """Settings of every trial, by its id; the ids are those of the runs."""
        return {name: trial["settings"] for name, trial in self.content.get("trials", {}).items()}


def read_plan(folder: Path) -> Plan | None:
    """The plan of the sweep whose runs lie in a folder, and how it stands with its trials; None if no sweep does."""
    ledger = read_ledger(folder)
    if ledger is None:
        return None
    states = {trial: (state.name, state.message) for trial, state in ledger.states().items()}
    return Plan(folder, ledger.plan, states)


def read_folders(folders: Sequence[str | Path]) -> tuple[list[Run], list[Plan]]:
    """All runs in folders, at any depth, and the plans of the sweeps that they belong to.

    Args:
        folders: folders of runs, of experiments, or of all runs.

    Returns:
        The runs, those that a sweep has planned and not begun among them; the plans.

    Raises:
        UserError: a folder that is missing, or a file in it that cannot be read.
    """
    runs: dict[str, Run] = {}
    plans: dict[str, Plan] = {}
    for name in folders:
        top = Path(name)
        if not top.is_dir():
            raise UserError(f"{top}: no such folder; give folders of runs, by default `runs`")
        for folder in subfolders(top):
            if is_run(folder):
                runs[os.path.realpath(folder)] = read_run(folder)
            elif plan := read_plan(folder):
                plans[os.path.realpath(folder)] = plan
    for path, plan in plans.items():
        for trial, settings in plan.trials.items():
            if f"{path}/{trial}" not in runs:
                state, message = plan.states.get(trial, ("waiting", ""))
                runs[f"{path}/{trial}"] = Run(trial, str(plan.folder / trial), state, nested(settings), {}, message)
    return list(runs.values()), list(plans.values())


def subfolders(top: Path) -> Iterator[Path]:
    """A folder and all those in it, sorted, but nothing that lies inside of a run or is W&B's own."""
    yield top
    if not is_run(top):
        for entry in sorted(os.scandir(top), key=lambda e: e.name):
            if (
                entry.is_dir()
                and entry.name not in ("wandb", "sweep", "checkpoints")
                and not entry.name.startswith(".")
            ):
                yield from subfolders(Path(entry.path))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return any((folder / name).is_file() for name in FILES)


def read_run(folder: Path) -> Run:
    """A run from its folder, whatever is there of it.

    Raises:
        UserError: a file that cannot be read.
    """
    config = read_yaml(folder / "config.yaml")
    summary, state = read_json(folder / "summary.json"), read_json(folder / "state.json")
    name, message = state_of(summary, state)
    path = folder / ("summary.json" if summary else "state.json" if state else "config.yaml")
    curves = partial(read_curves, folder / "metrics.csv")
    return Run(folder.name, str(folder), name, config, summary, message, curves, path.stat().st_mtime)


def state_of(summary: dict[str, Any], state: dict[str, Any]) -> tuple[str, str]:
    """State and message of a run from its files; a run from before `state.json` is told by its summary."""
    if state:
        name, message = state["state"], state.get("message") or ""
        if name == "running" and state.get("host") == socket.gethostname() and not is_alive(state["pid"]):
            return "killed", message or "its process is gone"
        return name, message
    fit = summary.get("fit") or {}
    if not summary:
        return "stopped", "no summary.json: it did not come to its end"
    if "fit" in summary and not fit.get("finished"):
        return "stopped", f"training ended after {fit.get('epochs', '?')} epochs"
    if not summary.get("test"):
        return "stopped", "no test scores"
    return "finished", ""


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); mend it, or move the run out of the way") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object; mend it, or move the run out of the way")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration; empty if there is no file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, loader)
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: is no YAML ({problem}); mend it, or move the run out of the way") from None
    return content if isinstance(content, dict) else {}


def read_curves(path: Path) -> Curves:
    """The metrics of a run by step, from its `metrics.csv`; none if there is no such file."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        names = next(rows, [])
        curves: Curves = {name: [] for name in names if name not in ("step", "epoch")}
        place = names.index("step") if "step" in names else 0
        for row in rows:
            for name, cell in zip(names, row, strict=False):
                if cell and name in curves and math.isfinite(value := float(cell)):
                    curves[name].append((int(row[place]), value))
    return {name: points for name, points in curves.items() if points}
