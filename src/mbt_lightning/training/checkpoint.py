"""Checkpoints as plain data: what they say of their run, and the model built again from it."""

from __future__ import annotations

import pickle
import zipfile
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from mbt_lightning.config.upgrade import upgrade
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.pretrained import torch_files as files
from mbt_lightning.model.pretrained.init import ModelInit
from mbt_lightning.training.module import AudioVisualClassifier


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
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        about = content["mbt_lightning"]
        about["config"], about["spec"]
    except (RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path}: not a checkpoint of mbt ({type(error).__name__}: {text[:120]})") from None
    about["config"] = upgrade(about["config"])
    return content


def read_about(path: str | Path) -> dict[str, Any]:
    """The `config` and `spec` of a checkpoint, without reading its weights.

    Args:
        path: as for `read_checkpoint`.

    Raises:
        UserError: a file that is no checkpoint of this program.
    """
    if Path(path).is_file() and is_weights_only(path):
        about = files.read_about(path)
        return about | {"config": upgrade(about["config"])}
    return read_checkpoint(path)["mbt_lightning"]


def is_weights_only(path: str | Path) -> bool:
    """Whether a checkpoint holds a model and no state of a training."""
    return Path(path).suffix == ".safetensors"


def load_checkpoint(path: str | Path) -> AudioVisualClassifier:
    """Build the trained model of a checkpoint, ready to evaluate on the CPU.

    Args:
        path: a `.ckpt` file of a run, or a `model.safetensors` of `mbt import` or `mbt export`.

    Raises:
        UserError: a file that is no checkpoint of this program.
    """
    content = read_checkpoint(path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AudioVisualClassifier, "model")
    settings = {**content["mbt_lightning"]["config"]["model"], "spec": content["mbt_lightning"]["spec"]}
    try:
        model = parser.instantiate_classes(parser.parse_object({"model": settings})).model
        model.load_state_dict(content["state_dict"])
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
