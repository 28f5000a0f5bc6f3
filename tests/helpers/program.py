"""The program without a run: its parser, of which there is one as it takes time, and what it makes of arguments."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

import yaml

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.fit import MbtCLI


class ParserReadyError(Exception):
    """Ends the construction of the program before anything is parsed."""


class Program(MbtCLI):
    """The program's parser, of which there is one as it takes time; it resolves and builds, and runs nothing."""

    def __init__(self):
        with suppress(ParserReadyError):
            super().__init__([])
        self.subcommand = "fit"

    def parse_arguments(self, parser, args) -> None:
        raise ParserReadyError

    @cache  # noqa: B019
    def parse(self, *arguments: str):
        """The settings of `mbt fit ARGUMENTS`."""
        return self.parser.parse_args(expand(["fit", *arguments])).fit

    def plain(self, *arguments: str) -> dict:
        """The settings of `mbt fit ARGUMENTS` as plain data, nested."""
        return yaml.safe_load(self._parser("fit").dump(self.parse(*arguments), skip_none=False))

    @cache  # noqa: B019
    def resolve(self, *files: str) -> dict:
        """The settings of stacked files, as plain values by dotted name."""
        return flat(self.plain(*stacked(*files)))

    def build(self, *files: str, manifest: str | None = None):
        """The model and the data of stacked files, with a manifest of the test's own."""
        self.settings = self.parse(*stacked(*files)).clone()
        if manifest:
            self.settings.data.manifest = manifest
        built = self._parser("fit").instantiate_classes(self.settings)
        return built.model, built.data


def stacked(*files: str) -> list[str]:
    """Files as arguments of the program; the last one wins."""
    return [word for file in files for word in ("--config", file)]


def flat(tree, name: str = "") -> dict:
    """Nested mappings as one mapping of dotted names; lists stay values."""
    if not isinstance(tree, dict) or not tree:
        return {name: tree}
    return {k: v for key, part in tree.items() for k, v in flat(part, f"{name}.{key}" if name else str(key)).items()}
