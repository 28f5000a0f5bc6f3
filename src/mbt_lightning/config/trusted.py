"""The user's own modules whose classes a weight file may name: `--trust` and `MBT_TRUST`. Without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from mbt_lightning.errors import UserError

VARIABLE = "MBT_TRUST"
"""Environment variable: further modules that weight files may name, separated by commas."""

TRUST_HELP = (
    "--trust MODULE (several: separated by commas): the configuration in a weight file given by its path may name "
    "classes of this module of yours, not only ours and torch.optim's."
)
"""Help text of `--trust`."""

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def take_trust(arguments: Sequence[str]) -> list[str]:
    """Remove every `--trust MODULE` from a command line, and trust those modules, here and in child processes.

    Raises:
        UserError: a missing or invalid module name.
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
    """The modules trusted by the command line or the environment."""
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]
