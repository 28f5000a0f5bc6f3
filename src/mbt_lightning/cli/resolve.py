"""Command lines of `mbt fit` resolved by the program's own parser, without running anything."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.cost import build
from mbt_lightning.cli.fit import MbtCLI, check_precision
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.errors import UserError, one_line


def resolve(values: Sequence[Mapping[str, Any]], lines: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The resolved configuration of each command line, as a run of it would write it down.

    Args:
        values: what each one is about, for messages.
        lines: the words behind `mbt`, the first of them `fit`.

    Raises:
        UserError: a setting that the program refuses, with the values of its point.
    """
    return Resolver(values, lines).resolved


class Resolver(MbtCLI):
    """The program's parser, built once for many command lines; nothing is instantiated or run.

    Args:
        values: what each command line is about, for messages.
        lines: the words behind `mbt`.
    """

    def __init__(self, values: Sequence[Mapping[str, Any]], lines: Sequence[Sequence[str]]):
        self.values, self.lines = values, lines
        self.resolved: list[dict[str, Any]] = []
        super().__init__([])

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:  # type: ignore[override]
        """Parse all command lines, and build each network, of shapes alone, so that what it refuses is known now."""
        fit = self._parser("fit")
        trainer = fit.get_defaults().trainer  # nothing that watches a run
        for values, words in zip(self.values, self.lines, strict=True):
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                    self.config = parser.parse_args(expand(list(words)))
                    check_precision(self.config.fit.trainer.precision)
                    text = fit.dump(self.config.fit, skip_none=False)
                    self.config.fit.trainer = trainer
                    build(fit, self.config.fit, lambda data: 1)
            except SystemExit:
                raise UserError(self.about(values, said.getvalue().removeprefix("mbt: error: "))) from None
            except (ValueError, TypeError) as error:  # a UserError is one
                raise UserError(self.about(values, error)) from None
            self.resolved.append(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))

    @staticmethod
    def about(values: Mapping[str, Any], message: object) -> str:
        """A message, and which point of the sweep it is about."""
        return f"the point {json.dumps(values)} is refused: {one_line(message)}"

    def spec(self, data: AudioVisualData) -> None:  # type: ignore[override]
        """Nothing: no model as a whole is built."""

    def before_instantiate_classes(self) -> None:
        """Nothing: there is no run."""

    def instantiate_classes(self) -> None:
        """Nothing: there is no run."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing: there is no run."""
