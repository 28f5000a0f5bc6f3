"""One attempt at one trial: `mbt fit` in a process of its own, watched until it ends, and written down."""

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
"""A trial that is asked to stop has as long to save its checkpoint; then it is killed."""

STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
"""Exit codes of a run that was asked to stop, by whomever, and can go on."""

OF_ANOTHER_RUN = (
    *("LOCAL_RANK", "NODE_RANK", "RANK", "WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "MBT_RUN_FOLDER", "MBT_RESUME_FROM"),
    *("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_SERVICE"),
)
"""Variables that would make a trial a part of the run that this process belongs to."""


def environment(trial: str, more: Mapping[str, str]) -> dict[str, str]:
    """The variables of a trial's process.

    Args:
        trial: its id, which becomes its run's id: the same trial finds its folder and its checkpoint again.
        more: what comes on top.
    """
    kept = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_RUN}
    own = {"MBT_RUN_ID": trial, "MBT_EXPERIMENT": trial, "MBT_DIE_WITH_PARENT": str(os.getpid())}
    return kept | own | {"PYTHONUNBUFFERED": "1"} | dict(more)


def run(attempt: Attempt, words: Sequence[str], more: Mapping[str, str], is_stopping: Callable[[], bool]) -> None:
    """Run a claimed attempt to its end and write down how it ended.

    Args:
        attempt: the claim.
        words: the command line behind `mbt`.
        more: variables of its own.
        is_stopping: whether it is to be stopped, asked several times a second.
    """
    with open(attempt.log, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mbt_lightning", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(attempt.trial, more),
            start_new_session=True,
        )
    attempt.started(process.pid)
    is_ours = True
    try:
        while not is_stopping() and is_ours:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.3)
                break
            is_ours = attempt.beat()
    except BaseException:  # a cluster's time limit, for one
        end_group(process, SECONDS_TO_STOP)
        attempt.end("stopped", process.returncode, "its owner had to leave")
        raise
    end_group(process, SECONDS_TO_STOP if is_ours else 0.0)
    if is_ours:
        state, message = outcome(process.returncode, attempt.log)
        if state == "done" and not (attempt.ledger.folder / attempt.trial / "summary.json").is_file():
            state, message = "failed", "ended well, but its folder has no summary.json"
        if state == "failed" and is_stopping():
            state, message = "stopped", f"asked to stop: {message}"
        attempt.end(state, process.returncode, message)


def end_group(process: subprocess.Popen, seconds: float) -> None:
    """End a process and all that it has started; it has some seconds to do so itself."""
    if process.poll() is None and seconds:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(code: int, log: Path) -> tuple[str, str]:
    """What a trial's exit code says: its state, and a line for a person."""
    if code == 0:
        return "done", ""
    if code in STOPPED:
        return "stopped", "asked to stop"
    if code < 0:
        reason = " (out of memory, perhaps)" if -code == signal.SIGKILL else ""
        return "failed", f"killed by {signal.Signals(-code).name}{reason}"
    return "failed", last_words(log) or f"exit code {code}"


def last_words(log: Path) -> str:
    """The line in which a run says why it failed: its error, or else the last one."""
    lines = [one_line(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line]
    errors = [line.removeprefix("mbt: error: ") for line in lines if line.startswith("mbt: error: ")]
    return (errors or lines or [""])[-1][:300]
