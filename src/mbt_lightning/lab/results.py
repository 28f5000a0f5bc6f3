"""Runs as they lie in their folders: what they were set to, how far they came, what they scored. Without torch.

A run's folder is `<runs>/<experiment>/<run id>/` with `config.yaml`, `metrics.csv`, `summary.json` and, since there is
one, `state.json`. A sweep keeps its plan beside its runs, in `<runs>/<sweep>/sweep/plan.json`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from mbt_lightning.diverged import divergence
from mbt_lightning.errors import UserError
from mbt_lightning.lab.ledger import read_ledger
from mbt_lightning.settings import nested

Curves = dict[str, list[tuple[int, float]]]
"""Values of each metric by step: {name: [(step, value), ...]}."""

FILES = ("config.yaml", "state.json", "summary.json")
"""What makes a folder a run's."""

MEND = "mend it, or move the run out of the way"

NOT_TRAININGS = ("verbose", "return_predictions")
"""Settings that only `mbt validate`, `mbt test` and `mbt predict` have."""


def is_finite(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that can be reckoned with: neither missing nor NaN or infinite."""
    return isinstance(value, int | float) and math.isfinite(value)


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
        return part_of(self.summary, "test")

    @property
    def is_scored(self) -> bool:
        """Whether the training was ended and its test gave a score."""
        return self.state == "finished" and is_finite(self.test.get("score")) and not divergence(self.test)

    @property
    def why(self) -> str:
        """Why it has no score, in one line: why it failed, or that its model has diverged; empty if nobody knows."""
        return self.message or divergence(self.test)

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


def subfolders(top: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """A folder and all those in it, sorted, but nothing that lies inside of a run, is W&B's own or a sweep's.

    Args:
        top: the folder.
        seen: real paths of folders that came already, which a link may lead to again.
    """
    seen = set() if seen is None else seen
    if (path := os.path.realpath(top)) in seen:
        return
    seen.add(path)
    yield top
    if is_run(top):
        return
    try:
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{top}: cannot be read ({error.strerror}); {MEND}") from None
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith(".") and not is_inner(Path(entry.path)):
            yield from subfolders(Path(entry.path), seen)


def is_inner(folder: Path) -> bool:
    """Whether a folder is W&B's own or a sweep's plan, not an experiment that happens to be called so."""
    if folder.name == "sweep":
        return (folder / "plan.json").is_file()
    return folder.name == "wandb" and any(folder.glob("*run-*/"))


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
    if name := state.get("state"):
        message, pid = str(state.get("message") or ""), state.get("pid")
        is_here = state.get("host") == socket.gethostname()
        if name == "running" and is_here and isinstance(pid, int) and not is_alive(pid):
            return "killed", message or "its process is gone"
        return str(name), message
    fit = part_of(summary, "fit")
    if not summary:
        return "stopped", "no summary.json: it did not come to its end"
    if "fit" in summary and not fit.get("finished"):
        return "stopped", f"training ended after {fit.get('epochs', '?')} epochs"
    if not summary.get("test"):
        return "stopped", "no test scores"
    return "finished", ""


def part_of(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a summary; empty if there is none."""
    part = summary.get(name)
    return part if isinstance(part, dict) else {}


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def read_text(path: Path) -> str:
    """The text of a file; empty if there is none.

    Raises:
        UserError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {MEND}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8 ({error.reason} at byte {error.start}); {MEND}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    text = read_text(path)
    if not text and not path.exists():
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON ({error}); {MEND}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object; {MEND}")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration; empty if there is no file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    try:
        content = yaml.load(read_text(path), loader)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: is no YAML ({problem}); {MEND}") from None
    return content if isinstance(content, dict) else {}


def read_curves(path: Path) -> Curves:
    """The metrics of a run by step, from its `metrics.csv`; none if there is no such file."""
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    names = next(rows, [])
    curves: Curves = {name: [] for name in names if name not in ("step", "epoch")}
    place = names.index("step") if "step" in names else 0
    try:
        for row in rows:
            for name, cell in zip(names, row, strict=False):
                if cell and name in curves and math.isfinite(value := float(cell)):
                    curves[name].append((int(row[place]), value))
    except ValueError as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}; {MEND}") from None
    return {name: points for name, points in curves.items() if points}
