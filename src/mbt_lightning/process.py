"""A process of a run, without torch: its rank, the signals that stop it, and its ties to parent and children."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

RUNS = ("fit", "validate", "test", "predict")
"""The commands that start a run, which handles signals."""

DIE_WITH_PARENT = "MBT_DIE_WITH_PARENT"
"""Environment variable: `1`, or the process id of the parent that must still be alive."""

AGAIN_SECONDS = 1.0
"""A signal this soon after the first is the same one, forwarded again by a launcher."""

PR_SET_PDEATHSIG = 1  # of Linux's prctl


def rank() -> int:
    """The rank of this process in its run, from the environment; 0 for a single process."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", os.environ.get("SLURM_PROCID", "0"))))


def kill_me_with_my_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere nothing happens."""
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError, TypeError):
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent() -> None:
    """Do not outlive the parent, if `MBT_DIE_WITH_PARENT` is set."""
    value, me = os.environ.get(DIE_WITH_PARENT, ""), str(os.getpid())
    if not value or value == me:
        return
    kill_me_with_my_parent()
    if value.isdigit() and int(value) > 1 and int(value) != os.getppid():
        sys.exit("mbt: the process that started this one has ended")


def bind_children() -> None:
    os.environ[DIE_WITH_PARENT] = str(os.getpid())


def is_in_group() -> bool:
    """Whether this process has joined the others of its run, which would wait for it or break with it."""
    distributed = sys.modules.get("torch.distributed")
    return bool(distributed and distributed.is_available() and distributed.is_initialized())


class Signals:
    """The SIGTERM and SIGINT (Ctrl-C) that this process has received.

    While nothing runs, the first one ends the process. Once the ranks work together (`deferred`) it is only recorded,
    so all stop at the same step; a later one ends the process immediately.
    """

    def __init__(self) -> None:
        self.received = 0
        """The first signal received; 0: none."""
        self.agreed = 0
        """The signal that all ranks stop for; 0: none."""
        self.deferred = False
        """Whether a signal is only recorded."""
        self.since = 0.0
        self.earlier: dict[int, Any] = {}

    def listen(self) -> None:
        """Handle the two signals, except an ignored one."""
        if self.earlier or threading.current_thread() is not threading.main_thread():
            return
        self.deferred = rank() > 0  # if one rank left, the others would wait
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.earlier[number] = signal.signal(number, self.note)

    def note(self, number: int, frame: FrameType | None) -> None:
        is_first = not self.received
        if is_first:
            self.received, self.since = number, time.monotonic()
        if (self.deferred or is_in_group()) and (is_first or time.monotonic() - self.since < AGAIN_SECONDS):
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if is_first:
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # works even if Python code cannot run
        os.kill(os.getpid(), number)

    def restore(self) -> None:
        for number, handler in self.earlier.items():
            signal.signal(number, handler)
        self.__init__()  # type: ignore[misc]

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        self.listen()
        try:
            yield self
        finally:
            self.restore()


SIGNALS = Signals()
"""Those of this process."""


def serve_parent() -> None:
    """Let a worker process live as long as its parent needs it, whatever signal the whole process group gets.

    SIGTERM counts only if the parent itself sends it, SIGINT never.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kill_me_with_my_parent()
    parent = multiprocessing.parent_process()
    is_served = multiprocessing.get_start_method() == "forkserver"  # its parent is the server
    if parent and parent.pid != os.getppid() and not is_served:  # it ended before Linux was asked
        os._exit(0)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait_for_parent, daemon=True).start()


def wait_for_parent() -> None:
    """End this process when its parent sends SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@cache
def machine() -> str:
    """An identifier of this machine since its last boot; containers on one machine differ."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def identity(pid: int) -> dict[str, Any]:
    """A process id that is not confused with a later process of the same number."""
    return {"pid": pid, "start": start_of(pid)}


def myself() -> dict[str, Any]:
    """This process, recognisable by `is_running` and by other machines."""
    return identity(os.getpid()) | {"host": socket.gethostname(), "machine": machine()}


def start_of(pid: int) -> str | None:
    """Start of a process of this machine, in ticks since boot; None if it is gone or unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]  # proc(5): state, start time


def is_running(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine is alive: by its `pid`, and by its `start` if `identity` recorded it."""
    pid = process.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    if platform.system() == "Linux" and "start" in process:
        return process["start"] is not None and start_of(pid) == process["start"]
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def bounded(work: Callable[[], None], seconds: float | None) -> BaseException | None:
    """Call a function for at most some seconds (None: no limit); returns its exception, a TimeoutError, or None."""
    raised: list[BaseException] = []

    def catch() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return TimeoutError(f"no answer within {seconds:.0f} s")
    return raised[0] if raised else None
