"""Errors that a person can mend: the program prints them as one line and leaves with exit code 2."""

from collections.abc import Sequence


class UserError(ValueError):
    """A wrong setting, file or value; its text names the value got, the values allowed and the fix."""


def one_line(message: object) -> str:
    """A text without line breaks."""
    return " ".join(str(message).split())


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of a list of names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
