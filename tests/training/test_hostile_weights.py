"""Weight files that are small and mean harm: each is refused in one line, with little memory and time; nothing runs."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

READ = """
import resource, signal, sys
from mbt_lightning.errors import UserError
from mbt_lightning.model.pretrained.flax import read_npz, read_params
from mbt_lightning.model.pretrained.torch_files import read_tensors
from mbt_lightning.training.checkpoint import load_checkpoint

if sys.platform == "linux":  # macOS does not limit memory
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
for word in sys.argv[1:]:
    reader, _, name = word.partition(":")
    signal.alarm(20)
    try:
        globals()[reader](name)
    except UserError as error:
        print(f"{word}\\t{error!s}")
"""
"""Reads each file; a crash, another error, or too much time or memory ends it, and the rest of its lines is missing."""


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def nested(levels: int = 40, part=("x",)) -> list:
    """A value of 10**40 values, of which a file holds only 40 lists."""
    value = list(part)
    for _ in range(levels):
        value = [value] * 10
    return value


def about(model=None, classes=()) -> dict:
    config = {"experiment": "e", "model": model or {}, "data": {}}
    inputs = {"rgb": [3, 8, 32, 32], "spectrogram": [1, 64, 64]}
    return {"config": config, "spec": {"inputs": inputs, "classes": list(classes), "groups": []}}


def checkpoint(name: str, **changes) -> None:
    torch.save({"mbt_lightning": about(**changes), "state_dict": {}}, name)


def archive(name: str, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """An archive as torch.save makes it, around any bytes."""
    with zipfile.ZipFile(name, "w", compression) as file:
        for member, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}.items():
            file.writestr(f"archive/{member}", content)


def array_file(name: str) -> None:
    """An .npz of one array that claims to have 16 TB."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**42},), }}".ljust(117).encode() + b"\n"
    with zipfile.ZipFile(name, "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00" + header)


def make_files() -> list[str]:
    """Make all files here; each with its reader."""
    itself: list = []
    itself.append(itself)
    torch.save(Harm(), "gadget.ckpt")
    torch.save(Harm(), "legacy.pt", _use_new_zipfile_serialization=False)
    Path("bare.pt").write_bytes(pickle.dumps(Harm()))
    Path("bare.msgpack").write_bytes(pickle.dumps(Harm()))
    archive("compressed.ckpt", b"\x80\x02" + bytes(2**26), zipfile.ZIP_DEFLATED)
    archive("length.ckpt", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x")
    archive("deep.ckpt", b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".")
    checkpoint("lists.ckpt", model={"fusion": nested()})
    checkpoint("tuples.ckpt", model={"fusion": (tuple(nested()),)})
    checkpoint("itself.ckpt", model={"fusion": itself})
    checkpoint("classes.ckpt", classes=nested())
    checkpoint("size.ckpt", model={"fusion_layer": 0, "size": {"dim": 10**7, "depth": 1, "num_heads": 1}})
    torch.save({"x": torch.zeros(1, dtype=torch.half).expand(10**12)}, "one.pt")
    torch.save({f"x{i}": torch.zeros(1).expand(10**8) for i in range(20)}, "many.pt")
    Path("header.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    Path("json.safetensors").write_bytes(struct.pack("<Q", 10**6) + b'{"a":' * 200_000)
    save_file({"x": torch.zeros(1)}, "about.safetensors", {"mbt_lightning": "[" * 1_000_000})
    text = json.dumps(about({"fusion": 0})).replace('"fusion": 0', f'"fusion": {"[" * 900}{"]" * 900}')
    save_file({"x": torch.zeros(1)}, "levels.safetensors", {"mbt_lightning": text})
    np.savez("objects.npz", x=np.array([Harm()], dtype=object))
    array_file("length.npz")
    Path("length.msgpack").write_bytes(b"\xdd\xff\xff\xff\xff")
    Path("deep.msgpack").write_bytes(b"\x91" * 1_000_000)
    stored = msgpack.ExtType(1, msgpack.packb(((2**40,), "float32", b"")))
    Path("shape.msgpack").write_bytes(msgpack.packb({"params": {"x": stored}}))
    readers = {".ckpt": "load_checkpoint", ".pt": "read_tensors", ".npz": "read_npz", ".msgpack": "read_params"}
    found = [f"{readers.get(path.suffix, 'load_checkpoint')}:{path}" for path in sorted(Path(".").iterdir())]
    return [*found, "read_tensors:gadget.ckpt", "read_tensors:compressed.ckpt", "read_tensors:header.safetensors"]


def test_hostile_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = make_files()
    before = set(tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", READ, *words], capture_output=True, text=True, timeout=120)
    refused = dict(line.split("\t") for line in done.stdout.splitlines())
    assert list(refused) == words, done.stderr[-1000:]
    for word, message in refused.items():
        assert word.partition(":")[2] in message or word.endswith((".npz", ".msgpack")), message
    assert set(tmp_path.iterdir()) == before
    assert "compressed archive" in refused["load_checkpoint:compressed.ckpt"]
    assert "times as large as the file" in refused["read_tensors:one.pt"]


def test_shared_and_tied_weights_are_no_bomb(tmp_path: Path) -> None:
    from mbt_lightning.model.pretrained.torch_files import read_tensors

    shared = torch.arange(1000.0)
    torch.save({"a": shared, "b": shared, "c": shared[:10]}, tmp_path / "x.pt")
    assert read_tensors(tmp_path / "x.pt")["b"].equal(shared)
