"""A sweep's ledger on disk: which trials exist and the state of each attempt.

It lies in `<runs>/<sweep>/sweep/`, beside the folders of the runs:

    plan.json                     every point of the sweep, and the trial (one `mbt fit`) that computes it
    trials/<trial>/config.yaml    the trial's resolved configuration
    trials/<trial>/<n>.json       the n-th attempt at the trial: who has claimed it, since when
    trials/<trial>/<n>.end        how that attempt ended
    trials/<trial>/<n>.log        what it printed

Several `mbt sweep` on several machines may share the folder. A claim is a file that only one of them can create; to
take over from one that has died is to create the next number. The owner of an attempt touches its claim every few
seconds, and gives up when it finds a higher number than its own. No claim or end is ever deleted, or changed by
another.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from mbt_lightning.disk import write_json, write_text
from mbt_lightning.errors import UserError
from mbt_lightning.process import identity, is_running, machine, myself
from mbt_lightning.runs.read import read_yaml

HEARTBEAT_SECONDS = 10.0
LOST_AFTER_SECONDS = 90.0
"""An attempt on another machine whose claim has not been touched for as long is dead, with its machine."""

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

CLAIM = re.compile(r"([1-9][0-9]{0,8})\.json", re.ASCII)
TRIAL = re.compile(r"[\w-]+(\.[\w-]+)*")
"""A trial's name, which is a folder's: no path."""

PENDING = ("waiting", "killed", "stopped")
"""Statuses of a trial that is to be run or resumed."""


@dataclass(frozen=True)
class TrialStatus:
    """The status of a trial.

    Args:
        name: `waiting` (never tried), `running`, `done`, `failed`, `stopped` (asked to), `killed` (its owner is gone).
        message: why it failed, or who runs it.
        attempts: how often it was tried.
        failures: how many of these failed.
        seconds: duration of the attempts that have ended.
    """

    name: str
    message: str = ""
    attempts: int = 0
    failures: int = 0
    seconds: float = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether the trial is to be run or resumed."""
        return self.name in PENDING

    def can_retry(self, retries: int) -> bool:
        """Whether the trial has failed, and not more often than it may."""
        return self.name == "failed" and self.failures <= retries

    def needs_run(self, retries: int) -> bool:
        """Whether the trial is to be run, resumed or retried."""
        return self.is_pending or self.can_retry(retries)


class Ledger:
    """The ledger of one sweep.

    Args:
        folder: the sweep's folder, `<runs>/<sweep>`, in which its runs' folders lie.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.home = self.folder / "sweep"
        self._ended: dict[Path, dict[str, Any]] = {}

    @property
    def plan_file(self) -> Path:
        """Where the plan lies."""
        return self.home / "plan.json"

    @property
    def plan(self) -> dict[str, Any]:
        """The plan, or an empty one if none has been made.

        Raises:
            UserError: a file that is no plan.
        """
        if not self.plan_file.is_file():
            return {"points": [], "trials": {}}
        plan = read(self.plan_file)
        if not is_plan(plan):
            raise UserError(f"{self.plan_file}: not a sweep's plan; delete it, and the sweep plans again")
        return plan

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write the plan, whole or not at all; hold `lock` from reading it to writing it."""
        self.home.mkdir(parents=True, exist_ok=True)
        write_json(self.plan_file, plan)

    def lock(self) -> FileLock:
        """The lock to hold while the plan is made or grows."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.home}: cannot make this folder ({error.strerror}); give --runs FOLDER") from None
        return FileLock(self.home / "plan.lock")

    def config_file(self, trial: str) -> Path:
        """Where a trial's resolved configuration lies."""
        return self.home / "trials" / trial / "config.yaml"

    def config(self, trial: str) -> dict[str, Any]:
        """A trial's resolved configuration; empty if there is none.

        Raises:
            UserError: a file that cannot be read.
        """
        return read_yaml(self.config_file(trial))

    def write_config(self, trial: str, config: Mapping[str, Any]) -> None:
        """Write a trial's resolved configuration."""
        path = self.config_file(trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.dump(config, Dumper=DUMPER, sort_keys=False), sync=True)

    def statuses(self) -> dict[str, TrialStatus]:
        """The status of every trial of the plan."""
        return {trial: self.status(trial) for trial in self.plan["trials"]}

    def status(self, trial: str) -> TrialStatus:
        """The status of a trial."""
        attempts = self.attempts(trial)
        ends = {n: self.end_of(trial, n) for n in attempts}
        failures = sum(end["state"] == "failed" for end in ends.values() if end)
        seconds = sum(end["seconds"] for end in ends.values() if end)
        if not attempts:
            return TrialStatus("waiting")
        last = attempts[-1]
        if end := ends[last]:
            if end["state"] == "done" and not (self.folder / trial / "summary.json").is_file():
                return TrialStatus("waiting", "its run's folder is gone", last, failures)
            return TrialStatus(end["state"], end["message"], last, failures, seconds)
        claim = self.claim_file(trial, last)
        owner = read(claim)
        where = f"on {owner.get('host', '?')}, process {owner.get('pid', '?')}"
        if is_alive(owner, claim):
            return TrialStatus("running", where, last, failures, seconds)
        if read(self.folder / trial / "state.json").get("state") == "finished":  # its sweep died before it noted that
            return TrialStatus("done", "", last, failures, seconds)
        return TrialStatus("killed", f"its sweep is gone, {where}", last, failures, seconds)

    def attempts(self, trial: str) -> list[int]:
        """Numbers of the attempts at a trial, in order."""
        with suppress(FileNotFoundError, NotADirectoryError):
            found = map(CLAIM.fullmatch, os.listdir(self.home / "trials" / trial))
            return sorted(int(name[1]) for name in found if name)
        return []

    def claim_file(self, trial: str, attempt: int) -> Path:
        """Where an attempt is claimed."""
        return self.home / "trials" / trial / f"{attempt}.json"

    def end_of(self, trial: str, attempt: int) -> dict[str, Any] | None:
        """How an attempt ended: state, message, exit_code, seconds; None if it has not, or its file is damaged."""
        path = self.claim_file(trial, attempt).with_suffix(".end")
        if path not in self._ended and is_end(content := read(path)):
            self._ended[path] = content
        return self._ended.get(path)

    def claim(self, trial: str, after: int) -> Attempt | None:
        """Claim the next attempt at a trial.

        Args:
            trial: its id.
            after: the number of attempts when it was chosen; if there are more by now, another process was quicker.

        Returns:
            The attempt; None if another process has it.
        """
        path = self.claim_file(trial, after + 1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{path.parent}: a file is where a folder of the sweep belongs; move it away") from None
        # Written aside and linked: the claim is whole or not there at all, and only one process gets the name.
        aside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}")
        aside.write_text(json.dumps(myself() | {"claimed": time.time()}))
        try:
            os.link(aside, path)
        except FileExistsError:
            if aside.stat().st_nlink < 2:  # else it is ours: NFS lost the reply and repeated the request
                return None
        except OSError:  # no hard links here
            try:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(aside.read_text())
            except FileExistsError:
                return None
        finally:
            aside.unlink()
        if after:
            end_leftovers(read(self.claim_file(trial, after)))
        return Attempt(self, trial, after + 1)


