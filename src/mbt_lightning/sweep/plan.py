"""From a sweep file to trials: every point resolved to an experiment, equal ones told once.

Resolving asks the program's own parser, which takes torch and seconds; its results are written down in the ledger, and
asked for again only when the sweep file, a file that it names, the command line or the program has changed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mbt_lightning
from mbt_lightning.config.settings import fingerprint, flat
from mbt_lightning.config.yaml_files import files_named
from mbt_lightning.errors import UserError
from mbt_lightning.sweep.ledger import Ledger
from mbt_lightning.sweep.sweep_file import SweepFile, arguments, draw, points

VALUES_HERE = "{values}"
"""Stands in a command for the JSON of a trial's values until they are known."""

NO_LOGGER = json.dumps({"trainer": {"logger": False}})
"""Behind the sweep's own files: with no account only the runs' folders are logged to, unless a file given says more."""

TRIES_FOR_A_NEW_POINT = 20


@dataclass
class Planner:
    """Makes a sweep's plan, and lets it grow where its points depend on results.

    Args:
        sweep: the sweep.
        ledger: where the plan lies.
        more: words of the command line for all trials: experiment files and options.
        count: how many points a random or bayes search has.
        seed: of a random or bayes search.
    """

    sweep: SweepFile
    ledger: Ledger
    more: Sequence[str] = ()
    count: int = 0
    seed: int = 0
    resolver: Any = field(default=None, repr=False)
    made: dict[str, Any] = field(default_factory=dict, repr=False)
    """The plan that this process works on; another one of the same name does not change it."""

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The command line of a point, behind `mbt`; the same on all machines, see `at_home`."""
        words = arguments(self.sweep, values, VALUES_HERE)
        more = [*("--config", NO_LOGGER), *self.more]
        # The sweep's values are said last of all files; where they come as options, they win in any case.
        said = [i for i, word in enumerate(words) if word in (VALUES_HERE, json.dumps(values))]
        at = said[0] - 1 if said else len(words)
        words = [*words[:at], *more, *words[at:]]
        return [json.dumps(values) if word == VALUES_HERE else word for word in words]

    def at_home(self, words: Sequence[str]) -> list[str]:
        """A trial's command line with the folder that its run shall lie in, as this machine knows it."""
        return [*words, "--experiment", self.ledger.folder.name, "--runs", str(self.ledger.folder.parent)]

    def digest(self) -> str:
        """A hash of all that the plan follows from."""
        found = hashlib.sha256(self.sweep.path.read_bytes())
        package = Path(mbt_lightning.__file__).parent
        for path in (*files_named(self.words({})), *sorted(package.rglob("*.py"))):
            found.update(path.read_bytes())
        found.update(json.dumps([self.words({}), self.count, self.seed]).encode())
        return found.hexdigest()

    def plan(self, write: bool = True) -> dict[str, Any]:
        """The plan, made if it is not there or no longer true.

        Args:
            write: whether a new one is written down, in the place of the one before.
        """
        self.made = self.known() or {}
        if self.made:
            return self.made
        if not write:
            return self.new(self.ledger.plan)
        with self.ledger.lock():
            before = self.ledger.plan
            if before.get("digest") != self.digest():  # nobody was quicker
                self.ledger.write_plan(self.new(before))
                if gone := [t for t in before["trials"] if t not in self.made["trials"] and self.ledger.attempts(t)]:
                    print(f"{len(gone)} runs of an earlier plan are not in this one; they stay in {self.ledger.folder}")
            self.made = self.ledger.plan
        return self.made

    def known(self) -> dict[str, Any] | None:
        """The plan that is written down, if it is still true."""
        plan = self.ledger.plan
        return plan if plan.get("digest") == self.digest() else None

    def is_changed(self) -> bool:
        """Whether something that the plan follows from has changed since it was made."""
        return self.made["digest"] != self.digest()

    def current(self) -> dict[str, Any]:
        """The plan that this process works on, with what others have added to it (bayes)."""
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
        """Let the results so far suggest a new trial (bayes); false if there are points enough, or none is new."""
        if self.sweep.method != "bayes":
            return False
        from mbt_lightning.sweep.bayes import suggest

        with self.ledger.lock():
            plan = self.current()
            states = self.ledger.states()
            for _ in range(TRIES_FOR_A_NEW_POINT):
                number, known = len(plan["points"]), len(plan["trials"])
                if number >= self.count:
                    return False
                history, pending = [], []
                for point in plan["points"]:
                    state = states.get(point["trial"])
                    if state and state.name in ("failed", "done"):
                        score = self.score(point["trial"]) if state.name == "done" else None
                        history.append((point["values"], math.nan if score is None else score))
                    else:
                        pending.append(point["values"])
                self.add(plan, [suggest(self.sweep, self.seed, history, pending, number)])
                self.ledger.write_plan(plan)
                if len(plan["trials"]) > known:
                    return True
        return False

    def add(self, plan: dict[str, Any], values: Sequence[Mapping[str, Any]]) -> None:
        """Resolve points and add them to a plan; a point that is the experiment of an earlier one shares its trial."""
        if self.resolver is None and values:
            from mbt_lightning.cli.resolve import resolve  # the program, and torch with it

            self.resolver = resolve
        lines = [self.words(v) for v in values]
        for point, words, config in zip(values, lines, self.resolver(values, lines) if values else [], strict=True):
            trial = fingerprint(config)
            plan["points"].append({"values": dict(point), "trial": trial})
            plan["trials"].setdefault(trial, {"settings": flat(config), "words": words})

    def score(self, trial: str) -> float | None:
        """What a trial's run has reached in the sweep's metric."""
        return score_of(self.ledger.folder / trial, self.sweep.metric, self.sweep.goal)


def check_options(sweep: SweepFile, more: Sequence[str]) -> None:
    """Refuse options that would override what is swept, or what the sweep decides itself."""
    chosen = [flat(values) for values in points(sweep)] if sweep.method == "grid" else [dict.fromkeys(sweep.parameters)]
    names = {name for values in chosen for name in values}
    if "ckpt_path" in names:
        raise UserError(f"{sweep.path}: ckpt_path cannot be swept: a trial goes on from its own; sweep model.init.path")
    for word in more:
        name = word.removeprefix("--").split("=")[0]
        for swept in sorted(names) if word.startswith("--") else ():
            if name == swept or name.startswith(f"{swept}.") or swept.startswith(f"{name}."):
                raise UserError(f"{word}: {swept} is what {sweep.path} varies; leave the option out")
        if word.startswith("--") and name in ("experiment", "ckpt_path", "print_config"):
            raise UserError(f"{word}: a sweep names its runs and resumes them itself; leave the option out")


def score_of(folder: Path, metric: str, goal: str) -> float | None:
    """What a run has reached in a metric: `test/…` in its test, anything else at its best while training."""
    part, _, name = metric.partition("/")
    try:
        if part == "test":
            return json.loads((folder / "summary.json").read_text())["test"][name]
        with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
            values = [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
        return (max if goal == "maximize" else min)(values, default=None)
    except (OSError, ValueError, KeyError, TypeError):
        return None
