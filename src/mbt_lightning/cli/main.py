"""The program `mbt`: which command a word names, and the one way in which an error ends it. Without torch."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from mbt_lightning.config.trusted import take_trust
from mbt_lightning.errors import UserError, did_you_mean, exit_with_error, one_line
from mbt_lightning.process import RUNS, SIGNALS, bind_children, die_with_parent, rank
from mbt_lightning.runs.state import RunState

E = TypeVar("E", bound=BaseException)


class Command(NamedTuple):
    """A word of the program.

    Args:
        function: `module:function` in this folder; imported when the word is used.
        help: what it does, in a line.
    """

    function: str
    help: str


COMMANDS = {
    "fit": Command("fit:fit", "train an experiment, then test it"),
    "validate": Command("fit:validate", "score a checkpoint on the validation split"),
    "test": Command("fit:test", "score a checkpoint on the test split"),
    "predict": Command("fit:predict", "print the most probable classes of media files"),
    "sweep": Command("sweep:main", "run every trial of a sweep file, without an account"),
    "table": Command("table:main", "put runs side by side: table, figures and a page"),
    "cost": Command("cost:main", "count the parameters and GFLOPs of a model"),
    "prepare": Command("prepare:main", "turn official annotations and media into a manifest"),
    "stats": Command("stats:main", "measure a data set and its spectrograms' mean and standard deviation"),
    "subset": Command("subset:main", "choose a smaller, more balanced training split"),
    "shard": Command("shard:main", "re-encode a data set so that training reads it faster"),
    "import": Command("convert:import_tool", "convert the authors' checkpoint"),
    "export": Command("convert:export_tool", "write a checkpoint as model.safetensors"),
    "doctor": Command("doctor:main", "check what works on this machine"),
}
"""All words of the program, in the order of its help."""

DEBUG = "MBT_DEBUG"
"""Environment variable: whether errors end with their traceback; `--debug` sets it."""

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""Errors that end a run whatever it was doing: no space, no quota, a file too large, a broken or read-only disk."""

TRUSTING = (*RUNS, "cost", "export")
"""The commands that build classes from a weight file and so take `--trust`."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program.

    Args:
        argv: its words; default: those of the command line.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    word, *arguments = words
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ[DEBUG] = "1"
    if word not in COMMANDS:
        hint = did_you_mean(word, COMMANDS) or f"; choose one of {', '.join(COMMANDS)}"
        exit_with_error(f"there is no command {word!r}{hint}")
    die_with_parent()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that files may name classes of the user's own modules, as with python -m
    state = RunState()
    with ExitStack() as stack:
        if word in RUNS:
            stack.enter_context(SIGNALS.listening())
            bind_children()
        try:
            module, _, function = COMMANDS[word].function.partition(":")
            call = getattr(import_module(f"mbt_lightning.cli.{module}"), function)
            if word in TRUSTING:
                arguments = take_trust(arguments)
            call(arguments, state) if word in RUNS else call(arguments)
            state.end("finished", 0)
        except BaseException as error:
            end_with(error, state, word)
            raise


def overview() -> str:
    """The help of the program: every command in a line."""
    lines = [f"  {word:<10}{command.help}" for word, command in COMMANDS.items()]
    first = "Audio-visual classification with transformers: one experiment from clips to scores."
    last = "mbt COMMAND --help lists a command's options; --debug shows the traceback of an error"
    return "\n".join(["usage: mbt COMMAND ...", "", first, "", "commands:", *lines, "", textwrap.fill(last, 100)])


def end_with(error: BaseException, state: RunState, word: str) -> None:
    """End the program: with one line for what the user can fix or has asked for; an unexpected error is raised again.

    Args:
        error: what ended the command.
        state: of the run, which is recorded.
        word: the command.
    """
    if number := signal_of(error) if word in RUNS else 0:
        stop(number, state)
    if isinstance(error, KeyboardInterrupt):
        print("mbt: interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    if isinstance(error, SystemExit):
        notes = " ".join(getattr(error, "__notes__", [])) or "see its output"
        state.end("failed", error.code if isinstance(error.code, int) else 1, notes)
        return
    mistake = first_of(UserError, error)
    failure = first_of(OSError, error)  # of a full disk, for which torch raises something else
    reason = mistake or (failure if failure and failure.errno in OF_THE_DISK else error)
    message = one_line(mistake if mistake else f"{type(reason).__name__}: {reason}")
    state.end("failed", 2 if mistake else 1, message)
    if os.environ.get(DEBUG):
        return
    if mistake:
        exit_with_error(message)
    place = f" (rank {rank()})" if rank() else ""
    print(f"mbt: error{place}: {message}; the traceback is in {write_log(error, state)}", file=sys.stderr)
    sys.exit(1)


def write_log(error: BaseException, state: RunState) -> Path:
    """Write the traceback of an unexpected error into the run's folder, or into a temporary one; returns the file."""
    name = f"error-rank{rank()}.log" if rank() else "error.log"
    text = "".join(traceback.format_exception(error))
    for folder in (state.folder or os.environ.get("MBT_RUN_FOLDER"), tempfile.gettempdir()):
        with suppress(OSError, TypeError):  # a disk may be full
            path = Path(folder) / name  # type: ignore[arg-type]
            path.write_text(text, encoding="utf-8")
            return path
    print(text, file=sys.stderr)
    return Path("the lines above")


def first_of(kind: type[E], error: BaseException | None) -> E | None:
    """The first error of a kind among an exception and its causes; None if there is none."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def signal_of(error: BaseException) -> int:
    """The signal that an exception of a run comes from; 0 if it comes from none."""
    if type(error).__name__ == "SIGTERMException":  # Lightning's, which this file does not import
        return SIGNALS.agreed or signal.SIGTERM
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt):
        return signal.SIGINT
    is_early = isinstance(error, SystemExit) and SIGNALS.received
    return SIGNALS.received if is_early else 0


def stop(number: int, state: RunState) -> NoReturn:
    """End a run as a program does that a signal has ended, and print how to resume it."""
    name = signal.Signals(number).name
    state.end("stopped", 128 + number, f"stopped by {name}")
    if rank():
        sys.exit(0)  # Lightning kills the first process at once where another one ends with a code
    reason = "interrupted" if number == signal.SIGINT else f"stopped by {name}"
    print(f"mbt: {reason}; resume with the same command and --ckpt_path last", file=sys.stderr)
    sys.exit(128 + number)  # Lightning's own exit looks like success
