"""Weight files of the JAX world: every layout that is accepted, and every broken file told in one line."""

import io
import math
import os
import pickle
import random
import warnings
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch

from mbt_lightning.errors import UserError
from mbt_lightning.model.pretrained.flax import flatten, read_npz, read_params, renumber


def stored(array: np.ndarray, dtype: str | None = None, code: int = 1) -> msgpack.ExtType:
    """An array as flax writes it."""
    return msgpack.ExtType(code, msgpack.packb((array.shape, dtype or array.dtype.name, array.tobytes())))


def claimed(shape, dtype="float32", content=b"\0" * 8) -> dict:
    """A checkpoint with a parameter that says this of itself."""
    return {"params": {"x": msgpack.ExtType(1, msgpack.packb((shape, dtype, content)))}}


def in_chunks(array: np.ndarray, size: int, as_map: bool) -> dict:
    flat = array.reshape(-1)
    chunks = [stored(flat[i : i + size]) for i in range(0, flat.size, size)]
    lists = {"shape": list(array.shape), "chunks": chunks}
    maps = {name: {str(i): item for i, item in enumerate(items)} for name, items in lists.items()}
    return {"__msgpack_chunked_array__": True, **(maps if as_map else lists)}


def grid(*shape: int) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape) / 7 - 1


TREE = {
    "Transformer": {
        "encoderblock_0": {"LayerNorm_0": {"scale": grid(4)}, "MlpBlock_0": {"Dense_0": {"kernel": grid(4, 6)}}},
        "encoderblock_0_spectrogram": {"LayerNorm_0": {"scale": grid(4) + 1}},
    },
    "cls": grid(1, 1, 4),
}
NAMES = {
    "Transformer/encoderblock_0/LayerNorm_0/scale": grid(4),
    "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel": grid(4, 6),
    "Transformer/encoderblock_0_spectrogram/LayerNorm_0/scale": grid(4) + 1,
    "cls": grid(1, 1, 4),
}


def packed(tree):
    return {key: packed(value) for key, value in tree.items()} if isinstance(tree, dict) else stored(tree)


PARAMS = packed(TREE)
MOMENTUM = {"step": stored(np.int32(3)), "param_states": {"cls": {"momentum": stored(np.ones(4, "<u2"), "bfloat16")}}}
STATE = {
    "global_step": stored(np.int32(3)),
    "optimizer": {"target": PARAMS, "state": MOMENTUM},
    "model_state": {},
    "rng": stored(np.array([0, 1], np.uint32)),
}


@pytest.fixture
def write(tmp_path):
    """Write these bytes, or this content as msgpack; returns the path."""

    def to(content, name: str = "checkpoint_3") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else msgpack.packb(content))
        return path

    return to


def refused(read, path) -> str:
    """The text by which a file is refused, without its path."""
    with pytest.raises(UserError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def same(left: dict, right: dict) -> bool:
    return list(left) == list(right) and all(np.array_equal(left[name], right[name]) for name in right)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"optimizer": {"state": MOMENTUM, "target": {"params": PARAMS}}},
        {"params": PARAMS, "opt_state": {"0": {"trace": PARAMS}}},
        {"params": {"params": PARAMS}},
        {"optimizer": None, "params": PARAMS},
        PARAMS,
    ],
    ids=["optimizer", "before_linen", "optax", "params_params", "empty_optimizer", "bare"],
)
def test_every_layout_gives_the_parameters(write, content) -> None:
    params = read_params(write(content))
    assert same(params, NAMES)
    assert all(array.dtype == np.float32 and array.flags.writeable for array in params.values())


@pytest.mark.parametrize("as_map", [True, False])
@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_arrays_in_chunks(write, as_map, size) -> None:
    tree = {"params": {"kernel": in_chunks(grid(4, 6), size, as_map), "bias": stored(grid(6))}}
    assert same(read_params(write(tree)), {"kernel": grid(4, 6), "bias": grid(6)})


