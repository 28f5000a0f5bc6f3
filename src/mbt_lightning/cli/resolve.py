"""Command lines of `mbt fit` resolved by the program's own parser, without running anything."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.parser import as_plain, build_network, build_parser, parse
from mbt_lightning.errors import UserError, one_line


def resolve(values: Sequence[Mapping[str, Any]], lines: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The resolved configuration of each command line, as a run of it would record it.

    Each network is built as well, on the meta device, so that what it refuses is known now.

    Args:
        values: what each one is about, for messages.
        lines: the words after `mbt`, the first of them `fit`.

    Raises:
        UserError: a setting that the program refuses, with the values of its point.
    """
    parser = build_parser("fit")
    resolved = []
    for point, words in zip(values, lines, strict=True):
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
                settings = parse(parser, expand(list(words))[1:])
                build_network(parser, settings, lambda data: 1)
        except SystemExit:
            raise UserError(about(point, printed.getvalue().removeprefix("mbt: error: "))) from None
        except (ValueError, TypeError) as error:  # a UserError is one
            raise UserError(about(point, error)) from None
        resolved.append(as_plain(parser, settings))
    return resolved


def about(values: Mapping[str, Any], message: object) -> str:
    """A message, and which point of the sweep it is about."""
    return f"the point {json.dumps(values)} is refused: {one_line(message)}"
