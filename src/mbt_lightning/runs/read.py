"""Runs read from their folders: settings, progress and scores. Without torch.

A run's folder is `<runs>/<experiment>/<run id>/` with `config.yaml`, `metrics.csv`, `summary.json` and `state.json`
(missing in old runs). A sweep keeps its plan next to its runs, in `<runs>/<sweep>/sweep/plan.json`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from mbt_lightning.config.upgrade import upgrade
from mbt_lightning.config.yaml_files import refuse_bombs
from mbt_lightning.errors import UserError
from mbt_lightning.process import is_running
from mbt_lightning.runs.diverged import divergence

Curves = dict[str, list[tuple[int, float]]]
"""Values of each metric by step: {name: [(step, value), ...]}."""

FILES = ("config.yaml", "state.json", "summary.json")
"""The files by which a run's folder is recognised."""

FRACTION = re.compile(r"^score$|/(mAP|AUC|\w*top\d)(/|$)")
"""Names of scores that are from 0 to 1."""

REPAIR_HINT = "repair it, or move the run away"

NOT_TRAININGS = ("verbose", "return_predictions")
"""Settings that only `mbt validate`, `mbt test` and `mbt predict` have."""


def is_finite(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: its id.
        source: its folder, or its W&B address.
        state: `finished`, `running`, `failed`, `stopped` (by a signal), `killed` (its process is gone) or `waiting`
            (planned by a sweep, not started).
        config: the resolved configuration, nested; empty if unknown.
        summary: as in `summary.json`; empty if there is none.
        message: why it failed, in one line.
        curves: reads the values of each metric by step.
        ended: time of the last sign of life, in seconds since 1970; 0 if unknown.
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
        """The test scores by name, fractions from 0 to 1."""
        return part_of(self.summary, "test")

    @property
    def is_scored(self) -> bool:
        return self.state == "finished" and is_finite(self.test.get("score")) and not self.flaw

    @property
    def flaw(self) -> str:
        """Why its score cannot be trusted, in one line; empty if there is no reason not to."""
        for name, score in self.test.items():
            if FRACTION.search(name) and is_finite(score) and not 0 <= score <= 1:
                return f"its {name} is {score:g}, not from 0 to 1"
        if self.test and self.is_training and not part_of(self.summary, "fit").get("steps"):
            return "its summary has no training"
        return divergence(self.test)

    @property
    def why(self) -> str:
        """Why it has no score, in one line: why it failed, or what is wrong with its score; empty if unknown."""
        return self.message or self.flaw

    @property
    def is_training(self) -> bool:
        """Whether it is a training, not a `mbt test` or `mbt predict` of a checkpoint."""
        return not any(name in self.config for name in NOT_TRAININGS)


def is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def read_run(folder: Path) -> Run:
    """A run from its folder, complete or not.

    Raises:
        UserError: a file that cannot be read.
    """
    config = read_yaml(folder / "config.yaml")
    if all(isinstance(config.get(part, {}), dict) for part in ("model", "data", "trainer")):
        config = upgrade(config)
    summary, state = read_json(folder / "summary.json"), read_json(folder / "state.json")
    name, message = state_of(summary, state)
    check_summary(folder / "summary.json", summary)
    path = folder / ("summary.json" if summary else "state.json" if state else "config.yaml")
    curves = partial(read_curves, folder / "metrics.csv")
    return Run(folder.name, str(folder), name, config, summary, message, curves, path.stat().st_mtime)


def state_of(summary: dict[str, Any], state: dict[str, Any]) -> tuple[str, str]:
    """State and message of a run from its files; an old run without `state.json` is judged by its summary."""
    if name := state.get("state"):
        message, pid = str(state.get("message") or ""), state.get("pid")
        is_here = state.get("host") == socket.gethostname()
        if name == "running" and is_here and isinstance(pid, int) and not is_running({"pid": pid}):
            return "killed", message or "its process is gone"
        return str(name), message
    fit = part_of(summary, "fit")
    if not summary:
        return "stopped", "no summary.json: it did not finish"
    if "fit" in summary and not fit.get("finished"):
        return "stopped", f"training ended after {fit.get('epochs', '?')} epochs"
    if not summary.get("test"):
        return "stopped", "no test scores"
    return "finished", ""


def check_summary(path: Path, summary: dict[str, Any]) -> None:
    """Refuse a summary whose parts are not what `mbt fit` and `mbt test` write.

    Raises:
        UserError: with the name of the part.
    """
    data = part_of(summary, "data")
    parts = {name: summary.get(name) for name in ("data", "fit", "test", "machine", "versions", "provenance")}
    parts |= {f"data.{name}": data.get(name) for name in ("clips", "coverage")}
    for name, part in parts.items():
        if not isinstance(part or {}, dict):
            raise UserError(f"{path}: {name} is {part!r:.60}, not a JSON object; {REPAIR_HINT}")
    for name, found in part_of(summary, "provenance").items():
        if not isinstance(found, list) or not all(
            isinstance(one, dict) and isinstance(one.get("versions") or {}, dict) for one in found
        ):
            raise UserError(f"{path}: provenance.{name} is not a list of JSON objects; {REPAIR_HINT}")


def part_of(summary: dict[str, Any], name: str) -> dict[str, Any]:
    part = summary.get(name)
    return part if isinstance(part, dict) else {}


def read_text(path: Path) -> str:
    """The text of a file; empty if there is none.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {REPAIR_HINT}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); {REPAIR_HINT}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    text = read_text(path)
    if not text and not path.exists():
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON ({error}); {REPAIR_HINT}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object; {REPAIR_HINT}")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A configuration; empty if there is no file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if PyYAML was built with it
    try:
        content = yaml.load(read_text(path), loader)
        refuse_bombs(content)
    except (yaml.YAMLError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: is not YAML ({problem}); {REPAIR_HINT}") from None
    return content if isinstance(content, dict) else {}


def read_curves(path: Path) -> Curves:
    """The metrics of a run by step, from its `metrics.csv`; empty if there is no file."""
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
        raise UserError(f"{path}, line {rows.line_num}: {error}; {REPAIR_HINT}") from None
    return {name: points for name, points in curves.items() if points}
