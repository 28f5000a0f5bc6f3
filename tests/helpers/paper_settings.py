"""The paper's setting on each of its data sets, resolved from the recipes: what `table/paper_settings.json` holds.

Run it to write the file anew: `PYTHONPATH=src:tests/helpers python tests/helpers/paper_settings.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from paths import EXPERIMENTS

import mbt_lightning
from mbt_lightning.config.settings import identity_settings, nested

FILE = Path(mbt_lightning.__file__).parent / "table" / "paper_settings.json"
DATA_SETS = (
    *("audioset_500k", "audioset_mini", "epic_kitchens", "kinetics400"),
    *("kinetics_sounds", "moments_in_time", "vggsound"),
)
"""Recipes of the data sets that the paper has numbers on."""


def files_of(data_set: str) -> list[str]:
    """The files whose stack is the paper's setting on a data set: its best model, and its starting weights."""
    names = ("bottleneck_symmetric_b4_lf8", f"recipes/{data_set}", "init/imagenet21k")
    return [str(EXPERIMENTS / f"{name}.yaml") for name in names]


def as_text(settings: dict[str, dict]) -> str:
    """The content of the file: {data set: settings by dotted name}, one setting a line."""
    blocks = []
    for data_set, values in settings.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(values.items())]
        blocks.append(f" {json.dumps(data_set)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def paper_settings(program) -> dict[str, dict]:
    """The settings that a score can depend on, of each data set.

    Args:
        program: a `Program`.
    """
    return {name: identity_settings(nested(program.resolve(*files_of(name)))) for name in DATA_SETS}


if __name__ == "__main__":
    from program import Program

    FILE.write_text(as_text(paper_settings(Program())), encoding="utf-8")
    print(f"wrote {FILE}")
