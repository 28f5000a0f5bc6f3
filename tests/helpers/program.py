"""The program without a run: its parser, of which there is one as it takes time, and what it makes of arguments."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.main import main
from mbt_lightning.cli.parser import as_plain, build_parser, parse
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.training.module import AudioVisualClassifier

POINT = "experiments/bottleneck_b4_lf8.yaml"
TINY = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "2", "--data.num_workers", "0"]


class Program:
    """The parser of `mbt fit`, built once as that takes time; it resolves and builds, and runs nothing."""

    def __init__(self):
        self.parser = build_parser("fit")

    @cache  # noqa: B019
    def parse(self, *arguments: str):
        """The settings of `mbt fit ARGUMENTS`."""
        return parse(self.parser, expand(["fit", *arguments])[1:])

    def plain(self, *arguments: str) -> dict:
        """The settings of `mbt fit ARGUMENTS` as plain data, nested."""
        return as_plain(self.parser, self.parse(*arguments))

    @cache  # noqa: B019
    def resolve(self, *files: str) -> dict:
        """The settings of stacked files, as plain values by dotted name."""
        return flat(self.plain(*stacked(*files)))

    def build(self, *files: str, manifest: str | None = None):
        """The model and the data of stacked files, with a manifest of the test's own."""
        settings = self.parse(*stacked(*files)).clone()
        if manifest:
            settings.data.manifest = manifest
        built = self.parser.instantiate_classes(settings)
        data = AudioVisualData(modalities=settings.model.modalities, **vars(built.data))
        return AudioVisualClassifier(data.spec, **vars(built.model)), data


def stacked(*files: str) -> list[str]:
    """Files as arguments of the program; the last one wins."""
    return [word for file in files for word in ("--config", file)]


def flat(tree, name: str = "") -> dict:
    """Nested mappings as one mapping of dotted names; lists stay values."""
    if not isinstance(tree, dict) or not tree:
        return {name: tree}
    return {k: v for key, part in tree.items() for k, v in flat(part, f"{name}.{key}" if name else str(key)).items()}


def tiny(manifest: Path, runs: Path, *more: str) -> list[str]:
    """Options of a run that takes a second or two."""
    options = ["--config", POINT, "--data.manifest", str(manifest), "--runs", str(runs), *TINY]
    return [*options, "--data.batch_size", "8", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", *more]


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line with which the program refuses its arguments."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1]
