"""Errors that a person can mend: the program prints them as one line and leaves with exit code 2."""


class UserError(ValueError):
    """A wrong setting, file or value; its text names the value got, the values allowed and the fix."""


def one_line(message: object) -> str:
    """A text without line breaks."""
    return " ".join(str(message).split())
