"""The command line before it is parsed: files, a checkpoint's configuration and media become one configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.config.class_paths import arguments_of, found_class
from mbt_lightning.config.merge import Layer, merge, undotted
from mbt_lightning.config.settings import flat, is_under, nested, without_unused
from mbt_lightning.config.upgrade import new_name, old_names, upgrade
from mbt_lightning.config.yaml_files import as_text, is_text, parsed, read_yaml, split_equals, with_bases
from mbt_lightning.errors import UserError, abbreviate, did_you_mean
from mbt_lightning.process import rank
from mbt_lightning.runs.folder import find_checkpoint
from mbt_lightning.training.checkpoint import StoredCheckpoint
from mbt_lightning.training.trust import TRAINING_ONLY

NEWEST = ("last", "best")
"""Values of --ckpt_path that mean a checkpoint of the experiment's newest run."""

FOUND = "MBT_CHECKPOINT"
"""Environment variable: the checkpoint that the first process of a run has found, for the others."""

MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "logger", "callbacks")
"""Settings of the trainer for where a run is computed and how it is monitored, not for what it computes."""

DEFAULTS = {
    "model": {
        "modalities": ["rgb", "spectrogram"],
        "patches": {"rgb": [1, 16, 16], "spectrogram": [16, 16]},
    },
    "data": {
        "inputs": {
            "rgb": {"class_path": "mbt_lightning.Rgb"},
            "spectrogram": {"class_path": "mbt_lightning.Spectrogram"},
        },
    },
}
"""What files and options change by the name of a modality; the same as the defaults of the classes."""

SECTIONS = {"model", "data", "trainer"}

MERGED = ("data.inputs", "model.head", "model.modalities", "model.patches")
"""Options that are merged with the files; the parser takes the others."""


@dataclass
class CommandLine:
    """A command line whose files, checkpoint and options are one configuration.

    Args:
        words: what the parser gets: one `--config` with the configuration, and options.
        layers: what was merged, the last one wins.
        options: those that the parser takes.
        config: the result of the merge.
        checkpoint: the one that the run starts from; None: none.
    """

    words: list[str]
    layers: list[Layer]
    options: list[str]
    config: dict[str, Any]
    checkpoint: StoredCheckpoint | None = None

    def place_of(self, name: str) -> tuple[str, str]:
        """Where a name, or a part of one, is set: the file or option, and the whole dotted name."""
        if any(f".{name}." in f".{word.removeprefix('--').partition('=')[0]}." for word in self.options):
            return "", name
        for layer in reversed(self.layers):
            for full in flat(layer.content):
                before, found, _ = f".{full}.".partition(f".{name}.")
                if found:
                    return layer.source, f"{before}.{name}".lstrip(".")
        return "", name

    def settings_beside(self, name: str) -> set[str]:
        """The arguments of the class that a dotted name is an argument of; none if it is of no class."""
        before = name.rpartition(".")[0]
        chosen = flat(self.config).get(f"{before.removesuffix('.init_args')}.class_path")
        return {f"{before}.{key}" for key in arguments_of(found_class(chosen))} if chosen else set()


def expand(subcommand: str, arguments: Sequence[str]) -> CommandLine:
    """Merge what a command line names into one configuration, so that the parser gets one `--config` and options.

    A checkpoint's configuration comes first, then the files in their order, then options: the last one wins.

    Args:
        subcommand: `fit`, `validate`, `test` or `predict`.
        arguments: the words after it.

    Raises:
        UserError: a file that is missing or not what it should be.
    """
    words = split_equals(list(arguments))
    if subcommand == "predict":
        words = name_media(words)
    named, options = [], []
    while words:
        word = words.pop(0)
        if word in ("-c", "--config") and words:
            named.append(words.pop(0))
        else:
            options.append(word)
    files = [layer for name in named for layer in layers_of(name)]
    stems = [Path(name).stem for name in named if name.endswith((".yaml", ".yml")) and Path(name).stem != "config"]
    experiment = value_of("--experiment", options) or last_of(files, "experiment") or "+".join(dict.fromkeys(stems))
    if experiment and not value_of("--experiment", options):
        options += ["--experiment", experiment]

    first: list[Layer] = []
    stored = None
    if chosen := value_of("--ckpt_path", options) or last_of(files, "ckpt_path"):
        is_option = value_of("--ckpt_path", options) is not None
        if chosen not in ("null", "None"):
            runs = value_of("--runs", options) or last_of(files, "runs") or "runs"
            stored = find_stored(str(chosen), Path(runs), experiment)
        if stored and subcommand == "fit" and stored.is_weights_only and not is_option:
            init = {"class_path": "mbt_lightning.Checkpoint", "init_args": {"path": str(stored)}}
            config = stored.config("model", "data")  # an overlay of a model: a training starts from it
            first = [Layer(str(stored), {"model": config["model"] | {"init": init}, "data": config["data"]})]
            stored = None
        elif stored:
            first = [Layer(str(stored), config_of(stored, subcommand))]
        options = [*without_option("--ckpt_path", options), "--ckpt_path", str(stored) if stored else "null"]
    merged_options, options = take_merged(options)
    layers = [Layer("the defaults", DEFAULTS), *first, *files, *merged_options]
    config = merge(layers)
    check_modalities(config)
    config = without_unused(config)
    config.pop("base", None)
    return CommandLine(["--config", as_text(config), *options], layers, options, config, stored)


