"""The trials of a sweep run side by side on this machine, each on its own set of GPUs."""

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
from mbt_lightning.sweep.ledger import Attempt, Ledger, State
from mbt_lightning.sweep.plan import Planner

POLL_SECONDS = 1.0
MEMORY_OF_A_TRIAL = 2 << 30  # a small one takes 1 GB, nearly all of it torch


@dataclass
class Workers:
    """Threads that claim trials and run each in a process of its own, until nothing is left to do.

    Args:
        planner: the sweep's planner.
        sets: the GPUs of each worker; an empty one is for a worker on the CPU, which takes what there is.
        retries: how often a failed trial is tried again.
        most: how many trials are begun at most; None: all.
    """

    planner: Planner
    sets: Sequence[Sequence[str]]
    retries: int = 0
    most: int | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    problems: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger: Ledger = self.planner.ledger
        self.states: dict[str, State] = {trial: self.ledger.state(trial) for trial in self.planner.made["trials"]}
        self.words = {trial: about["words"] for trial, about in self.planner.made["trials"].items()}
        self.begun = 0
        self.is_stale = False
        self.choosing = threading.Lock()

    @property
    def num_workers(self) -> int:
        """How many trials run at a time."""
        return len(self.sets)

    def run(self, show: Callable[[dict[str, State]], None]) -> None:
        """Work until nothing is left, or until `stopping` is set.

        Args:
            show: is called about once a second with how it stands with every trial.
        """
        threads = [threading.Thread(target=self.work, args=(gpus,), daemon=True) for gpus in self.sets]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self.refresh()
                show(self.states)
                time.sleep(POLL_SECONDS)
        except SystemExit:  # asked twice
            raise
        except BaseException:
            self.stopping.set()
            for thread in threads:
                thread.join()
            raise
        self.refresh()
        show(self.states)
        if self.problems:
            raise self.problems[0]
        if self.is_stale:
            raise UserError(
                f"{self.planner.sweep.path}, a file that it names or the program has changed since the trials were "
                "planned, so no more were begun; start the sweep again"
            )

    def refresh(self) -> None:
        """Read again how it stands with every trial."""
        self.words = {trial: about["words"] for trial, about in self.planner.current()["trials"].items()}
        self.states = {trial: self.ledger.state(trial) for trial in self.words}

    def work(self, gpus: Sequence[str]) -> None:
        """Claim and run one trial after the other."""
        try:
            while not self.stopping.is_set():
                claimed = self.claim()
                if claimed is not None:
                    attempt, words = claimed
                    trials.run(attempt, self.planner.at_home(words), self.variables(gpus), self.stopping.is_set)
                elif self.is_over():
                    return
                else:
                    self.stopping.wait(POLL_SECONDS)
        except Exception as problem:  # a thread's own would be lost
            self.problems.append(problem)
            self.stopping.set()

    def claim(self) -> tuple[Attempt, list[str]] | None:
        """Claim the first trial that is open, else the first failed one that may be tried again; with its words."""
        with self.choosing:
            words = self.words
            self.is_stale |= self.planner.is_changed()
            if self.is_stale or (self.most is not None and self.begun >= self.most):
                return None
            for is_chance in (lambda s: s.is_open, lambda s: s.can_retry(self.retries)):
                for trial, state in self.states.items():
                    if is_chance(state) and trial in words:
                        now = self.ledger.state(trial)  # what is at hand may be a second old
                        attempt = self.ledger.claim(trial, above=now.attempts) if is_chance(now) else None
                        self.states[trial] = self.ledger.state(trial)
                        if attempt:
                            self.begun += 1
                            return attempt, words[trial]
            if self.planner.grow():
                self.refresh()
        return None

    def is_over(self) -> bool:
        """Whether nothing is left that this sweep may still have to do.

        A trial that runs elsewhere may be left to us by its owner's death, and its result may suggest another one.
        """
        if self.is_stale or (self.most is not None and self.begun >= self.most):
            return True
        left = [s for s in self.states.values() if s.needs_run(self.retries) or s.name == "running"]
        return not left

    def variables(self, gpus: Sequence[str]) -> dict[str, str]:
        """What the trials of a worker have in their environment: its GPUs, and its share of the cores."""
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // len(self.sets)))}
        return threads | ({"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {})


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    if (said := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in said.split(",") if name.strip() not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True, timeout=60).stdout
        return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]
    return []


def gpu_sets(workers: int | None) -> list[list[str]]:
    """The GPUs of each worker: as many for each as can be, one worker a GPU by default; a core each without any.

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
