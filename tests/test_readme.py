"""Every command and every piece of Python in the README runs, on few clips and with a small budget."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import PROJECT
from timm.models.vision_transformer import VisionTransformer
from vits import google_names

from mbt_lightning.cli.main import main
from mbt_lightning.data.demo import FRAME_RATE, SAMPLE_RATE, SIZE, DemoSize, demo_manifest, encode

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "console" for line in block.splitlines() if "mbt " in line]
DEMO = "~/.cache/mbt-lightning/demo-v2-1024-128-512-seed0"
SMALL = [
    "--model.size",
    "{dim: 16, depth: 12, num_heads: 2}",
    "--data.num_workers",
    "0",
    "--trainer.enable_progress_bar",
]
SMALL += ["false", "--trainer.limit_train_batches", "1", "--data.inputs.rgb.frame_size", "32"]
SMALL += ["--data.inputs.rgb.num_frames", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the experiments with a few clips, in which the commands run one after the other."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("experiments", "sweeps"):
        shutil.copytree(PROJECT / name, folder / name)
    shutil.copytree(PROJECT / "tests" / "goldens", folder / "tests" / "goldens")
    (folder / "weights").mkdir()  # what a user would download, at the size of the small models
    vit = VisionTransformer(32, 16, embed_dim=16, depth=12, num_heads=2)
    np.savez(folder / "weights" / "ViT-B_16.npz", **google_names(vit))
    (folder / "media").mkdir()  # and a data set of three clips
    rows = [
        "--aaSYNTH01,30,alpha clapping,train",
        "00012345678,0,beta chirping,train",
        "zzSYNTH03__,7,beta chirping,test",
    ]
    (folder / "vggsound.csv").write_text("\n".join(rows))
    for row in rows:
        name, start, *_ = row.split(",")
        pictures, sound = np.zeros((10 * FRAME_RATE, SIZE, SIZE, 3), np.uint8), np.sin(np.arange(10 * SAMPLE_RATE))
        encode(folder / "media" / f"{name}_{int(start):06d}.mp4", pictures, sound.astype(np.float32))
    manifest = demo_manifest(DemoSize(32, 4, 4), cache=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield manifest


def smaller(words: list[str], manifest: Path) -> list[str]:
    """A command of the README with fewer clips, smaller and shorter; everything else as it stands."""
    words = [word.replace(DEMO, str(manifest.parent)) for word in words]
    if words[0] == "subset":
        return [word if word != "256" else "16" for word in words]
    if words[0] == "sweep" and "--dry-run" not in words:
        return [*words, "--count", "1", "--data.manifest", str(manifest), "--trainer.max_epochs", "1"]
    if words[0] != "fit":
        return words
    epochs = [] if "--trainer.max_epochs" in words else ["--trainer.max_epochs", "1"]
    words = words if "--print_config" not in words else [w for w in words if w != "--print_config"] + ["--print_config"]
    shallow = "{dim: 16, depth: 2, num_heads: 2}"  # compiling takes its time, a layer by a layer
    compiled = ["--model.size", shallow, "--model.fusion_layer", "1"] if "--model.compile" in words else []
    has_its_own = "--data.manifest" in words or any("recipes/" in word for word in words)
    clips = [] if has_its_own else ["--data.manifest", str(manifest), "--model.task", "Multilabel"]
    return [*words, *clips, *epochs, *SMALL, *compiled]


def run(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command of the README."""
    print(f"$ {command}")
    words = shlex.split(command, comments=True)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert words.pop(0) == "mbt"
    for name in ("PL_GLOBAL_SEED", "MBT_RUN_FOLDER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if "--trainer.strategy=ddp" in words:  # starts its other processes by its own command line
        program = [sys.executable, "-m", "mbt_lightning", *smaller(words, place)]
        assert subprocess.run(program, timeout=250).returncode == 0
    elif "--print_config" in words or words == ["doctor"]:
        with pytest.raises(SystemExit) as stop:
            main(smaller(words, place))
        assert not stop.value.code
    else:
        main(smaller(words, place))


SLOW = [command for command in COMMANDS if "compile" in command or "ddp" in command]


def test_commands_one_after_the_other(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They build on each other: what is tested, resumed and used for predictions has been trained before."""
    for command in COMMANDS:
        if command not in SLOW:
            run(command, place, monkeypatch)
    python_blocks_work(place)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_slow_command(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(command, place, monkeypatch)


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make ([\w-]+)", README, re.MULTILINE)
    makefile = (PROJECT / "Makefile").read_text()
    assert targets and all(f"\n{target}:" in makefile for target in targets)


def test_links_lead_somewhere() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", prose):
        assert link.startswith("https://") or (PROJECT / link.partition("#")[0]).exists(), link


def python_blocks_work(place: Path) -> None:
    """Run the pieces of Python, on a checkpoint of the commands' runs."""
    checkpoint = sorted(Path("runs/bottleneck_b4_lf8").glob("*/checkpoints/best.ckpt"))[-1]
    shutil.copy(checkpoint, "best.ckpt")
    shutil.copy(place.parent / "clips" / "test-00000.mp4", "clip.mp4")
    names: dict = {}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(block, names)
    assert names["clip"].frames.shape[0] == 8 and names["clip"].num_real_frames == 8
    from mbt_lightning import MBT, EncoderSize

    inputs = {"rgb": (3, 2, 32, 32), "spectrogram": (1, 32, 32)}
    network = MBT(inputs, 5, fusion=names["MeanToken"], fusion_layer=1, size=EncoderSize(16, 3, 2))
    logits = network({m: torch.randn(2, *shape) for m, shape in inputs.items()})
    assert logits["rgb"].shape == (2, 5)
    assert os.getcwd() != str(PROJECT)
