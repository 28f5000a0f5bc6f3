"""Work on many files in processes that may crash, hang or run out of memory, with a progress bar.

`run_apart` hands job after job to a few worker processes. A worker that dies or exceeds the time limit costs the job
that it had, and is replaced.
"""

from __future__ import annotations

import math
import multiprocessing
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rich import progress

from mbt_lightning.errors import one_line

START_SECONDS = 120.0
MAX_WORKER_BYTES = 3 << 30
GRACE_SECONDS = 10  # what a worker whose parent is gone outlives its time limit by


class Failure(NamedTuple):
    """A file that gave no result.

    Args:
        reason: why.
        is_lasting: the file's own fault, and no matter of permissions or a disk that is away.
        limit_seconds: time limit that it exceeded.
    """

    reason: str
    is_lasting: bool = True
    limit_seconds: float | None = None


def run_apart(function: str, jobs: list[tuple[Any, float]], num_workers: int) -> Iterator[tuple[Any, Any]]:
    """Call a function, given by its dotted name, in other processes for (argument, time limit in seconds) jobs.

    Yields (argument, what it returned or a `Failure`) as they get done.
    """
    pkgutil.resolve_name(function)  # a wrong name fails here
    waiting = iter(jobs)
    crew = [_Worker(function) for _ in range(min(num_workers, len(jobs)))]
    try:
        for worker in crew:
            worker.give(next(waiting))
        while crew:
            rest = min(worker.deadline for worker in crew) - time.monotonic()
            ready = connection.wait([worker.pipe for worker in crew], max(rest, 0.0))
            for worker in list(crew):
                if worker.pipe not in ready and time.monotonic() < worker.deadline:
                    continue
                argument, _ = worker.job
                answer = worker.take(worker.pipe in ready)
                crew.remove(worker)
                job = next(waiting, None)
                if job is None:
                    worker.leave()
                else:
                    crew.append(_Worker(function) if worker.pipe.closed else worker)
                    crew[-1].give(job)
                yield argument, answer
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process that does one job after the other, until it is ended, dies, or its parent is gone."""

    def __init__(self, function: str) -> None:
        kinds = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
        if "forkserver" in kinds:
            context.set_forkserver_preload([function.partition(":")[0]])
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, function), daemon=True)
        with _no_main():
            self.process.start()
        far_end.close()  # so that the pipe ends when the process does
        self.is_ready = False

    def give(self, job: tuple[Any, float]) -> None:
        """Start a job; its time starts now."""
        if not self.is_ready:
            # Otherwise a machine on which no process can start would have all files called broken.
            try:
                self.is_ready = self.pipe.poll(START_SECONDS) and self.pipe.recv()
            except (EOFError, OSError):
                self.is_ready = False
            if not self.is_ready:
                self.end()
                raise RuntimeError(f"the worker processes cannot start (exit code {self.process.exitcode})")
        self.job, self.deadline = job, time.monotonic() + job[1]
        with suppress(OSError):  # it has died: `take` reports it
            self.pipe.send(job)

    def take(self, is_ready: bool) -> Any:
        """The job's result, or why there is none; then the process is ended."""
        name = "SIGALRM"
        if is_ready:
            try:
                return self.pipe.recv()
            except (EOFError, OSError):
                self.process.join(5)
                code = self.process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.end()
        if name == "SIGALRM":
            return Failure(f"took longer than {self.job[1]:g} s", limit_seconds=self.job[1])
        # A system that is short of memory kills what it likes.
        return Failure(f"reading it crashes ({name})", is_lasting=name != "SIGKILL")

    def leave(self) -> None:
        """Let an idle process end by itself, so that it gives back what it holds, such as litdata's semaphores."""
        self.pipe.close()
        self.process.join(2)
        self.end()

    def end(self) -> None:
        """Kill the process; one that hangs in the kernel is abandoned."""
        self.process.kill()
        self.process.join(5)
        self.pipe.close()


@contextmanager
def _no_main() -> Iterator[None]:
    """Processes that start in here do not import the parent's main program, which costs seconds and may do anything."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Any, function: str) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    call = pkgutil.resolve_name(function)
    _limit_memory()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(True)
        while True:
            argument, limit_seconds = pipe.recv()
            _set_alarm(math.ceil(limit_seconds) + GRACE_SECONDS)
            answer = _answer(call, argument)
            _set_alarm(0)
            pipe.send(answer)


def _answer(call: Callable[[Any], Any], argument: Any) -> Any:
    try:
        return call(argument)
    except MemoryError:
        return Failure(f"needs more than {MAX_WORKER_BYTES >> 30} GB of memory")
    except OSError as error:
        return Failure(f"cannot be read ({error.strerror})", is_lasting=False)
    except Exception as error:
        return Failure(one_line(f"{type(error).__name__}: {error}"))


def _set_alarm(seconds: int) -> None:
    """Have this process killed after so many seconds, in case that it hangs and its parent is gone; 0: never."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory() -> None:
    """Allow this process so much more memory than it has now (where the system can), and no core file."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_WORKER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


class Progress:
    """A progress bar with the rate, the time left and how many files are not as they should be."""

    def __init__(self, is_shown: bool) -> None:
        words = (
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[bad]}"),
        )
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(20),
            progress.MofNCompleteColumn(),
            *words,
            disable=not is_shown,
        )

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, what: str, total: int, num_known: int) -> None:
        """A new bar, of `total` files; so many others are known."""
        known = f" ({num_known} known)" if num_known else ""
        self.task = self.bar.add_task(what + known, total=total, rate="", bad="", visible=total > 0)
        self.since, self.num_done, self.num_bad = time.monotonic(), 0, 0

    def count(self, is_bad: bool) -> None:
        """One file is done."""
        self.num_done += 1
        self.num_bad += is_bad
        rate = f"{self.num_done / max(time.monotonic() - self.since, 1e-3):.0f} files/s"
        self.bar.update(self.task, advance=1, rate=rate, bad=f"{self.num_bad} bad" if self.num_bad else "")
