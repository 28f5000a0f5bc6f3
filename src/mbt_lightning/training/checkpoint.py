"""Checkpoints as plain data: the record of their run, and the model built again from it."""

from __future__ import annotations

import zipfile
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from yaml import YAMLError

from mbt_lightning.config.upgrade import upgrade
from mbt_lightning.config.yaml_files import refuse_bombs
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.pretrained import torch_files as files
from mbt_lightning.model.pretrained.init import ModelInit
from mbt_lightning.training.module import AudioVisualClassifier
from mbt_lightning.training.trust import TRAINING_ONLY, check_config


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in the file is run.

    Args:
        path: a `.ckpt` file of a run, or a `model.safetensors` of `mbt import` or `mbt export`.

    Returns:
        The checkpoint; under `mbt_lightning` it holds the run's `config` and the data's `spec` as plain data.

    Raises:
        UserError: a file that is no checkpoint of this program.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if is_weights_only(path):
        about, tensors = read_about(path), files.read_safetensors(path)
        return {"mbt_lightning": about, "state_dict": {f"network.{name}": x for name, x in tensors.items()}}
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a checkpoint of mbt (or cut off)")
    try:
        files.refuse_packed(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content["mbt_lightning"] = upgraded(content["mbt_lightning"], path)
    except UserError:
        raise
    except files.BROKEN as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a checkpoint of mbt ({type(error).__name__}: {text[:120]})") from None
    return content


def upgraded(about: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The `config` and `spec` of a weight file, with today's names of settings and classes."""
    try:
        refuse_bombs([about["config"], about["spec"]])
        return about | {"config": upgrade(about["config"]), "spec": about["spec"]}
    except (AttributeError, KeyError, TypeError, RecursionError, YAMLError):
        raise UserError(f"{path}: not a checkpoint of mbt (its configuration is not one of this program)") from None


def read_about(path: str | Path) -> dict[str, Any]:
    """The `config` and `spec` of a checkpoint, without reading its weights.

    Args:
        path: as for `read_checkpoint`.

    Raises:
        UserError: a file that is no checkpoint of this program.
    """
    if Path(path).is_file() and is_weights_only(path):
        return upgraded(files.read_about(path), path)
    return read_checkpoint(path)["mbt_lightning"]


def is_weights_only(path: str | Path) -> bool:
    """Whether a checkpoint holds a model and no state of a training."""
    return Path(path).suffix == ".safetensors"


@dataclass
class StoredCheckpoint:
    """A checkpoint that is found and opened once: all that a run takes from it is of the same file.

    Args:
        path: the file.
        is_own: whether it was found among the user's own runs (`last`, `best` or by the run's id). Such a file may name
            any class; one that is given by its path may be a stranger's, so what it names is checked.
    """

    path: Path
    is_own: bool = False

    def __str__(self) -> str:
        """The path, for messages."""
        return str(self.path)

    @cached_property
    def content(self) -> dict[str, Any]:
        """All of it, see `read_checkpoint`."""
        return read_checkpoint(self.path)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Its `config` and `spec`, without the weights."""
        return read_about(self.path) if self.is_weights_only else self.content["mbt_lightning"]

    @property
    def is_weights_only(self) -> bool:
        """Whether it holds a model and no state of a training."""
        return is_weights_only(self.path)

    def config(
        self,
        *parts: str,
        without: Sequence[str] = TRAINING_ONLY,
        without_trainer: Sequence[str] = (),
        trust: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Its configuration, fit to be built: what a stranger's file may not name is refused.

        Whoever builds from a file, or writes down what others will build, takes its configuration from here.

        Args:
            *parts: what is wanted of the configuration.
            without: settings of `model` that are left out, unchecked, of a file that is not one's own; by default
                those of a training.
            without_trainer: settings of `trainer` that are left out likewise.
            trust: as for `load_checkpoint`.

        Raises:
            UserError: it names what a weight file may not name, or lacks a part.
        """
        left_out = {} if self.is_own else {"model": without, "trainer": without_trainer}
        try:
            config = {part: self.about["config"][part] for part in parts}
            for part in left_out.keys() & config.keys():
                if isinstance(config[part], Mapping):  # else it is refused below
                    config[part] = {key: value for key, value in config[part].items() if key not in left_out[part]}
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{self}: not a checkpoint of mbt (its configuration lacks {', '.join(parts)})") from None
        if not self.is_own:
            check_config(config, self.path, trust)
        return config


def load_checkpoint(path: str | Path, trust: Iterable[str] = ()) -> AudioVisualClassifier:
    """Build the trained model of a checkpoint, ready to evaluate on the CPU; optimiser and mixup are the default ones.

    Args:
        path: a `.ckpt` file of a run, or a `model.safetensors` of `mbt import` or `mbt export`.
        trust: modules of your own, e.g. `("my_strategies",)`, whose classes the file may name, beside those of this
            package; the environment variable `MBT_TRUST` adds to them.

    Raises:
        UserError: a file that is no checkpoint of this program, or names what is not trusted.
    """
    stored = StoredCheckpoint(Path(path))
    spec = stored.about["spec"]
    settings = stored.config("model", trust=trust)["model"] | {"spec": spec}
    check_config({"model": {"spec": spec}}, path, trust)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AudioVisualClassifier, "model")
    try:
        model = parser.instantiate_classes(parser.parse_object({"model": settings})).model
        model.load_state_dict(stored.content["state_dict"])
    except (ArgumentError, RuntimeError) as error:
        raise UserError(f"{path}: its model cannot be built again ({one_line(error)[:160]})") from None
    return model.eval()


class Checkpoint(ModelInit):
    """A checkpoint of this program as starting weights.

    Args:
        path: a `.ckpt` file of a run, or a `model.safetensors` of `mbt import` or `mbt export`.
        **common: `load_head`, `inflate` and `leave_cls`.
    """

    def __init__(self, path: str, **common):
        super().__init__(**common)
        self.path = path

    def read(self) -> MBT:
        """The model in the file."""
        return load_checkpoint(self.path).network

    def __str__(self) -> str:
        """What is read, for messages."""
        return self.path
