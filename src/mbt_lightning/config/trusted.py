"""The modules of the user's own whose classes a weight file may name: `--trust` and `MBT_TRUST`. Without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mbt_lightning.errors import UserError

VARIABLE = "MBT_TRUST"
"""Environment variable: modules that weight files may name, beside ours, with commas between them."""

TRUST_HELP = (
    "--trust MODULE, also several with commas: of a weight file that is given by its path, let the configuration name "
    "classes of this module of your own; else it may name ours and torch.optim's only."
)
"""What `--trust` does, for the help of the programs that take it."""

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def take_trust(arguments: Sequence[str]) -> list[str]:
    """Take every `--trust MODULE` out of a command line; from then on those modules are trusted, here and in children.

    Raises:
        UserError: a module that is not given, or is no name.
    """
    words, rest, found = list(arguments), [], []
    while words:
        option, equals, value = words.pop(0).partition("=")
        if option != "--trust":
            rest.append(option + equals + value)
            continue
        if not equals:
            value = words.pop(0) if words else ""
        names = value.split(",")
        if wrong := [name for name in names if not NAME.fullmatch(name)]:
            raise UserError(f"--trust {value}: {wrong[0]!r} is not the name of a Python module")
        found += names
    if found:
        os.environ[VARIABLE] = ",".join(dict.fromkeys([*trusted(), *found]))
    return rest


def trusted() -> list[str]:
    """The modules that the command line or the environment trusts."""
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]
