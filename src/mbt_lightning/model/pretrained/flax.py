"""JAX weight files, read without jax and flax: name -> array; no code in a file is run.

A flax checkpoint is one msgpack map (google/flax `serialization.py`); its arrays are extension objects that hold
msgpack again: shape, name of the dtype, bytes in C order. It also holds the optimiser's momentum, so the file is mapped
into memory and read twice: once for its tree, once for the arrays of the parameters.
"""

from __future__ import annotations

import itertools
import math
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import torch

from mbt_lightning.errors import UserError, one_line

# Extension types of flax; complex numbers are recognised but not read, as no parameter here is one.
NDARRAY, COMPLEX, SCALAR = 1, 2, 3
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("bool", "float16", "float32", "float64")}
DTYPES |= {f"{sign}int{8 * size}": np.dtype(f"<{sign or 'i'}{size}") for sign in ("", "u") for size in (1, 2, 4, 8)}
DTYPES |= {"bfloat16": np.dtype("V2")}  # not in numpy, which reads it from an .npz file as two bytes without a type
# Far above any real file (MBT-B: 3,000 entries, 9 levels), so that a hostile file costs little more than its own size.
MAX_ENTRIES, MAX_DEPTH, MAX_KEY = 100_000, 16, 256
MAX_NPZ_BYTES = 16 * 2**30  # unpacked; the largest published ViT takes 8 GiB
KINDS = {b"PK\x03\x04": "a zip archive such as .npz or .ckpt", b"\x1f\x8b": "a gzip archive"}
KINDS |= {bytes([0x80, protocol]): "a pickle, which is never loaded" for protocol in range(2, 6)}


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Read the parameters of a checkpoint that flax's `save_checkpoint` wrote (scenic's MBT and ViT).

    They are expected at `optimizer/target`, `optimizer/target/params` (before Linen), `params` or `params/params`
    (with optax), or at the top of the file if it has `Transformer` there. The optimiser's state is skipped.

    Args:
        path: the file `checkpoint_<step>`, which may have any name.

    Returns:
        Names joined by `/`, numbered as in Linen (`renumber`) -> arrays of any shape. Every floating dtype becomes
        float32 (bfloat16 and float16 exactly, float64 rounded); integers and booleans stay as they are.

    Raises:
        UserError: the file is missing, broken, truncated, of another kind or without parameters.
    """
    with (
        _reading(path, "a flax checkpoint"),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        if kind := next((kind for start, kind in KINDS.items() if content[: len(start)] == start), None):
            raise UserError(f"not a flax checkpoint but {kind}")
        numbers = itertools.count()
        tree = _unpack(content, lambda code, data: _Stored((next(numbers),)))
        return renumber(_decode(content, _leaves(_parameters(tree))))


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read the parameters of a ViT in Google's `.npz` format (vision_transformer, AugReg, big_vision).

    If names start with `opt/target/` or `params/`, only those are read, and the prefix is dropped.

    Args:
        path: the file.

    Returns:
        As `read_params`.

    Raises:
        UserError: the file is missing, broken, truncated, of another kind or without arrays.
    """
    with _reading(path, "an .npz file"), open(path, "rb") as archive:
        if archive.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):  # a zip with members, without members
            raise UserError("not an .npz file")
        archive.seek(0)
        with np.load(archive, allow_pickle=False) as file:
            if sum(member.file_size for member in file.zip.infolist()) > MAX_NPZ_BYTES:
                raise UserError(f"unpacks to more than {MAX_NPZ_BYTES // 2**30} GiB; no ViT is as large")
            if len(set(file.files)) < len(file.files):
                raise UserError("a name comes twice")
            prefix = next((p for p in ("opt/target/", "params/") if any(n.startswith(p) for n in file.files)), "")
            names = [name for name in file.files if name.startswith(prefix)]
            if not names:
                raise UserError("holds no arrays")
            return renumber({name.removeprefix(prefix): _float32(_numbers(file[name], name)) for name in names})


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Join the names of a tree of parameters by `/`; names may already be joined in part.

    Args:
        tree: nested maps; the leaves are numbers or arrays of numpy, torch or jax, of any shape.

    Returns:
        Joined name -> array of the same dtype (bfloat16 as float32), sharing the leaf's memory where it can.

    Raises:
        UserError: a duplicate name or one that is not text, a leaf that is not an array of numbers, or endless nesting.
    """
    return {name: _numbers(leaf, name) for name, leaf in _leaves(tree).items()}


def renumber(params: Mapping[str, Any]) -> dict[str, Any]:
    """Number the submodules of each encoder block from 0 within their class, as flax's Linen does.

    Before Linen all submodules shared one count: LayerNorm_0, MultiHeadDotProductAttention_1, LayerNorm_2, MlpBlock_3.
    Only direct children of a component `encoderblock…` are renumbered, in order, so Linen's names do not change.

    Args:
        params: joined name -> anything.

    Returns:
        The same values in the same order, named LayerNorm_0, MultiHeadDotProductAttention_0, LayerNorm_1, MlpBlock_0.
    """
    pattern = re.compile(r"((?:.*/)?encoderblock[^/]*/)([A-Z]\w*)_([0-9]{1,9})(?=/|$)", re.ASCII)
    matches = [pattern.match(name) for name in params]
    siblings: dict[tuple[str, str], set[str]] = {}
    for match in filter(None, matches):
        siblings.setdefault((match[1], match[2]), set()).add(match[3])
    ranks = {group: {n: rank for rank, n in enumerate(sorted(ns, key=int))} for group, ns in siblings.items()}
    return {
        f"{match[1]}{match[2]}_{ranks[match[1], match[2]][match[3]]}{name[match.end() :]}" if match else name: value
        for match, (name, value) in zip(matches, params.items(), strict=True)
    }


class _Stored(NamedTuple):
    """An array that has not been read from the file."""

    pieces: tuple[int, ...]  # numbers of its extension objects, counted from the start of the file
    shape: Any = None  # if the array is in several pieces


@contextmanager
def _reading(path: str | Path, kind: str) -> Iterator[None]:
    """Turn any error of a file into one line that starts with its path."""
    file = Path(path)
    try:
        if file.is_dir():
            steps = [entry for entry in file.glob("checkpoint_*") if re.fullmatch("checkpoint_[0-9]{1,18}", entry.name)]
            last = max(steps, key=lambda entry: int(entry.name.split("_")[1]), default=None)
            raise UserError("a folder; name the file in it" + (f": {last}" if last else ""))
        if not file.is_file():
            raise UserError("no such file")
        if file.stat().st_size == 0:
            raise UserError("empty file")
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except Exception as error:  # on broken bytes msgpack, numpy and zipfile raise a dozen kinds of errors
        cause = ": ".join(filter(None, (type(error).__name__, one_line(error)[:120])))
        raise UserError(f"{path}: not {kind}, or cut off ({cause})") from None


def _unpack(content: mmap.mmap, extension: Callable[[int, bytes], Any]) -> Any:
    """The tree of a file, its leaves made by `extension`, its chunked arrays joined."""
    entries = 0

    def count(items: list) -> list:
        nonlocal entries
        entries += 1 + len(items)
        if entries > MAX_ENTRIES:
            raise UserError(f"more than {MAX_ENTRIES} names and values, far more than a model has")
        return items

    def a_map(pairs: list[tuple[Any, Any]]) -> Any:
        for key, _ in count(pairs):
            if not isinstance(key, str) or len(key) > MAX_KEY:
                got = repr(key)[:40] if isinstance(key, str | int) else "no text"
                raise UserError(f"a name that is not a text of at most {MAX_KEY} letters: {got}")
        entry = dict(pairs)
        if len(entry) < len(pairs):
            raise UserError("a name comes twice")
        if "__msgpack_chunked_array__" not in entry:
            return entry
        chunks = [chunk for chunk in _in_order(entry.get("chunks")) if isinstance(chunk, _Stored)]
        return _Stored(tuple(number for chunk in chunks for number in chunk.pieces), _in_order(entry.get("shape")))

    limits = {"max_array_len": 10_000, "max_map_len": 10_000}
    hooks = {"ext_hook": extension, "object_pairs_hook": a_map, "list_hook": count}
    return msgpack.unpackb(content, raw=False, strict_map_key=False, **hooks, **limits)


def _in_order(items: Any) -> list:
    """A list, which flax writes as a list or as a map with the keys "0", "1", …"""
    if isinstance(items, dict):
        items = [items.get(str(i)) for i in range(len(items))]
    if not isinstance(items, list):
        raise UserError("a chunked array is not a map of shape and chunks")
    return items


def _parameters(tree: Any) -> dict[str, Any]:
    """The part of a checkpoint that holds the parameters."""
    for place in ("optimizer/target/params", "optimizer/target", "params/params", "params"):
        part = tree
        for key in place.split("/"):
            part = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and part:
            return part
    if isinstance(tree, dict) and "Transformer" in tree:
        return tree
    found = ", ".join(repr(key[:40]) for key in [*tree][:8]) if isinstance(tree, dict) else "no map"
    raise UserError(f"no parameters: expected 'optimizer', 'params' or 'Transformer', found {found or 'nothing'}")


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Joined name -> leaf."""
    leaves: dict[str, Any] = {}

    def walk(branch: Mapping[str, Any], prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UserError(f"parameters are nested in more than {MAX_DEPTH} maps")
        for key, value in branch.items():
            if not isinstance(key, str):
                raise UserError(f"a name that is no text: {key!r}")
            name = prefix + key
            if isinstance(value, Mapping):
                walk(value, f"{name}/", depth + 1)
            elif name in leaves:
                raise UserError(f"parameter {name!r} comes twice")
            else:
                leaves[name] = value

    walk(tree, "", 1)
    return leaves


def _decode(content: mmap.mmap, stored: dict[str, Any]) -> dict[str, np.ndarray]:
    """Read the stored arrays."""
    for name, leaf in stored.items():
        if not isinstance(leaf, _Stored):
            raise UserError(f"parameter {name!r} is {type(leaf).__name__}, not an array")
    names = {number: name for name, leaf in stored.items() for number in leaf.pieces}
    numbers = itertools.count()
    arrays: dict[int, np.ndarray] = {}

    def extension(code: int, data: bytes) -> _Stored:
        number = next(numbers)
        if number in names:
            arrays[number] = _array(code, data, names[number])
        return _Stored((number,))

    _unpack(content, extension)
    return {
        name: arrays.pop(pieces[0]) if shape is None else _joined([arrays.pop(n) for n in pieces], shape, name)
        for name, (pieces, shape) in stored.items()
    }


def _joined(pieces: list[np.ndarray], shape: list, name: str) -> np.ndarray:
    """An array that flax split into flat pieces, as it does above 1 GiB."""
    flat = np.concatenate([piece.reshape(-1) for piece in pieces])
    _check_shape(shape, flat.size, 1, "numbers in chunks", name)
    return flat.reshape(shape)


def _array(code: int, data: bytes, name: str) -> np.ndarray:
    """A copy of the array in an extension object, in the machine's own byte order; floating dtypes as float32."""
    if code not in (NDARRAY, SCALAR):
        kind = "complex" if code == COMPLEX else f"of the unknown extension type {code}"
        raise UserError(f"parameter {name!r} is {kind}, not an array of numbers")
    match msgpack.unpackb(data, raw=True, max_array_len=64, max_map_len=64):
        case [[*shape], bytes(spelled), bytes(content)]:
            kind = spelled.decode("ascii", "replace")
        case _:
            raise UserError(f"parameter {name!r} is not a shape, a dtype and bytes")
    if kind not in DTYPES:
        raise UserError(f"parameter {name!r} has the dtype {kind[:40]!r}; known are {', '.join(DTYPES)}")
    _check_shape(shape, len(content), DTYPES[kind].itemsize, f"bytes of {kind}", name)
    return _float32(_numbers(np.frombuffer(content, DTYPES[kind]), name)).reshape(shape)


def _check_shape(shape: list, size: int, itemsize: int, unit: str, name: str) -> None:
    """Refuse an invalid shape, or one that does not fit the data in the file."""
    if len(shape) > 32 or not all(type(length) is int and length >= 0 for length in shape):
        raise UserError(f"parameter {name!r} has the shape {str(shape)[:80]}; it takes up to 32 whole numbers from 0")
    if (needed := math.prod(shape) * itemsize) != size:
        raise UserError(f"parameter {name!r}: shape {shape} needs {needed} {unit}, the file holds {size}")


def _numbers(leaf: Any, name: str) -> np.ndarray:
    """A numpy array of one of numpy, torch or jax, sharing memory if possible; bfloat16 as float32."""
    if isinstance(leaf, torch.Tensor):
        leaf = leaf.detach().cpu()
        leaf = leaf.float() if leaf.dtype == torch.bfloat16 else leaf
    array = np.asarray(leaf)
    if array.dtype.name in ("bfloat16", "void16"):  # jax's own, or bytes without a type: the upper half of a float32
        array = np.asarray((array.view("<u2").astype(np.uint32) << 16).view(np.float32))
    if array.dtype.kind not in "biuf":
        raise UserError(f"parameter {name!r} is {type(leaf).__name__} ({array.dtype}), not an array of numbers")
    return array


def _float32(array: np.ndarray) -> np.ndarray:
    """A copy in the machine's own byte order, every floating dtype as float32."""
    return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("="))
