"""From a sweep file to trials: every point is resolved to an experiment; points that are equal ones share a trial.

Resolving asks the program's own parser, which needs torch and seconds. Its results are kept in the ledger, and asked
for again only when the sweep file, a file that it names, the command line or the program has changed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mbt_lightning
from mbt_lightning.config.settings import fingerprint, flat
from mbt_lightning.config.yaml_files import files_named
from mbt_lightning.errors import UserError
from mbt_lightning.runs.read import is_finite
from mbt_lightning.sweep.ledger import Ledger, TrialStatus
from mbt_lightning.sweep.resolved import Resolved
from mbt_lightning.sweep.sweep_file import SweepFile, command_words, draw, points

Resolver = Callable[[Sequence[str], Sequence[Mapping[str, Any]]], list[Resolved]]
"""The words after `mbt` that all trials share, and the values of each point, which win over files, to experiments."""

NO_LOGGER = json.dumps({"trainer": {"logger": False}})
"""After the sweep's own files: only the runs' folders are logged to, unless a file of the command line adds more."""

TRIES_FOR_A_NEW_POINT = 20


@dataclass
class Planner:
    """Makes a sweep's plan, and lets it grow where its points depend on results.

    Args:
        sweep: the sweep.
        ledger: where the plan lies.
        resolver: the program's own.
        extra: words of the command line for all trials: experiment files and options.
        count: number of points of a random or bayes search.
        seed: of a random or bayes search.
    """

    sweep: SweepFile
    ledger: Ledger
    resolver: Resolver = field(repr=False)
    extra: Sequence[str] = ()
    count: int = 0
    seed: int = 0
    made: dict[str, Any] = field(default_factory=dict, repr=False)
    """The plan that this process works on; another one of the same name does not change it."""
    configs: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """Resolved configurations that the ledger does not have yet, by trial."""

    @property
    def words(self) -> list[str]:
        """The words after `mbt` that all trials share; values of a point win over the files among them."""
        return [*command_words(self.sweep), "--config", NO_LOGGER, *self.extra]

    def command(self, trial: str) -> list[str]:
        """The words after `mbt` that start a trial on this machine."""
        folder = self.ledger.folder
        config = str(self.ledger.config_file(trial))
        return ["fit", "--config", config, "--experiment", folder.name, "--runs", str(folder.parent)]

    def config(self, trial: str) -> dict[str, Any]:
        """A trial's resolved configuration."""
        return self.configs.get(trial) or self.ledger.config(trial)

    def statuses(self) -> dict[str, TrialStatus]:
        """The status of every trial of the plan that this process works on."""
        return {trial: self.ledger.status(trial) for trial in self.current()["trials"]}

    def digest(self) -> str:
        """A hash of all that the plan follows from."""
        found = hashlib.sha256(self.sweep.path.read_bytes())
        package = Path(mbt_lightning.__file__).parent
        for path in (*files_named(self.words), *sorted(package.rglob("*.py"))):
            found.update(path.read_bytes())
        found.update(json.dumps([self.words, self.count, self.seed]).encode())
        return found.hexdigest()

    def plan(self, write: bool = True) -> dict[str, Any]:
        """The plan, made if there is none yet or it is outdated.

        Args:
            write: whether a new one is written, in the place of the one before.
        """
        self.made = self.known() or {}
        if self.made:
            return self.made
        if not write:
            return self.new(self.ledger.plan)
        with self.ledger.lock():
            before = self.ledger.plan
            if not self.known():  # no other process was quicker
                self.write(self.new(before))
                if gone := [t for t in before["trials"] if t not in self.made["trials"] and self.ledger.attempts(t)]:
                    print(f"{len(gone)} runs of an earlier plan are not in this one; they stay in {self.ledger.folder}")
            self.made = self.ledger.plan
        return self.made

    def known(self) -> dict[str, Any] | None:
        """The plan of the ledger, if it is up to date and has the configuration of every trial."""
        plan = self.ledger.plan
        is_current = plan.get("digest") == self.digest()
        return plan if is_current and all(self.ledger.config_file(t).is_file() for t in plan["trials"]) else None

    def check_unchanged(self) -> None:
        """Refuse to start more trials of an outdated plan.

        Raises:
            UserError: something that the plan follows from has changed since it was made.
        """
        if self.made["digest"] != self.digest():
            raise UserError(
                f"{self.sweep.path}, a file that it names or the program has changed since the trials were planned, "
                "so no more are started; start the sweep again"
            )

    def current(self) -> dict[str, Any]:
        """The plan that this process works on, with what other processes have added to it (bayes)."""
        if self.sweep.method == "bayes" and (plan := self.ledger.plan).get("digest") == self.made["digest"]:
            self.made = plan
        return self.made

    def new(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """A new plan in the place of an earlier one."""
        if self.sweep.method == "grid":
            values = points(self.sweep)[: self.sweep.run_cap]
        elif self.sweep.method == "random":
            values = [draw(self.sweep, self.seed, number) for number in range(self.count)]
        else:  # what has been learned is kept
            values = [point["values"] for point in before["points"]]
        if len(values) > 1:
            print(f"planning {len(values)} points", flush=True)
        self.made = {
            "sweep": str(self.sweep.path),
            "name": self.ledger.folder.name,
            "digest": self.digest(),
            "metric": {"name": self.sweep.metric, "goal": self.sweep.goal},
            "parameters": sorted(self.sweep.parameters),
            "points": [],
            "trials": {},
        }
        self.add(self.made, values)
        return self.made

    def grow(self) -> bool:
        """Add the trial that the results so far suggest (bayes); false if there are enough points, or none is new."""
        if self.sweep.method != "bayes":
            return False
        from mbt_lightning.sweep.bayes import suggest

        with self.ledger.lock():
            plan = self.current()
            statuses = self.ledger.statuses()
            for _ in range(TRIES_FOR_A_NEW_POINT):
                number, known = len(plan["points"]), len(plan["trials"])
                if number >= self.count:
                    return False
                history, pending = [], []
                for point in plan["points"]:
                    status = statuses.get(point["trial"])
                    if status and status.name in ("failed", "done"):
                        score = self.score(point["trial"]) if status.name == "done" else None
                        history.append((point["values"], math.nan if score is None else score))
                    else:
                        pending.append(point["values"])
                self.add(plan, [suggest(self.sweep, self.seed, history, pending, number)])
                self.write(plan)
                if len(plan["trials"]) > known:
                    return True
        return False

    def add(self, plan: dict[str, Any], values: Sequence[Mapping[str, Any]]) -> None:
        """Resolve points and add them to a plan; a point that is the experiment of an earlier one shares its trial."""
        for point, resolved in zip(values, self.resolver(self.words, values) if values else [], strict=True):
            trial = fingerprint(resolved.config)
            plan["points"].append({"values": dict(point), "trial": trial})
            if trial not in plan["trials"]:
                plan["trials"][trial] = {name: value for name, value in vars(resolved).items() if name != "config"}
                self.configs[trial] = resolved.config

    def write(self, plan: Mapping[str, Any]) -> None:
        """Write a plan, and before it the configurations of its new trials."""
        for trial, config in self.configs.items():
            self.ledger.write_config(trial, config)
        self.ledger.write_plan(plan)
        self.configs.clear()

    def score(self, trial: str) -> float | None:
        """What a trial's run has reached in the sweep's metric."""
        return score_of(self.ledger.folder / trial, self.sweep.metric, self.sweep.goal)


def check_options(sweep: SweepFile, extra: Sequence[str]) -> None:
    """Refuse options that would override what is swept, or what the sweep decides itself."""
    chosen = [flat(values) for values in points(sweep)] if sweep.method == "grid" else [dict.fromkeys(sweep.parameters)]
    swept = sorted({name for values in chosen for name in values})
    if "ckpt_path" in swept:
        raise UserError(f"{sweep.path}: ckpt_path cannot be swept: a trial resumes from its own; sweep model.init.path")
    for word in command_words(sweep):
        if word.startswith("--") and word[2:].split("=")[0] in swept:
            raise UserError(f"{sweep.path}: the command's {word} is also a parameter; leave the option out")
    for word in extra:
        name = word.removeprefix("--").split("=")[0]
        for other in swept if word.startswith("--") else ():
            if name == other or name.startswith(f"{other}.") or other.startswith(f"{name}."):
                raise UserError(f"{word}: {other} is what {sweep.path} varies; leave the option out")
        if word.startswith("--") and name in ("experiment", "ckpt_path", "print_config"):
            raise UserError(f"{word}: a sweep names its runs and resumes them itself; leave the option out")


def score_of(folder: Path, metric: str, goal: str) -> float | None:
    """What a run has reached in a metric: `test/…` in its test, any other at its best during training."""
    part, _, name = metric.partition("/")
    try:
        if part == "test":
            values = [json.loads((folder / "summary.json").read_text())["test"][name]]
        else:
            with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
                values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return (max if goal == "maximize" else min)(filter(is_finite, values), default=None)
