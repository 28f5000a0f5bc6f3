"""Workers of a sweep as jobs of a cluster, through submitit; a trial may span several nodes.

A job is a worker: it claims and runs one trial after the other, as a worker of `mbt sweep` on this machine does, so
that jobs, machines and a sweep that is started again share the work and double nothing. The first task of a job is the
worker; the others run their part of its trials.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mbt_lightning.disk import write_json
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.process import identity, is_running
from mbt_lightning.sweep import trial as trials
from mbt_lightning.sweep.ledger import Attempt, TrialStatus, read
from mbt_lightning.sweep.plan import Planner
from mbt_lightning.sweep.workers import Workers

POLL_SECONDS = 5.0
SECONDS_TO_CLAIM = 120.0
"""The other tasks of a job wait for its first one to claim a trial for as long."""

QUEUED = ("PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED", "UNKNOWN", "READY")
"""States of a job that may still do something."""


@dataclass
class Jobs:
    """Submits as many jobs as there are trials to run, and watches them until nothing is left.

    Args:
        planner: the sweep's planner.
        settings: `NAME=VALUE` of submitit's executor; `cluster` is slurm or local.
        retries: how often a failed trial is retried.
        count: how many trials are started at most; None: all.
        at_once: how many jobs may wait or run at a time; None: one a trial.
    """

    planner: Planner
    settings: Sequence[str]
    retries: int = 0
    count: int | None = None
    at_once: int | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.parameters = read_settings(self.settings)
        self.cluster = self.parameters.pop("cluster", "slurm")
        if not {"timeout_min", "slurm_time"} & self.parameters.keys():
            raise UserError("--launcher slurm: give the time limit of a job: --slurm timeout_min=MINUTES")
        self.parameters.setdefault("tasks_per_node", self.parameters.get("gpus_per_node", 1))
        self.folder = self.planner.ledger.home / "jobs"
        self.statuses: dict[str, TrialStatus] = self.planner.statuses()
        self.executor = self.make_executor()
        self.submitted: list[str] = []
        self.ended: set[str] = set()

    @property
    def num_workers(self) -> int:
        """How many trials run at a time: as many as the cluster lets."""
        return max(1, sum(status.name == "running" for status in self.statuses.values()))

    def make_executor(self) -> Any:
        """Submitit's executor with the settings."""
        try:
            import submitit
        except ImportError:
            raise UserError("--launcher slurm needs submitit: pip install 'mbt-lightning[slurm]'") from None
        if self.cluster not in ("slurm", "local"):
            raise UserError(f"--slurm cluster={self.cluster}: choose slurm or local")
        if self.cluster == "slurm" and submitit.AutoExecutor.which() != "slurm":
            raise UserError("--launcher slurm: there is no srun here; run it where jobs are submitted")
        executor = submitit.AutoExecutor(folder=self.folder / "%j", cluster=self.cluster)
        try:
            executor.update_parameters(name=f"mbt-{self.planner.ledger.folder.name}"[:40], **self.parameters)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise UserError(f"--slurm: {error}") from None
        return executor

    def run(self, show: Callable[[dict[str, TrialStatus]], None]) -> None:
        """Submit jobs and watch until nothing is left; stopping leaves the jobs to the cluster.

        Args:
            show: is called every few seconds with the status of every trial.

        Raises:
            UserError: the plan is outdated, or a job ended without having started a trial.
        """
        while True:
            alive = self.alive()
            self.statuses = self.planner.statuses()
            show(self.statuses)
            to_run = sum(status.needs_run(self.retries) for status in self.statuses.values())
            running = sum(status.name == "running" for status in self.statuses.values())
            if not to_run and self.planner.grow():
                continue
            allowed = sys.maxsize if self.count is None else self.count - len(self.submitted)
            wanted = min(to_run + running, self.at_once or sys.maxsize) - len(alive)
            for _ in range(min(wanted, to_run, allowed)):
                self.submit()
            if not running and (not to_run or not (alive or allowed)):
                return
            if self.stopping.wait(1.0 if self.cluster == "local" else POLL_SECONDS):
                print(f"the jobs stay with the cluster; their folder is {self.folder}", file=sys.stderr)
                return

    def submit(self) -> None:
        """Submit a job.

        Raises:
            UserError: the plan is outdated, the cluster refuses, or an earlier job ended without starting a trial.
        """
        self.planner.check_unchanged()
        for job in self.ended.intersection(self.submitted):
            if not turn_file(self.folder, job).exists():
                raise UserError(f"job {job} ended before it could start a trial; its output is in {self.folder / job}")
        nodes, tasks = self.parameters.get("nodes", 1), self.parameters["tasks_per_node"]
        try:
            job = self.executor.submit(Job(self.planner, nodes, tasks, self.retries, None if self.count is None else 1))
        except (OSError, RuntimeError) as error:
            raise UserError(f"--launcher slurm: the job was not accepted: {one_line(error)}") from None
        self.submitted.append(job.job_id)
        process = identity(int(job.job_id)) if self.cluster == "local" else {}
        write_json(self.folder / f"{job.job_id}.json", {"cluster": self.cluster} | process)

    def alive(self) -> list[str]:
        """The jobs of this process and earlier ones that wait or run."""
        known = {path.stem: read(path) for path in self.folder.glob("*.json") if path.stem not in self.ended}
        known = {job: about for job, about in known.items() if about.get("cluster") == self.cluster}
        if self.cluster == "local":
            found = [job for job, process in known.items() if is_running(process)]
        else:
            import submitit

            watcher = submitit.SlurmJob.watcher
            for job in known:
                watcher.register_job(job)
            watcher.update()  # asks for all at once
            found = [job for job in known if watcher.get_state(job, mode="cache").split(" ")[0] in QUEUED]
        self.ended |= known.keys() - set(found)
        return found


