"""The runs of sweeps and what their plans mean to run, from folders. Without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import nested
from mbt_lightning.errors import UserError
from mbt_lightning.runs.read import REPAIR_HINT, Run, is_run, read_run
from mbt_lightning.sweep.ledger import read_ledger


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
        raise UserError(f"{top}: cannot be read ({error.strerror}); {REPAIR_HINT}") from None
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith(".") and not is_inner(Path(entry.path)):
            yield from subfolders(Path(entry.path), seen)


def is_inner(folder: Path) -> bool:
    """Whether a folder is W&B's own or a sweep's plan, not an experiment that happens to be called so."""
    if folder.name == "sweep":
        return (folder / "plan.json").is_file()
    return folder.name == "wandb" and any(folder.glob("*run-*/"))
