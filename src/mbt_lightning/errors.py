"""Errors that a person can mend: the program prints them as one line and leaves with exit code 2."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn


class UserError(ValueError):
    """A wrong setting, file or value; its text names the value got, the values allowed and the fix."""


def leave(message: str) -> NoReturn:
    """Print what a person can mend and leave with exit code 2; the exit carries the message as its note."""
    print(f"mbt: error: {message}", file=sys.stderr)
    stop = SystemExit(2)
    stop.add_note(message)
    raise stop


def one_line(message: object) -> str:
    """A text without line breaks."""
    return " ".join(str(message).split())


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of a list of names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the most similar known name, or nothing."""
    close = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
