"""What W&B's agent starts for a trial: the loop that is inside of it, over its own functions."""

from __future__ import annotations

from pathlib import Path

from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from mbt_lightning.sweep.sweep_file import SweepFile


def agent_words(sweep: SweepFile, values: dict, folder: Path) -> list[str]:
    """The command line of a point from `fit` on; a file of values is written as the agent does."""
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    json_file = folder / "values.json"
    json_file.write_text(macros["args_json"][0])
    macros |= {"interpreter": ["python"], "program": ["mbt"], "args_json_file": [str(json_file)], "env": ["env"]}
    words: list[str] = []
    for item in create_sweep_command(list(sweep.command)):
        words += macros[item[2:-1]] if item.startswith("${") and item.endswith("}") else [item]
    return words[words.index("fit") :]
