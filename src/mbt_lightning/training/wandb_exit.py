"""How a run of W&B ends: with the program's exit code, in bounded time, and with a word on what is missing.

Free of torch and Lightning, so that it can stand around everything that the program does, its imports included. W&B is
imported only where there is a run to end, or an agent that waits for one.
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
"""How long W&B may take for its last uploads, unless a run says otherwise."""

INIT_SECONDS_OF_A_FAILURE = 20.0
"""How long W&B may take to note a run that failed before it began."""

STOPPED = (130, 143)
STOP_SECONDS = 10.0
"""Exit codes of a run that was asked to stop, and how long W&B may take then: whoever asked waits, or kills."""

GRACE_SECONDS = 30.0
"""How much longer than it was told W&B may take before the program leaves without it."""


def say(text: str) -> None:
    """Print a line for the reader of the run."""
    print(f"mbt: {text}", file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Whether this is the one process of a run that speaks to W&B."""
    ranks = [os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID")]
    return set(ranks) <= {"0", ""}


@contextmanager
def recorded(words: list[str]) -> Iterator[None]:
    """Run the program inside of this: its W&B run ends as the program does.

    A program of a sweep that fails before it has a run (a misspelt setting, a package that is missing) gets one that
    says so; without it W&B would show a run that never was.

    Args:
        words: the program's command line; only a `fit` can be the run that an agent waits for.
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
                begin_failed()
            finish(code, message)


def had_run() -> bool:
    """Whether this process has, or had, a run of W&B."""
    return "wandb" in sys.modules and open_run() is not None


def open_run() -> Any:
    """The run of W&B that is open in this process; None if there is none."""
    return getattr(sys.modules.get("wandb"), "run", None)


def begin_failed() -> None:
    """Begin the run that an agent waits for, when nothing can be said of it but that it failed."""

    def begin() -> None:
        import wandb

        settings = {"init_timeout": INIT_SECONDS_OF_A_FAILURE, "quiet": True} | finish_setting(
            INIT_SECONDS_OF_A_FAILURE
        )
        wandb.init(resume="allow", settings=wandb.Settings(**settings))

    failure = bounded(begin, 2 * INIT_SECONDS_OF_A_FAILURE)
    if failure is not None:
        say(f"the failure could not be reported to the sweep: {one_line(failure)}")


def finish_setting(seconds: float) -> dict[str, Any]:
    """The setting that bounds the end of a run, where W&B knows it and the environment does not say otherwise."""
    import wandb

    known = "finish_timeout" in wandb.Settings.model_fields and "WANDB_FINISH_TIMEOUT" not in os.environ
    return {"finish_timeout": seconds} if known else {}


def finish(code: int, message: str = "") -> None:
    """End the run that is open, if there is one, and say what W&B has not got of it.

    The process is left at once, with its exit code, if W&B does not come back from its own time limit.

    Args:
        code: the program's exit code, which becomes the run's.
        message: why it failed, one line; stands in the run's summary as `error`, beside `exit_code`.
    """
    run = open_run()
    if run is None:
        return
    if run.disabled:
        run.finish(exit_code=code)
        return
    path, is_offline, folder = run.path, run.offline, Path(run.dir).parent
    seconds = getattr(run.settings, "finish_timeout", FINISH_SECONDS)  # 0: the user wants to wait for ever

    def end() -> None:
        run.summary.update({"exit_code": code, "error": message})
        run.finish(exit_code=code)

    begun = time.monotonic()
    is_stopped = code in STOPPED
    longest = STOP_SECONDS if is_stopped else seconds + GRACE_SECONDS if seconds else None
    failure = bounded(end, longest)
    in_time = not seconds or time.monotonic() - begun < seconds
    if is_offline:
        say(f"this run is on this machine only; to upload it: wandb sync {folder}")
    elif failure or not in_time or not (is_stopped or has_ended(path)):
        why = f" ({one_line(failure)})" if failure else ""
        say(f"W&B does not confirm to have all of this run{why}; to upload it: wandb sync --include-online {folder}")
    if failure:
        bounded(sys.modules["wandb"].teardown, 10)  # or it fails once more in W&B's own exit handler
    if isinstance(failure, TimeoutError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # W&B's own exit handlers would wait for it once more


def has_ended(path: str) -> bool:
    """Whether W&B knows that a run has ended, so has all that came before."""

    def ask() -> None:
        import wandb

        for _ in range(3):
            if wandb.Api(timeout=5).run(path).state not in ("running", "pending"):
                return
            time.sleep(1)
        raise LookupError("it still counts as running")

    return bounded(ask, 20.0) is None