def test_every_floating_dtype_is_read_as_float32(write) -> None:
    exact = np.array([[1.5, -2.0], [0.0078125, np.inf]], np.float32)  # in the few bits of a bfloat16, too
    halves = (exact.view(np.uint32) >> 16).astype("<u2")
    dtypes = {name: stored(exact.astype(name)) for name in ("float16", "float32", "float64")}
    params = read_params(write({"params": {**dtypes, "bfloat16": stored(halves, "bfloat16")}}))
    assert same(params, dict.fromkeys(["float16", "float32", "float64", "bfloat16"], exact))
    assert {array.dtype for array in params.values()} == {np.dtype("float32")}


def test_integers_and_booleans_keep_their_dtype(write) -> None:
    arrays = {name: np.arange(3).astype(name) for name in ("bool", "int8", "uint16", "int32", "int64", "uint64")}
    params = read_params(write({"params": packed(arrays)}))
    assert same(params, arrays)
    assert {name: array.dtype.name for name, array in params.items()} == {name: name for name in arrays}


def test_scalars_and_empty_arrays(write) -> None:
    tree = {"a": stored(np.float32(2.5), code=3), "b": stored(np.float32(-1)), "c": stored(grid(0, 3)), "d": {}}
    params = read_params(write({"params": tree}))
    assert {name: array.shape for name, array in params.items()} == {"a": (), "b": (), "c": (0, 3)}
    assert params["a"] == 2.5 and params["b"] == -1


def test_only_the_parameters_are_decoded(write) -> None:
    """What stands beside them may be broken, or complex, or of a kind that we do not know."""
    strangers = {"a": msgpack.ExtType(1, b"\xc1"), "b": msgpack.ExtType(2, b""), "c": msgpack.ExtType(77, b"")}
    assert same(read_params(write({"before": strangers, "params": PARAMS, "rest": [strangers, None]})), NAMES)


def test_numbers_from_before_linen_become_linens(write, tmp_path) -> None:
    old = ["LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"]
    new = ["LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"]
    blocks = {"encoderblock_3": {name: {"x": grid(2) + i} for i, name in enumerate(old)}}
    expected = {f"Transformer/encoderblock_3/{name}/x": grid(2) + i for i, name in enumerate(new)}
    assert same(read_params(write({"optimizer": {"target": {"params": packed({"Transformer": blocks})}}})), expected)
    np.savez(tmp_path / "vit.npz", **flatten({"Transformer": blocks}))
    assert same(read_npz(tmp_path / "vit.npz"), expected)


@pytest.mark.parametrize(
    "name",
    [
        "Transformer/encoderblock_3/LayerNorm_0/scale",
        "Transformer/encoderblock_3_spectrogram/MlpBlock_0/Dense_1/bias",
        "encoderblock_3",
        "Transformer/encoderblock_3/encoderblock_7",
        "checkpoint_3/LayerNorm_2/scale",
        "Transformer/encoder_norm_2/LayerNorm_4",
        "Transformer/encoderblock_1/mlp/Dense_1/kernel",
    ],
)
def test_other_names_are_not_renumbered(name) -> None:
    assert renumber({name: 1}) == {name: 1}


def test_numbers_are_sorted_as_numbers_within_block_and_class() -> None:
    names = [
        "b/encoderblock_10/Norm_10",
        "b/encoderblock_10/Norm_9/x",
        "b/encoderblock_1/Norm_3",
        "b/encoderblock_10/A_4",
    ]
    expected = [
        "b/encoderblock_10/Norm_1",
        "b/encoderblock_10/Norm_0/x",
        "b/encoderblock_1/Norm_0",
        "b/encoderblock_10/A_0",
    ]
    assert list(renumber(dict.fromkeys(names))) == expected
    assert list(renumber(dict.fromkeys(expected))) == expected


