"""The command line before it is parsed: files, a checkpoint's configuration and media become one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mbt_lightning.config.class_paths import arguments_of, found_class
from mbt_lightning.config.merge import Layer, merge, undotted
from mbt_lightning.config.settings import flat, is_under, nested, without_unused
from mbt_lightning.config.upgrade import new_name, old_names, upgrade
from mbt_lightning.config.yaml_files import as_text, is_text, parsed, read_yaml, split_equals, with_bases
from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.process import rank
from mbt_lightning.runs.folder import find_checkpoint
from mbt_lightning.training.checkpoint import is_weights_only, read_about

SUBCOMMANDS = ("fit", "validate", "test", "predict")
NEWEST = ("last", "best")
"""Values of --ckpt_path that mean a checkpoint of the experiment's newest run."""

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

LAST: dict[str, Any] = {"layers": [], "options": [], "config": {}}
"""What the last command line was merged from, the options beside it, and the result; for messages about it."""

SECTIONS = {"model", "data", "trainer"}

MERGED = ("data.inputs", "model.head", "model.modalities", "model.patches")
"""Options that are merged with the files; the parser takes the others."""


def expand(arguments: list[str]) -> list[str]:
    """Merge what a command line names into one configuration, so that the parser gets one `--config` and options.

    A checkpoint's configuration comes first, then the files in their order, then options: the last one wins.

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
    files = [layer for name in named for layer in layers_of(name)]
    stems = [Path(name).stem for name in named if name.endswith((".yaml", ".yml")) and Path(name).stem != "config"]
    experiment = value_of("--experiment", options) or last_of(files, "experiment") or "+".join(dict.fromkeys(stems))
    if experiment and not value_of("--experiment", options):
        options += ["--experiment", experiment]

    first: list[Layer] = []
    checkpoint = value_of("--ckpt_path", options)
    if not checkpoint and (named_in_file := last_of(files, "ckpt_path")):
        checkpoint = str(named_in_file)
        if subcommand == "fit" and is_weights_only(checkpoint):  # an overlay of a model: a training starts from it
            config = read_about(checkpoint)["config"]
            init = {"class_path": "mbt_lightning.Checkpoint", "init_args": {"path": checkpoint}}
            first = [Layer(checkpoint, {"model": config["model"] | {"init": init}, "data": config["data"]})]
            checkpoint = "null"
        options += ["--ckpt_path", checkpoint]
    if checkpoint not in (None, "null", "None"):
        runs = value_of("--runs", options) or last_of(files, "runs") or "runs"
        first = [Layer(checkpoint, config_of(checkpoint, subcommand, Path(runs), experiment))]
    merged_options, options = take_merged(options)
    layers = [Layer("the defaults", DEFAULTS), *first, *files, *merged_options]
    config = without_unused(merge(layers))
    config.pop("base", None)
    LAST.update(layers=layers, options=options, config=config)
    return [subcommand, "--config", as_text(config), *options]


def place_of(name: str) -> tuple[str, str]:
    """Where the last command line sets a name, or a part of one: the file or option, and the whole dotted name."""
    if any(f".{name}." in f".{word.removeprefix('--').partition('=')[0]}." for word in LAST["options"]):
        return "", name
    for layer in reversed(LAST["layers"]):
        for full in flat(layer.content):
            before, found, _ = f".{full}.".partition(f".{name}.")
            if found:
                return layer.source, f"{before}.{name}".lstrip(".")
    return "", name


def settings_beside(name: str) -> set[str]:
    """The arguments of the class that a dotted name is an argument of; none if it is of no class."""
    before = name.rpartition(".")[0]
    chosen = flat(LAST["config"]).get(f"{before.removesuffix('.init_args')}.class_path")
    return {f"{before}.{key}" for key in arguments_of(found_class(chosen))} if chosen else set()


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


def config_of(checkpoint: str, subcommand: str, runs: Path, experiment: str) -> dict[str, Any]:
    """What a checkpoint gives as the first of all configurations.

    That is its model and data; for `fit`, which goes on with the training, also its seed and trainer: of a file
    without what belongs to the machine, of `last`, the run itself, all.
    """
    path = str(find_checkpoint(runs, experiment, checkpoint)) if checkpoint in NEWEST else checkpoint
    if subcommand == "fit" and is_weights_only(path):
        raise UserError(
            f"{path} holds a model and no training to go on with; to start from it, "
            f"give --model.init Checkpoint --model.init.path {path} in the place of --ckpt_path"
        )
    config = read_about(path)["config"]
    config["data"].pop("media", None)
    if subcommand == "fit" and checkpoint not in NEWEST:
        config["trainer"] = {key: value for key, value in config["trainer"].items() if key not in MACHINE}
    kept = ("seed_everything", "trainer") if subcommand == "fit" else ()
    return {key: config[key] for key in ("experiment", "model", "data", *kept)}


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