@dataclass
class Job:
    """What a job does, in each of its tasks; submitit carries it to the nodes, with the plan that was made here."""

    planner: Planner
    nodes: int
    tasks: int
    retries: int
    count: int | None

    def __call__(self) -> None:
        """Work, or follow the task that does."""
        import submitit

        here = submitit.JobEnvironment()
        worker = JobWorker(self.planner, [[]], self.retries, self.count)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stopping.set())
        worker.turn_file = turn_file(self.planner.ledger.home / "jobs", here.job_id)
        if here.num_tasks > 1:
            ranks = submitit.helpers.TorchDistributedEnvironment()
            worker.words = ["--trainer.num_nodes", str(self.nodes), "--trainer.devices", str(self.tasks)]
            worker.ranks = {
                "MASTER_ADDR": ranks.master_addr,
                "MASTER_PORT": str(ranks.master_port),
                "NODE_RANK": str(here.node),
                "LOCAL_RANK": str(here.local_rank),
                "RANK": str(here.global_rank),
                "WORLD_SIZE": str(here.num_tasks),
            }
        if here.global_rank:
            worker.follow()
            return
        worker.work([])  # in this thread, where submitit interrupts it before a time limit
        write_json(worker.turn_file, {"is_over": True})
        worker.raise_errors()

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Called by submitit before a time limit or a preemption: the same job again, which resumes the trial."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class JobWorker(Workers):
    """The worker of a job, in each of its tasks: the first claims trials and announces them to the others."""

    turn_file: Path
    """Where the first task announces which attempt starts."""
    words: Sequence[str] = ()
    """What every task adds to a trial's command."""
    ranks: Mapping[str, str] = MappingProxyType({})
    """This task's place among those of the job, if there are several."""

    def run_trial(self, attempt: Attempt, gpus: Sequence[str]) -> None:
        """Run a claimed trial together with the other tasks."""
        write_json(self.turn_file, {"trial": attempt.trial, "attempt": attempt.number})
        words, variables = self.part_of(attempt.trial)
        trials.run(attempt, words, self.variables(gpus) | variables, self.stopping.is_set)

    def is_over(self) -> bool:
        """Whether no trial waits: a job does not hold its nodes for trials that others run."""
        self.refresh()
        return self.may_start_no_more() or not any(s.needs_run(self.retries) for s in self.statuses.values())

    def part_of(self, trial: str) -> tuple[list[str], dict[str, str]]:
        """The words after `mbt` and the variables of this task's part of a trial."""
        # Every process must know the run's folder, which the first one makes.
        folder = {"MBT_RUN_FOLDER": str(self.ledger.folder / trial)} if self.ranks else {}
        return [*self.planner.command(trial), *self.words], {**self.ranks, **folder}

    def follow(self) -> None:
        """Run this task's part of every trial that the first task announces."""
        since = time.monotonic()
        while not self.stopping.wait(0.2) and not (turn := read(self.turn_file)).get("is_over"):
            if turn and not self.ledger.end_of(turn["trial"], turn["attempt"]):
                self.take_part(turn["trial"], turn["attempt"])
                since = time.monotonic()
            elif time.monotonic() - since > SECONDS_TO_CLAIM:
                print(f"the first task of this job has started no trial for {SECONDS_TO_CLAIM:.0f} s")
                return

    def take_part(self, trial: str, attempt: int) -> None:
        """Run this task's part of a trial until the attempt has ended, or another one has started."""
        words, variables = self.part_of(trial)
        process = trials.start(trial, words, variables)
        try:
            while not self.stopping.wait(0.3):
                if self.ledger.end_of(trial, attempt) or self.ledger.attempts(trial)[-1] > attempt:
                    return
        finally:
            trials.end_group(process, trials.SECONDS_TO_STOP if self.stopping.is_set() else 10.0)


def turn_file(jobs: Path, job: str) -> Path:
    """The file in which the first task of a job announces its trials."""
    return jobs / job / "turn.json"


def read_settings(settings: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` words as typed values.

    Raises:
        UserError: a word of another form.
    """
    found: dict[str, Any] = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(f"--slurm {word}: give NAME=VALUE, e.g. timeout_min=600")
        found[name] = int(value) if re.fullmatch(r"-?\d+", value) else value
    for name in ("nodes", "tasks_per_node", "gpus_per_node", "timeout_min"):
        if name in found and (type(found[name]) is not int or found[name] < 1):
            raise UserError(f"--slurm {name}={found[name]}: give a whole number, at least 1")
    return found