def test_flatten_takes_nested_and_joined_names_and_arrays_of_any_library() -> None:
    class Jaxlike:
        def __array__(self, dtype=None, copy=None) -> np.ndarray:
            return np.ones((2, 1), np.int32)

    half = torch.tensor([1.5, -3.0], dtype=torch.bfloat16, requires_grad=True)
    flat = flatten({"a": {"b/c": grid(2), "d": {"e": Jaxlike()}}, "a/f": torch.ones(2), "g": half, "h": {}})
    assert {name: (array.dtype.name, array.shape) for name, array in flat.items()} == {
        "a/b/c": ("float32", (2,)),
        "a/d/e": ("int32", (2, 1)),
        "a/f": ("float32", (2,)),
        "g": ("float32", (2,)),
    }
    assert flat["g"].tolist() == [1.5, -3.0]


def endless() -> dict:
    tree: dict = {}
    tree["a"] = tree
    return tree


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"a": {"b": grid(1)}, "a/b": grid(1)}, "parameter 'a/b' comes twice"),
        ({"a": {3: grid(1)}}, "a name that is no text: 3"),
        ({"a": {"b": None}}, "parameter 'a/b' is NoneType (object), not an array of numbers"),
        ({"a": "b"}, "parameter 'a' is str (<U1), not an array of numbers"),
        ({"a": np.ones(2, complex)}, "parameter 'a' is ndarray (complex128), not an array of numbers"),
        (endless(), "parameters are nested in more than 16 maps"),
    ],
)
def test_flatten_refuses(tree, text) -> None:
    with pytest.raises(UserError) as caught:
        flatten(tree)
    assert str(caught.value) == text


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/"])
def test_npz_with_every_prefix(tmp_path, prefix) -> None:
    others = {"opt/state/step": np.array(3), "extra/accum_train_time": np.array(1.0)} if prefix else {}
    arrays = {prefix + name: array.astype(np.float64) for name, array in NAMES.items()}
    np.savez_compressed(tmp_path / "vit.npz", **others, **arrays)
    params = read_npz(tmp_path / "vit.npz")
    assert same(params, {name: array.astype(np.float32) for name, array in NAMES.items()})
    assert {array.dtype.name for array in params.values()} == {"float32"}