class Attempt:
    """A claimed attempt at a trial, as its owner has it.

    Args:
        ledger: the sweep's ledger.
        trial: the trial's id.
        number: which attempt it is, from 1.
    """

    def __init__(self, ledger: Ledger, trial: str, number: int):
        self.ledger, self.trial, self.number = ledger, trial, number
        self.file = ledger.claim_file(trial, number)
        self.log = self.file.with_suffix(".log")
        self.since = time.time()
        self.touched = time.monotonic()

    def started(self, pid: int) -> None:
        """Record the trial's process, which leads a process group of its own."""
        write_json(self.file, myself() | {"claimed": self.since, "trial": identity(pid)})

    def beat(self) -> bool:
        """Touch the claim every few seconds; false when another process has taken over."""
        if time.monotonic() - self.touched > HEARTBEAT_SECONDS:
            self.touched = time.monotonic()
            with suppress(OSError):  # a network's hiccup; a longer one lets others take over
                os.utime(self.file)
            return not self.ledger.claim_file(self.trial, self.number + 1).exists()
        return True

    def end(self, status: str, exit_code: int | None, message: str = "") -> None:
        """Record how it ended.

        Args:
            status: `done`, `failed` or `stopped`.
            exit_code: of the trial's process, negative for a signal.
            message: the reason, in one line.
        """
        seconds = time.time() - self.since
        content = {"state": status, "exit_code": exit_code, "message": message, "seconds": round(seconds, 1)}
        write_json(self.file.with_suffix(".end"), content | {"ended": time.time()})


def read_ledger(folder: Path) -> Ledger | None:
    """The ledger in a sweep's folder; None if there is none."""
    ledger = Ledger(folder)
    return ledger if ledger.plan_file.is_file() else None


def is_alive(owner: Mapping[str, Any], claim: Path) -> bool:
    """Whether the owner of a claim is alive: by its process on this machine, by the age of the claim on another one."""
    if owner.get("machine") == machine():
        return is_running(owner)
    with suppress(FileNotFoundError):
        return now_in(claim.parent) - claim.stat().st_mtime < LOST_AFTER_SECONDS
    return False


def now_in(folder: Path) -> float:
    """The time by the file system's clock, which may be another machine's."""
    probe = folder / f".clock.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
    except OSError:  # read-only
        return time.time()
    return now


def end_leftovers(claim: Mapping[str, Any]) -> None:
    """End the trial of an attempt whose owner has died, if it still runs on this machine."""
    trial = claim.get("trial")
    if not isinstance(trial, Mapping):
        return
    if claim.get("machine") == machine() and is_running(trial):
        with suppress(ProcessLookupError):
            os.killpg(trial["pid"], signal.SIGKILL)
        while is_running(trial):
            time.sleep(0.05)


def read(path: Path) -> dict[str, Any]:
    """A file of the ledger; empty if it is unreadable, as after a power failure."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def is_end(content: Mapping[str, Any]) -> bool:
    """Whether a file says how an attempt ended."""
    seconds, message = content.get("seconds"), content.get("message")
    is_duration = isinstance(seconds, int | float) and math.isfinite(seconds)
    return content.get("state") in ("done", "failed", "stopped") and is_duration and isinstance(message, str)


def is_plan(content: Mapping[str, Any]) -> bool:
    """Whether a file is the plan of a sweep: trials by the names of their folders, and points that name them."""
    trials, points = content.get("trials"), content.get("points")
    if not isinstance(trials, dict) or not isinstance(points, list):
        return False
    for trial, about in trials.items():
        if not TRIAL.fullmatch(trial) or not isinstance(about, dict) or not isinstance(about.get("settings", {}), dict):
            return False
    return all(
        isinstance(point, dict)
        and isinstance(point.get("values"), dict)
        and isinstance(point.get("trial"), str)
        and point["trial"] in trials
        for point in points
    )
