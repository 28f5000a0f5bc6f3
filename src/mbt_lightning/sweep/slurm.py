"""The trials of a sweep as jobs of a cluster, handed over by submitit; a trial may span several nodes.

A job claims its trial when it starts, as a worker here does, so that a sweep that is started again, here or elsewhere,
doubles nothing. Its first task keeps the ledger, the others only run the same command.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbt_lightning.disk import write_json
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.process import start_of
from mbt_lightning.sweep import trial as trials
from mbt_lightning.sweep.ledger import Ledger, State, read
from mbt_lightning.sweep.plan import Planner

POLL_SECONDS = 5.0
SECONDS_TO_CLAIM = 120.0
"""The other tasks of a job wait for its first one to claim the trial for as long."""

QUEUED = ("PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "COMPLETING", "SUSPENDED", "UNKNOWN", "READY")
"""States of a job that may still do something."""


@dataclass
class Jobs:
    """Hands every open trial to the cluster as a job, and waits for what becomes of them.

    Args:
        planner: the sweep's planner.
        settings: `NAME=VALUE` of submitit's executor; `cluster` is slurm or local.
        retries: how often a failed trial is tried again.
        most: how many jobs are submitted at most; None: all that are needed.
        at_once: how many may wait or run at a time; None: as many as there are.
    """

    planner: Planner
    settings: Sequence[str]
    retries: int = 0
    most: int | None = None
    at_once: int | None = None
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.ledger: Ledger = self.planner.ledger
        self.parameters = read_settings(self.settings)
        self.cluster = self.parameters.pop("cluster", "slurm")
        if not {"timeout_min", "slurm_time"} & self.parameters.keys():
            raise UserError("--launcher slurm: say how long a trial may take: --slurm timeout_min=MINUTES")
        self.parameters.setdefault("tasks_per_node", self.parameters.get("gpus_per_node", 1))
        self.folder = self.ledger.home / "jobs"
        self.states: dict[str, State] = self.read_states()
        self.executor = self.make_executor()
        self.submitted = 0

    @property
    def num_workers(self) -> int:
        """How many trials run at a time: as many as the cluster lets."""
        return max(1, sum(state.name == "running" for state in self.states.values()))

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
            executor.update_parameters(name=f"mbt-{self.ledger.folder.name}"[:40], **self.parameters)
        except (NameError, AssertionError, ValueError, TypeError) as error:
            raise UserError(f"--slurm: {error}") from None
        return executor

    def run(self, show: Callable[[dict[str, State]], None]) -> None:
        """Submit what is open, and watch until nothing is left; stopping leaves the jobs to the cluster.

        Args:
            show: is called every few seconds with how it stands with every trial.
        """
        while True:
            self.states = self.read_states()
            to_do = [trial for trial, state in self.states.items() if state.needs_run(self.retries)]
            queued = [trial for trial in to_do if self.is_queued(trial)]
            under_way = len(queued) + sum(state.name == "running" for state in self.states.values())
            for trial in to_do:
                is_full = under_way >= (self.at_once or len(self.states))
                if trial in queued or is_full or self.submitted == self.most:
                    continue
                if (now := self.ledger.state(trial)).needs_run(
                    self.retries
                ):  # it may have been claimed and ended meanwhile
                    self.submit(trial, now.attempts)
                    under_way += 1
            if self.submitted == self.most and not queued and not under_way:
                to_do = []
            if not to_do and not self.planner.grow():
                show(self.states)
                if not any(state.name == "running" for state in self.states.values()):
                    return
            else:
                show(self.states)
            if self.stopping.wait(1.0 if self.cluster == "local" else POLL_SECONDS):
                print(f"the jobs stay with the cluster; their folder is {self.folder}", file=sys.stderr)
                return

    def read_states(self) -> dict[str, State]:
        """How it stands with every trial of the plan."""
        return {trial: self.ledger.state(trial) for trial in self.planner.current()["trials"]}

    def submit(self, trial: str, attempts: int) -> None:
        """Make a job of a trial that has been tried so often.

        Raises:
            UserError: the job before it ended without having tried.
        """
        before = read(self.job_file(trial))
        if before.get("attempts") == attempts:
            raise UserError(
                f"job {before['job']} ended and has not run its trial {trial}; "
                f"its output is in {self.folder / before['job']}; delete {self.job_file(trial)} to submit it again"
            )
        if self.planner.is_changed():
            raise UserError(
                f"{self.planner.sweep.path}, a file that it names or the program has changed since the trials were "
                "planned; start the sweep again"
            )
        words = self.planner.at_home(self.planner.made["trials"][trial]["words"])
        nodes, tasks = self.parameters.get("nodes", 1), self.parameters["tasks_per_node"]
        if nodes * tasks > 1:
            words += ["--trainer.num_nodes", str(nodes), "--trainer.devices", str(tasks)]
        try:
            job: Any = self.executor.submit(Job(str(self.ledger.folder), trial, words, self.retries))
        except (OSError, RuntimeError) as error:
            raise UserError(f"--launcher slurm: the job was not taken: {one_line(error)}") from None
        self.submitted += 1
        about = {"job": job.job_id, "attempts": attempts}
        write_json(self.job_file(trial), about | ({"start": start_of(int(job.job_id))} if self.is_local else {}))

    @property
    def is_local(self) -> bool:
        """Whether jobs are processes of this machine."""
        return self.cluster == "local"

    def job_file(self, trial: str) -> Path:
        """Where it is noted down which job a trial was given to."""
        return self.folder / f"{trial}.json"

    def is_queued(self, trial: str) -> bool:
        """Whether the job that a trial was given to, by this process or an earlier one, may still run it."""
        about = read(self.job_file(trial))
        if not about.get("job"):
            return False
        if self.is_local:
            return about.get("start") is not None and start_of(int(about["job"])) == about["start"]
        import submitit

        job: Any = submitit.SlurmJob(folder=self.folder / about["job"], job_id=about["job"])
        return job.get_info(mode="force").get("State", "UNKNOWN").split(" ")[0] in QUEUED


@dataclass
class Job:
    """What a job does, in each of its tasks; submitit carries it to the nodes.

    Args:
        folder: the sweep's folder.
        trial: the trial's id.
        words: the command line behind `mbt`.
        retries: how often a failed trial is tried again.
    """

    folder: str
    trial: str
    words: list[str]
    retries: int

    def __call__(self) -> None:
        """Run the trial, or this task's part in it."""
        import submitit

        here = submitit.JobEnvironment()
        ledger = Ledger(Path(self.folder))
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        variables = {}
        if here.num_tasks > 1:
            ranks = submitit.helpers.TorchDistributedEnvironment()
            variables = {
                "MASTER_ADDR": ranks.master_addr,
                "MASTER_PORT": str(ranks.master_port),
                "NODE_RANK": str(here.node),
                "LOCAL_RANK": str(here.local_rank),
                "RANK": str(here.global_rank),
                "WORLD_SIZE": str(here.num_tasks),
                # Every process must know the run's folder, which the first one makes.
                "MBT_RUN_FOLDER": str(ledger.folder / self.trial),
            }
        if here.global_rank:
            self.follow(ledger, here.job_id, variables, stopping)
            return
        state = ledger.state(self.trial)
        is_wanted = state.needs_run(self.retries)
        attempt = ledger.claim(self.trial, above=state.attempts, job=here.job_id) if is_wanted else None
        if attempt is None:
            print(f"trial {self.trial} is {state.name}: nothing to do")
            return
        trials.run(attempt, self.words, variables, stopping.is_set)

    def follow(self, ledger: Ledger, job: str, variables: dict[str, str], stopping: threading.Event) -> None:
        """Run the command in a task that does not keep the ledger, once its job's first task has claimed the trial."""
        until = time.monotonic() + SECONDS_TO_CLAIM
        while True:
            attempts = ledger.attempts(self.trial)
            number = attempts[-1] if attempts else 0
            claim = read(ledger.claim_file(self.trial, number)) if number else {}
            if claim.get("job") == job and not ledger.end_of(self.trial, number):
                break
            if time.monotonic() > until or stopping.is_set() or ledger.state(self.trial).name == "done":
                print(f"trial {self.trial}: the first task of job {job} has not claimed it")
                return
            time.sleep(0.2)
        process = subprocess.Popen(
            [sys.executable, "-m", "mbt_lightning", *self.words],
            stdin=subprocess.DEVNULL,
            env=trials.environment(self.trial, variables),
            start_new_session=True,
        )
        try:
            while process.poll() is None and not stopping.is_set():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.5)
                if ledger.end_of(self.trial, number):
                    break  # the first process is gone
        finally:
            trials.end_group(process, trials.SECONDS_TO_STOP if stopping.is_set() else 10.0)

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """Asked by submitit before a time limit or a preemption: the same job again, which resumes the trial."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


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