def test_npz_with_bfloat16(tmp_path) -> None:
    """Without jax, numpy shows them as two bytes of no type."""
    exact = np.array([1.5, -2.0, 0.0078125], np.float32)
    np.savez(tmp_path / "vit.npz", **{"params/x": (exact.view(np.uint32) >> 16).astype("<u2").view("V2")})
    assert same(read_npz(tmp_path / "vit.npz"), {"x": exact})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "empty file"),
        (b"PK\x03\x04rest", "not a flax checkpoint but a zip archive such as .npz or .ckpt"),
        (b"\x1f\x8brest", "not a flax checkpoint but a gzip archive"),
        (pickle.dumps({"params": 1}), "not a flax checkpoint but a pickle, which is never loaded"),
        (b"<html>", "not a flax checkpoint, or cut off (ExtraData: unpack(b) received extra data.)"),
        (msgpack.packb(STATE)[:-1], "not a flax checkpoint, or cut off (ValueError: Unpack failed: incomplete input)"),
        (msgpack.packb(STATE) + b"\0", "not a flax checkpoint, or cut off (ExtraData: unpack(b) received extra data.)"),
        (b"\x81\xa1a" * 10_000, "not a flax checkpoint, or cut off (StackError)"),
        (b"\x91" * 10_000, "not a flax checkpoint, or cut off (StackError)"),
        (
            b"\x81\xa6params" + b"\x81\xa1a" * 100 + b"\xc0",
            "parameters are nested in more than 16 maps",
        ),
        (
            b"\xdf\xff\xff\xff\xff" * 20,
            "not a flax checkpoint, or cut off (ValueError: 4294967295 exceeds max_map_len(10000))",
        ),
        (
            b"\xdd\xff\xff\xff\xff" * 20,
            "not a flax checkpoint, or cut off (ValueError: 4294967295 exceeds max_array_len(10000))",
        ),
        ({"a": [[0] * 9000] * 12}, "more than 100000 names and values, far more than a model has"),
        (
            {"step": 3, "ema\n": {}},
            "no parameters: expected 'optimizer', 'params' or 'Transformer', found 'step', 'ema\\n'",
        ),
        ({"params": {}}, "no parameters: expected 'optimizer', 'params' or 'Transformer', found 'params'"),
        ([1], "no parameters: expected 'optimizer', 'params' or 'Transformer', found no map"),
        ({}, "no parameters: expected 'optimizer', 'params' or 'Transformer', found nothing"),
        ({"params": {1: 2}}, "a name that is not a text of at most 256 letters: 1"),
        ({"params": {"a" * 257: 2}}, f"a name that is not a text of at most 256 letters: '{'a' * 39}"),
        ({"params": {"x": {"y": PARAMS["cls"]}, "x/y": PARAMS["cls"]}}, "parameter 'x/y' comes twice"),
        (b"\x81\x80\x01", "a name that is not a text of at most 256 letters: no text"),
        (b"\x82\xa1a\x01\xa1a\x02", "a name comes twice"),
        ({"params": {"x": "text"}}, "parameter 'x' is str, not an array"),
        (
            {"params": {"x": msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))}},
            "parameter 'x' is complex, not an array of numbers",
        ),
        (
            {"params": {"x": msgpack.ExtType(9, b"")}},
            "parameter 'x' is of the unknown extension type 9, not an array of numbers",
        ),
        ({"params": {"x": msgpack.ExtType(1, b"\x90")}}, "parameter 'x' is not a shape, a dtype and bytes"),
        (claimed([2**31]), "parameter 'x': shape [2147483648] needs 8589934592 bytes of float32, the file holds 8"),
        (claimed([3]), "parameter 'x': shape [3] needs 12 bytes of float32, the file holds 8"),
        (claimed([-1, -2]), "parameter 'x' has the shape [-1, -2]; it takes up to 32 whole numbers from 0"),
        (claimed([2.0]), "parameter 'x' has the shape [2.0]; it takes up to 32 whole numbers from 0"),
        (claimed([True], "int64"), "parameter 'x' has the shape [True]; it takes up to 32 whole numbers from 0"),
        (
            claimed([1] * 33),
            f"parameter 'x' has the shape {str([1] * 33)[:80]}; it takes up to 32 whole numbers from 0",
        ),
        (
            {"params": {"x": {"__msgpack_chunked_array__": True, "shape": [2], "chunks": 7}}},
            "a chunked array is not a map of shape and chunks",
        ),
        (
            {"params": {"x": {**in_chunks(grid(4), 3, True), "shape": [2**40]}}},
            "parameter 'x': shape [1099511627776] needs 1099511627776 numbers in chunks, the file holds 4",
        ),
    ],
)
def test_a_broken_checkpoint_is_told_in_one_line(write, content, text) -> None:
    path = write(content)
    assert path.stat().st_size < 200_000
    assert refused(read_params, path) == text


@pytest.mark.parametrize("dtype", ["object", "|O", "O8", "complex64", "V2", "f4,f4", "float8_e4m3fn", ""])
def test_dtypes_are_a_closed_list(write, dtype) -> None:
    known = "bool, float16, float32, float64, int8, int16, int32, int64, uint8, uint16, uint32, uint64, bfloat16"
    text = f"parameter 'x' has the dtype {dtype!r}; known are {known}"
    assert refused(read_params, write(claimed([1], dtype))) == text