def check_modalities(config: Mapping[str, Any]) -> None:
    """Refuse settings of a modality that does not exist: with a misspelt name they would have no effect."""
    inputs = config["data"]["inputs"]
    known = [name for name, value in inputs.items() if not isinstance(value, Mapping) or "class_path" in value]
    for place, names in {"data.inputs": inputs, "model.patches": config["model"].get("patches") or {}}.items():
        for name in names:
            if name not in known:
                hint = did_you_mean(str(name), known)
                raise UserError(f"{place}.{name}: there is no modality {name!r}{hint}; a new one needs a class_path")


def find_stored(chosen: str, runs: Path, experiment: str) -> StoredCheckpoint:
    """The checkpoint of a path, or that `last` or `best` mean; the processes of a run take the one of the first."""
    if chosen not in NEWEST:
        return StoredCheckpoint(Path(chosen))
    if not (rank() and os.environ.get(FOUND)):
        os.environ[FOUND] = str(find_checkpoint(runs, experiment, chosen))
    return StoredCheckpoint(Path(os.environ[FOUND]), is_own=True)


def layers_of(name: str) -> list[Layer]:
    """The configurations that one --config names: a text of JSON, or a file and those that it builds on."""
    if is_text(name):
        return [Layer("--config", upgraded("--config", parsed(name, "--config")), is_point=True)]
    paths = with_bases(Path(name))
    return [Layer(str(path), upgraded(str(path), read_yaml(path)), path.suffix == ".json") for path in paths]


def upgraded(source: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a user's own with today's names; those that have changed are printed."""
    config = undotted({name: value for name, value in content.items() if value is not None or name not in SECTIONS})
    for name in SECTIONS & config.keys():
        if not isinstance(config[name], dict):
            raise UserError(f"{source}: {name} is {config[name]!r}: give its settings as keys and values")
    if (old := old_names(config)) and rank() == 0:
        changed = abbreviate([f"{name} is now {new_name(name)}" for name in old], most=3)
        print(f"{source}: settings have new names: {changed}", flush=True)
    if config.get("ckpt_path"):
        config["ckpt_path"] = beside(source, config["ckpt_path"])
    return upgrade(config)


def last_of(layers: Sequence[Layer], key: str) -> Any:
    """The value of the last configuration that has one of a key; None if none has."""
    return next((layer.content[key] for layer in reversed(layers) if layer.content.get(key)), None)


def take_merged(options: list[str]) -> tuple[list[Layer], list[str]]:
    """The options that are merged with the files, and the others as they are."""
    layers, others = [], []
    words = list(options)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        is_merged = name != new_name(name) or is_under(name, MERGED)
        if not word.startswith("--") or not is_merged or not (equals or words):
            others.append(word)
            continue
        value = value if equals else words.pop(0)
        layers.append(Layer(f"--{name}", upgraded(f"--{name}", nested({name: parsed(value, f"--{name}")}))))
    return layers, others


def beside(file: str, checkpoint: str) -> str:
    """A checkpoint that a file names: a bare file name lies in the file's own folder, a path if it is there."""
    is_bare = Path(checkpoint).name == checkpoint and checkpoint not in NEWEST
    neighbour = Path(file).parent / checkpoint
    return str(neighbour) if is_bare or neighbour.is_file() else checkpoint


def config_of(stored: StoredCheckpoint, subcommand: str) -> dict[str, Any]:
    """What a checkpoint gives as the first of all configurations.

    That is its model and data; for `fit`, which resumes the training, also its seed and trainer: of a file that is
    given by its path without what belongs to the machine.

    Raises:
        UserError: a file that holds no training to resume, or names what it may not name.
    """
    if subcommand == "fit" and stored.is_weights_only:
        raise UserError(
            f"{stored} holds a model and no training to resume; to start from it, "
            f"give --model.init Checkpoint --model.init.path {stored} in the place of --ckpt_path"
        )
    of_training = ("seed_everything", "trainer") if subcommand == "fit" else ()
    without = () if subcommand == "fit" else TRAINING_ONLY
    config = stored.config("experiment", "model", "data", *of_training, without=without, without_trainer=MACHINE)
    config["data"] = {key: value for key, value in config["data"].items() if key != "media"}
    return config


def without_option(option: str, words: list[str]) -> list[str]:
    """Words without an option and its values."""
    kept, words = [], list(words)
    while words:
        word = words.pop(0)
        if word == option and words:
            words.pop(0)
        elif word != option and not word.startswith(f"{option}="):
            kept.append(word)
    return kept


def name_media(words: list[str]) -> list[str]:
    """The words of `mbt predict` with the media files among them as the option `--data.media`."""
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
