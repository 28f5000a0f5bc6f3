"""The runs in folders, and those that the plans of sweeps add to them. Without torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import nested
from mbt_lightning.config.upgrade import new_name, upgrade
from mbt_lightning.errors import UserError
from mbt_lightning.runs.read import MEND, Run, is_run, read_run
from mbt_lightning.sweep.ledger import Ledger, TrialStatus, read_ledger


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep.

    Args:
        folder: the folder of the sweep's runs.
        content: of its `plan.json`: `name`, `parameters`, `points` (values and trial) and `trials` (their costs).
        statuses: of its trials.
    """

    folder: Path
    content: dict[str, Any] = field(repr=False)
    statuses: dict[str, TrialStatus] = field(default_factory=dict, repr=False)

    @property
    def parameters(self) -> list[str]:
        """The swept settings by dotted names."""
        return [new_name(name) for name in self.content.get("parameters", [])]

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every point of the sweep: its `values` and the `trial` that computes it."""
        return [
            point | {"values": {new_name(name): value for name, value in point["values"].items()}}
            for point in self.content.get("points", [])
        ]

    def planned_run(self, trial: str) -> Run:
        """A trial that has no run yet."""
        status = self.statuses.get(trial, TrialStatus("waiting"))
        settings = self.content["trials"][trial].get("settings")  # in plans of version 0.1
        config = upgrade(nested(settings)) if settings else Ledger(self.folder).config(trial)
        return Run(trial, str(self.folder / trial), status.name, config, {}, status.message)


def read_plan(folder: Path) -> Plan | None:
    """The plan of the sweep whose runs lie in a folder, with the status of its trials; None if there is none."""
    ledger = read_ledger(folder)
    return Plan(folder, ledger.plan, ledger.statuses()) if ledger else None


def read_folders(folders: Sequence[str | Path]) -> tuple[list[Run], list[Plan]]:
    """All runs in folders, at any depth, and the plans of the sweeps that they belong to.

    Args:
        folders: folders of runs, of experiments, or of all runs.

    Returns:
        The runs, among them those that a sweep has planned and not started; the plans.

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
        for trial in plan.content.get("trials", {}):
            if f"{path}/{trial}" not in runs:
                runs[f"{path}/{trial}"] = plan.planned_run(trial)
    return list(runs.values()), list(plans.values())


def subfolders(top: Path, seen: set[str] | None = None) -> Iterator[Path]:
    """A folder and all those in it, sorted, without the inside of runs and the folders of W&B and of a sweep's plan.

    Args:
        top: the folder.
        seen: real paths of folders already visited, which a link may lead to again.
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
    """Whether a folder is W&B's own or holds a sweep's plan, and is no experiment of that name."""
    if folder.name == "sweep":
        return (folder / "plan.json").is_file()
    return folder.name == "wandb" and any(folder.glob("*run-*/"))