@pytest.mark.parametrize("read", [read_params, read_npz])
def test_a_path_that_is_no_file(read, tmp_path) -> None:
    assert refused(read, tmp_path / "none") == "no such file"
    assert refused(read, tmp_path) == "a folder; name the file in it"
    for step in (9, 10):
        (tmp_path / f"checkpoint_{step}").write_bytes(b"")
    (tmp_path / "checkpoint_x").write_bytes(b"")
    assert refused(read, tmp_path) == f"a folder; name the file in it: {tmp_path / 'checkpoint_10'}"
    os.mkfifo(tmp_path / "pipe")  # reading it would wait without end
    assert refused(read, tmp_path / "pipe") == "no such file"


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_ever_loaded(write, tmp_path, protocol) -> None:
    trap = tmp_path / "sprung"
    poison = pickle.dumps(Trap(trap), protocol)
    assert refused(read_params, write(poison)).startswith("not a flax checkpoint")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("x.npy", poison)
    assert (
        refused(read_npz, tmp_path / "zip.npz")
        == "parameter 'x' is bytes (|S" + f"{len(poison)}), not an array of numbers"
    )
    assert refused(read_npz, write(poison, "vit.npz")) == "not an .npz file"
    np.savez(tmp_path / "object.npz", x=np.array([Trap(trap)], dtype=object))
    assert "Object arrays cannot be loaded when allow_pickle=False" in refused(read_npz, tmp_path / "object.npz")
    assert not trap.exists()
    pickle.loads(poison)
    assert trap.exists()  # the trap is a real one


def npy(header: str) -> bytes:
    """A file of numpy with this header, and eight bytes."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([], "holds no arrays"),
        ([("a/data.pkl", b"x")], "parameter 'a/data.pkl' is bytes (|S1), not an array of numbers"),
        (
            [("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}\n")), ("x", b"")],
            "a name comes twice",
        ),
        (
            [("x.npy", npy("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}\n"))],
            "parameter 'x' is ndarray (complex64), not an array of numbers",
        ),
        (
            [("x.npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000,)}\n"))],
            "not an .npz file, or cut off (ValueError: EOF: reading array data, expected 4000 bytes got 8)",
        ),
    ],
)
def test_a_broken_npz_is_told_in_one_line(tmp_path, members, text) -> None:
    with zipfile.ZipFile(tmp_path / "vit.npz", "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    assert refused(read_npz, tmp_path / "vit.npz") == text


def test_an_npz_that_unpacks_without_end_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mbt_lightning.model.pretrained.flax.MAX_NPZ_BYTES", 2**20)
    np.savez_compressed(tmp_path / "vit.npz", x=np.zeros(2**19))
    assert refused(read_npz, tmp_path / "vit.npz") == "unpacks to more than 0 GiB; no ViT is as large"


def npz_bytes() -> bytes:
    file = io.BytesIO()
    np.savez(file, **NAMES)
    return file.getvalue()


@pytest.mark.parametrize(
    ("read", "whole"),
    [(read_params, msgpack.packb({**STATE, "more": in_chunks(grid(5), 2, True)})), (read_npz, npz_bytes())],
    ids=["checkpoint", "npz"],
)
def test_whatever_the_bytes_there_are_arrays_or_one_line(write, read, whole) -> None:
    chance = random.Random(0)
    cut = [whole[:end] for end in range(0, len(whole), 5)]
    flipped = []
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 3, 20])):
            content[chance.randrange(len(content))] = chance.choice([chance.randrange(256), 0xDF, 0xC9, 0xFF, 0])
        flipped.append(bytes(content))
    noise = [bytes([first]) + chance.randbytes(60) for first in range(256)]
    outcomes = {"read": 0, "refused": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy on numbers that no float32 holds
        for content in cut + flipped + noise:
            path = write(content, "file")
            try:
                params = read(path)
            except UserError as error:
                assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
                outcomes["refused"] += 1
            else:
                assert all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in params.values())
                outcomes["read"] += 1
    assert min(outcomes.values()) > 20, outcomes
