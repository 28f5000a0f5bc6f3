"""PyTorch weight files, read as plain tensors; no code in them is run."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mbt_lightning.errors import UserError, one_line

BROKEN = (
    *(RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, ImportError, OverflowError),
    *(pickle.UnpicklingError, SafetensorError, MemoryError, zipfile.BadZipFile),
)
"""Errors of the libraries on broken files or files of another kind."""

MOST_TIMES = 4
"""Tensors may share memory in a file, as tied weights do; together they may be this many times as large as the file."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, or of a file that `torch.save` wrote, by name.

    Tensors may be in a mapping under `model` or `state_dict`; if all names start with `module.` (DataParallel), that
    prefix is removed.

    Raises:
        UserError: a file that is missing, damaged, or holds no tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors = read_safetensors(path)
    else:
        named = inner(read_torch(path))
        tensors = {name: x for name, x in named.items() if isinstance(x, Tensor) and isinstance(name, str)}
    if not tensors:
        raise UserError(f"{path}: contains no named tensors")
    if sum(x.numel() * x.element_size() for x in tensors.values()) > MOST_TIMES * path.stat().st_size:
        raise UserError(f"{path}: its tensors are more than {MOST_TIMES} times as large as the file: not weights")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): x for name, x in tensors.items()}
    return {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file.

    Raises:
        UserError: a file that is missing or damaged.
    """
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a `.safetensors` file.

    Raises:
        UserError: a file that is missing or damaged.
    """
    with opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a `.safetensors` file; errors become one line."""
    must_be_a_file(path)
    try:
        with safe_open(str(path), "pt") as file:
            yield file
    except BROKEN as error:
        raise UserError(f"{path}: not a safetensors file, or damaged ({one_line(error)[:120]})") from None


def read_torch(path: str | Path) -> Any:
    """The content of a file that `torch.save` wrote: tensors and plain data only.

    Raises:
        UserError: a file that is missing, damaged, or holds more than that.
    """
    must_be_a_file(path)
    try:
        refuse_packed(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # many training programs save their arguments
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except BROKEN as error:
        text = f"{type(error).__name__}: {one_line(error)[:120]}"
        raise UserError(f"{path}: not a file of tensors and plain data by torch.save ({text})") from None


def refuse_packed(path: str | Path) -> None:
    """Refuse an archive that unpacks to more than its own size; torch.save compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > Path(path).stat().st_size:
            raise UserError(f"{path}: a compressed archive, which torch.save does not write")


def inner(content: Any) -> Mapping[str, Any]:
    """The mapping of tensors in the content of a checkpoint."""
    for name in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return content[name]
    return content if isinstance(content, Mapping) else {}


def must_be_a_file(path: str | Path) -> None:
    """Refuse a path that is not a file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: {'a folder, not a file' if Path(path).is_dir() else 'no such file'}")


METADATA = "mbt_lightning"
"""Key of a `.safetensors` file's metadata that holds the model's configuration and data, as JSON text."""


def read_about(path: str | Path) -> dict[str, Any]:
    """The `config` and `spec` in a `model.safetensors` of this program; its tensors are not read.

    Raises:
        UserError: a file of another kind.
    """
    metadata = read_metadata(path)
    try:
        about = json.loads(metadata[METADATA])
        found = [about["config"][key] for key in ("model", "data")]
        found.append(about["config"]["experiment"] and about["spec"]["inputs"])
        if not all(isinstance(part, dict) for part in found) or not isinstance(about["spec"]["classes"], list):
            raise TypeError
    except (KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{path}: not written by mbt import or mbt export; start from weights of others with model.init"
        ) from None
    return about
