"""The end of a W&B run: with the program's exit code, in bounded time, and with a message about missing data.

Free of torch and Lightning, so that it can wrap the whole program including its imports. W&B is imported only if there
is a run to end, or an agent that waits for one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbt_lightning.errors import one_line
from mbt_lightning.process import bounded

FINISH_SECONDS = 120.0
"""Default time limit of W&B's last uploads."""

INIT_SECONDS_OF_A_FAILURE = 20.0
"""Time limit for reporting a run that failed before it started."""

STOPPED = (130, 143)
STOP_SECONDS = 10.0
"""Exit codes of a stopped run, and the time limit of W&B in that case: whoever stopped it waits, or kills it."""

GRACE_SECONDS = 30.0
"""Time beyond W&B's own limit before the program exits without it."""


def log_line(text: str) -> None:
    print(f"mbt: {text}", file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this is the only process of the run that uses W&B."""
    ranks = [os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")]
    return set(ranks) <= {"0", ""}


@contextmanager
def recorded(words: list[str]) -> Iterator[None]:
    """Run the program inside this context: its W&B run ends with it.

    A W&B sweep's program that fails before its run exists (a misspelt setting, a missing package) gets a failed run;
    without one, W&B would show a run that never started.

    Args:
        words: the program's command line; an agent only waits for a `fit`.
    """
    code, message = 0, ""
    try:
        yield
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        message = " ".join(getattr(stop, "__notes__", []))
        raise
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
        raise
    except BaseException as error:
        code, message = 1, f"{type(error).__name__}: {one_line(error)}"
        raise
    finally:
        if is_first_process():
            if code and words[:1] == ["fit"] and os.environ.get("WANDB_SWEEP_ID") and not had_run():
                report_failed_start()
            finish(code, message)


def had_run() -> bool:
    return "wandb" in sys.modules and open_run() is not None


def open_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def report_failed_start() -> None:
    """Start the run that an agent waits for, only to report its failure."""

    def start() -> None:
        import wandb

        settings: dict[str, Any] = {"init_timeout": INIT_SECONDS_OF_A_FAILURE, "quiet": True}
        settings |= finish_setting(INIT_SECONDS_OF_A_FAILURE)
        wandb.init(resume="allow", settings=wandb.Settings(**settings))

    failure = bounded(start, 2 * INIT_SECONDS_OF_A_FAILURE)
    if failure is not None:
        log_line(f"the failure could not be reported to the sweep: {one_line(failure)}")


def finish_setting(seconds: float) -> dict[str, Any]:
    """The setting that bounds the end of a run, if W&B knows it and the environment does not set it."""
    import wandb

    known = "finish_timeout" in wandb.Settings.model_fields and "WANDB_FINISH_TIMEOUT" not in os.environ
    return {"finish_timeout": seconds} if known else {}


def finish(code: int, message: str = "") -> None:
    """End the open run, if any, with the program's exit code and error message, and report what W&B has not received.

    If W&B exceeds its own time limit, the process exits immediately with its exit code.
    """
    run = open_run()
    if run is None:
        return
    if run.disabled:
        run.finish(exit_code=code)
        return
    path, is_offline, folder = run.path, run.offline, Path(run.dir).parent
    seconds = getattr(run.settings, "finish_timeout", FINISH_SECONDS)  # 0: no limit

    def end() -> None:
        run.summary.update({"exit_code": code, "error": message})
        run.finish(exit_code=code)

    started = time.monotonic()
    is_stopped = code in STOPPED
    longest = STOP_SECONDS if is_stopped else seconds + GRACE_SECONDS if seconds else None
    failure = bounded(end, longest)
    in_time = not seconds or time.monotonic() - started < seconds
    if is_offline:
        log_line(f"this run is only on this machine; to upload it: wandb sync {folder}")
    elif failure or not in_time or not (is_stopped or has_ended(path)):
        why = f" ({one_line(failure)})" if failure else ""
        log_line(f"W&B may not have all of this run{why}; to upload it: wandb sync --include-online {folder}")
    if failure:
        bounded(sys.modules["wandb"].teardown, 10)  # else it fails again in W&B's own exit handler
    if isinstance(failure, TimeoutError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # W&B's own exit handlers would wait again


def has_ended(path: str) -> bool:
    """Whether W&B knows that a run has ended, so has everything before."""

    def ask() -> None:
        import wandb

        for _ in range(3):
            if wandb.Api(timeout=5).run(path).state not in ("running", "pending"):
                return
            time.sleep(1)
        raise LookupError("the run is still shown as running")

    return bounded(ask, 20.0) is None
