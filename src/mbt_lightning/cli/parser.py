"""The parser of `mbt fit`, `validate`, `test` and `predict`: the settings of model, data and trainer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch import Trainer, __version__
from lightning.pytorch.cli import LightningArgumentParser

from mbt_lightning.cli.arguments import CommandLine, value_of
from mbt_lightning.config.class_paths import import_public_classes, public_classes
from mbt_lightning.config.trusted import TRUST_HELP
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.errors import UserError, did_you_mean, exit_with_error, one_line
from mbt_lightning.model.mbt import MBT
from mbt_lightning.training.module import AudioVisualClassifier

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "None", "32", "bf16", "16")
"""Allowed values of `trainer.precision`: 16-true and bf16-true would round the audio before its spectrogram."""

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data module shares the clips among the processes itself
    "logger": False,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}

COUNTS_OR_FRACTIONS = (
    *(f"limit_{part}_batches" for part in ("train", "val", "test", "predict")),
    "overfit_batches",
    "val_check_interval",
)
"""Settings of the trainer that are a number of batches, or a fraction of all."""

OTHER_NAMES = {
    "lr": "model.optimizer.init_args.lr",
    "learning_rate": "model.optimizer.init_args.lr",
    "weight_decay": "model.optimizer.init_args.weight_decay",
    "epochs": "trainer.max_epochs",
    "max_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "gpus": "trainer.devices",
    "workers": "data.num_workers",
    "seed": "seed_everything",
    "checkpoint": "ckpt_path",
    "resume": "ckpt_path",
}
"""What settings are called elsewhere."""

NOISE = (
    r"- Expected a path but \S+ either not accessible or invalid ",
    r"- Does not validate against any of the Union subtypes Subtypes: .*? Errors: ",
    r" Given value type: .*$",
)
"""What jsonargparse adds to its messages and helps nobody."""


class Parser(LightningArgumentParser):
    """A parser that reports what is wrong in one line."""

    command_line: CommandLine | None = None
    """What is being parsed, for messages about it."""

    def error(self, message: str, ex: Exception | None = None):
        """Print the message and exit with code 2."""
        if os.environ.get("MBT_DEBUG") and ex:
            raise ex
        text = one_line(message)
        for noise in NOISE:
            text = re.sub(noise, "", text)
        found = re.search(r"(?:[Kk]ey|[Oo]ption) ['\"]([\w.]+)", text)
        source, name = self.command_line.place_of(found[1]) if found and self.command_line else ("", "")
        exit_with_error(f"{source}: {text}{self.hint(text, name)}" if source else text + self.hint(text, name))

    def hint(self, message: str, name: str) -> str:
        """The known key or class that is most like an unknown one in a message about a setting."""
        if found := re.search(r"import path string: (\w+)", message):
            return did_you_mean(found[1], public_classes())
        if found := re.search(r"arguments: --([\w.]+)", message):
            name = found[1]
            if other := OTHER_NAMES.get(name):
                return f"; did you mean {other!r}?"
        elif "accept" not in message:
            return ""
        beside = self.command_line.settings_beside(name) if self.command_line else set()
        hint = did_you_mean(name, [*beside, *(action.dest for action in self._actions)])
        return hint or (f" ({name})" if name not in message else "")


def tool_parser(function: Callable, description: str, own: Mapping[str, Mapping[str, Any]]) -> Parser:
    """The parser of `mbt FUNCTION`: arguments of its own, by flag, then the other ones of the function."""
    parser = Parser(prog=f"mbt {function.__name__}", description=description)
    for flag, options in own.items():
        parser.add_argument(flag, **options)
    parser.add_function_arguments(function, skip={flag.lstrip("-") for flag in own})
    return parser


def build_parser(*subcommands: str) -> Parser:
    """The parser of a run.

    Args:
        *subcommands: `fit`, `validate`, `test` or `predict`: it takes the settings of all that are named.
    """
    import_public_classes()
    parser = Parser(
        prog=f"mbt {subcommands[0]}",
        description="Audio-visual classification with transformers: one experiment from clips to scores.",
        epilog=TRUST_HELP,
        dump_header=[f"lightning.pytorch=={__version__}"],
    )
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="A file of settings; later ones win.")
    parser.add_argument(
        "--seed_everything", type=bool | int, default=0, help="Seed of all random numbers; true: a random seed."
    )
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{name}": value for name, value in TRAINER_DEFAULTS.items()})
    # `spec` comes from the data or the checkpoint, `modalities` of the data from the model; see `build`.
    groups = {"fail_untyped": False, "instantiate": False, "sub_configs": True}
    parser.add_class_arguments(AudioVisualClassifier, "model", skip={"spec"}, **groups)
    parser.add_class_arguments(AudioVisualData, "data", skip={"modalities"}, **groups)
    parser.add_argument("--experiment", type=str | None, help="Name of the experiment; default: of its files.")
    parser.add_argument("--base", type=str | None, help="In a file: the file that it builds on.")
    parser.add_argument("--runs", type=str, default="runs", help="Folder that contains all runs.")
    added: set[str] = set()
    for name in subcommands:
        skip = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders", *added}
        added |= set(parser.add_method_arguments(Trainer, name, skip=skip))
    return parser


def parse(parser: Parser, command_line: CommandLine) -> Namespace:
    """The settings of an expanded command line.

    Raises:
        UserError: a precision that would round the audio.
    """
    given = value_of("--trainer.precision", command_line.options)
    precision = (command_line.config.get("trainer") or {}).get("precision") if given is None else given
    if str(precision) not in PRECISIONS:  # before the parser, whose message lists types
        raise UserError(f"trainer.precision is {precision}: choose one of {', '.join(PRECISIONS)}")
    Parser.command_line = command_line  # of the class: the parsers of nested classes report errors too
    settings = parser.parse_args(command_line.words)
    keep_counts(settings, command_line)
    return settings


def keep_counts(settings: Namespace, command_line: CommandLine) -> None:
    """Keep a number of batches a number: 1 is one batch and 1.0 is all of them.

    The parser tries the types of a union in an order that depends on which of `int | float` and `float | int` this
    process has seen first.
    """
    files = command_line.config.get("trainer") or {}
    for name in COUNTS_OR_FRACTIONS:
        given = value_of(f"--trainer.{name}", command_line.options) or files.get(name)
        if isinstance(given, int) or (isinstance(given, str) and re.fullmatch("[0-9]+", given)):
            settings.trainer[name] = int(given)


def as_text(parser: Parser, settings: Namespace) -> str:
    """Resolved settings as YAML text, as a run's `config.yaml` holds them."""
    return parser.dump(settings, skip_none=False)


def as_plain(parser: Parser, settings: Namespace) -> dict[str, Any]:
    """Resolved settings as plain data."""
    return yaml.load(as_text(parser, settings), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def build_data(parser: Parser, settings: Namespace) -> AudioVisualData:
    """The data module of some settings; no clip is read."""
    chosen = parser.instantiate_classes(Namespace(data=settings.data))
    return AudioVisualData(modalities=settings.model.modalities, **vars(chosen.data))


def build_network(
    parser: Parser, settings: Namespace, num_classes: Callable[[AudioVisualData], int]
) -> tuple[dict[str, tuple[int, ...]], MBT]:
    """The network of some settings on the meta device: shapes alone, no memory; no clip is read.

    Args:
        parser: the parser that resolved the settings.
        settings: those of `model` and `data` are used.
        num_classes: the number of classes.

    Returns:
        Shape of one example of each modality, (C, *grid), and the network.

    Raises:
        UserError: a value out of range.
    """
    data = build_data(parser, settings)
    chosen = vars(parser.instantiate_classes(Namespace(model=settings.model)).model)
    own = {name: value for name, value in chosen.items() if name in signature(MBT).parameters}
    with torch.device("meta"):
        return data.shapes, MBT(data.shapes, num_classes(data), **own)
