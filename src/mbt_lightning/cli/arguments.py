"""The command line before it is parsed: `base:` in files, a checkpoint's configuration and media become options."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.config.sweep_values import prepare_points
from mbt_lightning.config.yaml_files import is_text, read_yaml, split_equals, with_bases
from mbt_lightning.errors import UserError
from mbt_lightning.runs.folder import find_checkpoint
from mbt_lightning.training.checkpoint import config_from, is_weights_only, read_about
from mbt_lightning.training.trust import TRAINING_ONLY

SUBCOMMANDS = ("fit", "validate", "test", "predict")
NEWEST = ("last", "best")
"""Values of --ckpt_path that stand for a checkpoint of the experiment's newest run."""


MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "logger", "callbacks")
"""Settings of the trainer that belong to where and how a run is watched, not to what it computes."""


def expand(arguments: list[str]) -> list[str]:
    """Write out what the parser does not know: `base:` in experiment files, a checkpoint's configuration, media.

    The result names the checkpoint's configuration first, then the files, then all else: the last one wins.

    Raises:
        UserError: a file that is missing or not what it should be.
    """
    if not arguments or arguments[0] not in SUBCOMMANDS:
        return arguments
    subcommand, *words = arguments
    words = split_equals(words)
    if subcommand == "predict":
        words = name_media(words)

    named, options = [], []
    while words:
        word = words.pop(0)
        if word in ("-c", "--config") and words:
            named.append(words.pop(0))
        else:
            options.append(word)
    texts = [name for name in named if is_text(name)]
    files = [[name] if name in texts else [str(path) for path in with_bases(Path(name))] for name in named]
    configs = list(itertools.chain(*files))

    paths = [Path(name) for name in configs if name not in texts]
    said = [read_yaml(path) for path in paths]
    configs = prepare_points(configs, value_of("--model.fusion", options))
    stems = [Path(name).stem for name in named if name.endswith((".yaml", ".yml")) and Path(name).stem != "config"]
    given = [content["experiment"] for content in said if content.get("experiment")]
    experiment = value_of("--experiment", options) or (given[-1] if given else "+".join(dict.fromkeys(stems)))
    if experiment and not value_of("--experiment", options):
        options += ["--experiment", experiment]

    checkpoint = value_of("--ckpt_path", options)
    named_in_files = [beside(path, c["ckpt_path"]) for path, c in zip(paths, said, strict=True) if c.get("ckpt_path")]
    if not checkpoint and named_in_files:
        checkpoint = named_in_files[-1]
        if subcommand == "fit" and is_weights_only(checkpoint):  # an overlay of a model: a training starts from it
            config = config_from(read_about(checkpoint), checkpoint)
            init = {"class_path": "Checkpoint", "init_args": {"path": checkpoint}}
            start = {"model": config["model"] | {"init": init}, "data": config["data"]}
            configs.insert(0, yaml.safe_dump(start, sort_keys=False))
            checkpoint = "null"
        options += ["--ckpt_path", checkpoint]
    checkpoint = None if checkpoint in ("null", "None") else checkpoint
    if checkpoint:
        runs = value_of("--runs", options) or next((c["runs"] for c in said if c.get("runs")), "runs")
        configs.insert(0, yaml.safe_dump(config_of(checkpoint, subcommand, Path(runs), experiment), sort_keys=False))
    return [subcommand, *(word for config in configs for word in ("--config", config)), *options]


def beside(file: Path, checkpoint: str) -> str:
    """A checkpoint that a file names: a bare file name lies in the file's own folder, a path if it is there."""
    is_bare = Path(checkpoint).name == checkpoint and checkpoint not in NEWEST
    return str(file.parent / checkpoint) if is_bare or (file.parent / checkpoint).is_file() else checkpoint


def config_of(checkpoint: str, subcommand: str, runs: Path, experiment: str) -> dict[str, Any]:
    """What a checkpoint gives as the first of all configurations.

    That is its model and data; for `fit`, which goes on with the training, also its seed and trainer: of a file
    without what belongs to the machine, of `last`, the run itself, all. `last` and `best` are of the user's own runs
    and may name anything; a file may come from a stranger, so what it names is checked.

    Raises:
        UserError: a file that holds no training to go on with, or names what it may not name.
    """
    path = str(find_checkpoint(runs, experiment, checkpoint)) if checkpoint in NEWEST else checkpoint
    if subcommand == "fit" and is_weights_only(path):
        raise UserError(
            f"{path} holds a model and no training to go on with; to start from it, "
            f"give --model.init Checkpoint --model.init.path {path} in the place of --ckpt_path"
        )
    about = read_about(path)
    parts = ("experiment", "model", "data", *(("seed_everything", "trainer") if subcommand == "fit" else ()))
    if checkpoint in NEWEST:
        config = {part: about["config"][part] for part in parts}
    else:
        if "trainer" in parts and isinstance(trainer := about["config"].get("trainer"), dict):
            about["config"]["trainer"] = {key: value for key, value in trainer.items() if key not in MACHINE}
        config = config_from(about, path, parts, () if subcommand == "fit" else TRAINING_ONLY)
    config["data"].pop("media", None)
    return config


def name_media(words: list[str]) -> list[str]:
    """The words of `mbt predict` with the files among them, wherever they stand, as the option that they mean."""
    media, options = [], []
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            media.append(word)
            continue
        options.append(word)
        if "=" not in word and words and word not in ("-h", "--help", "--print_config"):
            options.append(words.pop(0))
    if media:
        options += ["--data.media", yaml.safe_dump(media, default_flow_style=True, width=10**9).strip()]
    return options


def value_of(option: str, words: list[str]) -> str | None:
    """The last value given to an option; None if it is not given."""
    found = [words[i + 1] for i, word in enumerate(words[:-1]) if word == option]
    found += [word.split("=", 1)[1] for word in words if word.startswith(option + "=")]
    return found[-1] if found else None
