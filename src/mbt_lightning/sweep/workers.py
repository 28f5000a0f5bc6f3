"""The trials of a sweep side by side on this machine, each on its own set of GPUs."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from mbt_lightning.errors import UserError, one_line
from mbt_lightning.sweep import trial as trials
from mbt_lightning.sweep.ledger import Attempt, Ledger, TrialStatus
from mbt_lightning.sweep.plan import Planner

POLL_SECONDS = 1.0
MEMORY_OF_A_TRIAL = 2 << 30  # a small one takes 1 GB, nearly all of it torch


@dataclass
class Workers:
    """Threads that claim trials and run each in a process of its own, until none is left.

    Args:
        planner: the sweep's planner.
        gpus: those of each worker; an empty set is for a worker on the CPU.
        retries: how often a failed trial is retried.
        count: how many trials are started at most; None: all.
    """

    planner: Planner
    gpus: Sequence[Sequence[str]]
    retries: int = 0
    count: int | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger: Ledger = self.planner.ledger
        self.statuses: dict[str, TrialStatus] = self.planner.statuses()
        self.started = 0
        self.outdated: UserError | None = None
        self.choosing = threading.Lock()

    @property
    def num_workers(self) -> int:
        """How many trials run at a time."""
        return len(self.gpus)

    def run(self, show: Callable[[dict[str, TrialStatus]], None]) -> None:
        """Work until nothing is left, or until `stopping` is set.

        Args:
            show: is called about once a second with the status of every trial.

        Raises:
            UserError: the plan is outdated.
        """
        threads = [threading.Thread(target=self.work, args=(gpus,), daemon=True) for gpus in self.gpus]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self.refresh()
                show(self.statuses)
                time.sleep(POLL_SECONDS)
        except SystemExit:  # asked twice
            raise
        except BaseException:
            self.stopping.set()
            for thread in threads:
                thread.join()
            raise
        self.refresh()
        show(self.statuses)
        self.raise_errors()

    def raise_errors(self) -> None:
        """Raise the first error of a worker, or that the plan is outdated."""
        for error in (*self.errors, self.outdated):
            if error:
                raise error

    def refresh(self) -> None:
        """Read the status of every trial again."""
        self.statuses = self.planner.statuses()

    def work(self, gpus: Sequence[str]) -> None:
        """Claim and run one trial after the other."""
        try:
            while not self.stopping.is_set():
                if attempt := self.claim():
                    self.run_trial(attempt, gpus)
                elif self.is_over():
                    return
                else:
                    self.stopping.wait(POLL_SECONDS)
        except Exception as error:  # would be lost in a thread
            self.errors.append(error)
            self.stopping.set()

    def run_trial(self, attempt: Attempt, gpus: Sequence[str]) -> None:
        """Run a claimed trial to its end."""
        words = self.planner.command(attempt.trial)
        trials.run(attempt, words, self.variables(gpus), self.stopping.is_set)

    def claim(self) -> Attempt | None:
        """Claim the first pending trial, else the first failed one that may be retried."""
        with self.choosing:
            try:
                self.planner.check_unchanged()
            except UserError as error:
                self.outdated = error
            if self.may_start_no_more():
                return None
            for is_candidate in (lambda s: s.is_pending, lambda s: s.can_retry(self.retries)):
                for trial, status in self.statuses.items():
                    if is_candidate(status):
                        now = self.ledger.status(trial)  # the one at hand may be a second old
                        attempt = self.ledger.claim(trial, after=now.attempts) if is_candidate(now) else None
                        self.statuses[trial] = self.ledger.status(trial)
                        if attempt:
                            self.started += 1
                            return attempt
            if self.planner.grow():
                self.refresh()
        return None

    def may_start_no_more(self) -> bool:
        """Whether the plan is outdated, or as many trials were started as may be."""
        return self.outdated is not None or (self.count is not None and self.started >= self.count)

    def is_over(self) -> bool:
        """Whether nothing is left for this sweep.

        A trial that runs elsewhere may fall to us by its owner's death, and its result may suggest another one.
        """
        if self.may_start_no_more():
            return True
        self.refresh()
        return not any(s.needs_run(self.retries) or s.name == "running" for s in self.statuses.values())

    def variables(self, gpus: Sequence[str]) -> dict[str, str]:
        """What the trials of a worker have in their environment: its GPUs, and its share of the cores."""
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // len(self.gpus)))}
        return threads | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})


def cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
        return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]
    return []


def gpu_sets(workers: int | None) -> list[list[str]]:
    """The GPUs of each worker: shared evenly, by default one worker a GPU; without GPUs one worker a core.

    Raises:
        UserError: more workers than GPUs.
    """
    gpus = visible_gpus()
    if workers is not None and workers < 1:
        raise UserError(f"--workers is {workers}: give 1 or more")
    if not gpus:
        return [[] for _ in range(workers or max(1, min(cores(), memory() // MEMORY_OF_A_TRIAL)))]
    workers = workers or len(gpus)
    if workers > len(gpus):
        raise UserError(
            f"--workers is {workers}, but there are {len(gpus)} GPUs ({one_line(', '.join(gpus))}): give fewer"
        )
    each = len(gpus) // workers
    return [gpus[i * each : (i + 1) * each] for i in range(workers)]
