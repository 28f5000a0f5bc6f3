"""Errors that users can fix, printed as one line with exit code 2, and shared wording of messages."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn


class UserError(ValueError):
    """A wrong setting, file or value; its text gives the value, the allowed values and the fix."""


def exit_with_error(message: str) -> NoReturn:
    """Print an error that users can fix and exit with code 2; the exception carries the message as its note."""
    print(f"mbt: error: {message}", file=sys.stderr)
    stop = SystemExit(2)
    stop.add_note(message)
    raise stop


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def abbreviate(names: Sequence[str], most: int = 5, separator: str = ", ") -> str:
    """The first names of a list, and the number of the others."""
    return separator.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the known name most similar to an unknown one, or ""."""
    close = difflib.get_close_matches(name[:200], list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def duration(seconds: float) -> str:
    """A duration for people, e.g. `2 h 5 min`, `1 min 30 s` or `0.4 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days >= 2:
        return f"{days} d {hours_left} h"
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
