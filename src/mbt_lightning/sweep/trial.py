"""One attempt at one trial: `mbt fit` in a process of its own, watched until it ends, and recorded in the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mbt_lightning.errors import one_line
from mbt_lightning.sweep.ledger import Attempt

SECONDS_TO_STOP = 60.0
"""Time that a trial has to save its checkpoint when it is asked to stop; then it is killed."""

STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of a run that was asked to stop and can be resumed."""

OF_ANOTHER_RUN = (
    *("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "MBT_RUN_FOLDER", "MBT_RESUME_FROM"),
    *("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE"),
)
"""Variables that would make a trial a part of the run that this process belongs to."""


def start(trial: str, words: Sequence[str], variables: Mapping[str, str], log: int | None = None) -> subprocess.Popen:
    """Start a trial's process, which leads a process group of its own.

    Args:
        trial: its id, which becomes its run's id: the same trial finds its folder and its checkpoint again.
        words: the words after `mbt`.
        variables: of its own, added to the environment.
        log: open file that its output goes to; None: where this process's goes.
    """
    kept = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_RUN}
    own = {"MBT_RUN_ID": trial, "MBT_DIE_WITH_PARENT": str(os.getpid()), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mbt_lightning", *words],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        env=kept | own | dict(variables),
        start_new_session=True,
    )


def run(attempt: Attempt, words: Sequence[str], variables: Mapping[str, str], is_stopping: Callable[[], bool]) -> None:
    """Run a claimed attempt to its end and record how it ended.

    Args:
        attempt: the claim.
        words: the words after `mbt`.
        variables: of its own, added to the environment.
        is_stopping: whether it is to be stopped, asked several times a second.
    """
    with open(attempt.log, "wb") as log:
        process = start(attempt.trial, words, variables, log.fileno())
    attempt.started(process.pid)
    is_ours = True
    try:
        while not is_stopping() and is_ours:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
                break
            is_ours = attempt.beat()
    except BaseException:  # a cluster's time limit, for example
        end_group(process, SECONDS_TO_STOP)
        attempt.end("stopped", process.returncode, "its sweep was stopped")
        raise
    end_group(process, SECONDS_TO_STOP if is_ours else 0.0)
    if is_ours:
        status, message = outcome(process.returncode, attempt.log)
        if status == "done" and not (attempt.ledger.folder / attempt.trial / "summary.json").is_file():
            status, message = "failed", "ended without an error, but its folder has no summary.json"
        if status == "failed" and is_stopping():
            late = f"killed, as it had not ended {SECONDS_TO_STOP:.0f} s later"
            status, message = "stopped", f"asked to stop; {late if process.returncode == -signal.SIGKILL else message}"
        attempt.end(status, process.returncode, message)


def end_group(process: subprocess.Popen, seconds: float) -> None:
    """End a process, which has some seconds to do so itself, and all that it has started."""
    if process.poll() is None and seconds:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(code: int, log: Path) -> tuple[str, str]:
    """A trial's status by its exit code, and the reason in one line."""
    if code == 0:
        return "done", ""
    if code in STOPPED:
        return "stopped", "asked to stop"
    if code < 0:
        reason = " (possibly out of memory)" if -code == signal.SIGKILL else ""
        return "failed", f"killed by {signal.Signals(-code).name}{reason}"
    return "failed", error_in(log) or f"exit code {code}"


def error_in(log: Path) -> str:
    """The line of a log that has the run's error, or else the last one."""
    lines = [one_line(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line.removeprefix("mbt: error: ") for line in lines if line.startswith("mbt: error: ")]
    return (errors or lines or [""])[-1][:300]
