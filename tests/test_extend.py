"""docs/extend.md: its code is copied from the page, its changes go to a copy of the package, its commands run."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from paths import PROJECT

from mbt_lightning.cli.main import main
from mbt_lightning.data.demo import DemoSize, demo_manifest

PAGE = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)```", re.DOTALL)
SMALL = ["--model.size", "{dim: 16, depth: 12, num_heads: 2}", "--trainer.limit_train_batches", "2"]
SMALL += ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]


class Section(NamedTuple):
    """A section of the page: its files, its changes to files of the package, its commands."""

    files: dict[str, str]
    diffs: dict[str, str]
    commands: list[str]


def section(title: str) -> Section:
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    found = Section({}, {}, [])
    for kind, name, content in BLOCK.findall(text):
        if kind == "console":
            found.commands.extend(line for line in content.splitlines() if line.startswith("mbt "))
        else:
            (found.diffs if kind == "diff" else found.files)[name] = content
    assert found.commands and (found.files or found.diffs)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a copy of the experiments and a few clips; the sections share it, as the page's reader does."""
    folder = tmp_path_factory.mktemp("extend")
    shutil.copytree(PROJECT / "experiments", folder / "experiments")
    shutil.copytree(PROJECT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    manifest = demo_manifest(DemoSize(32, 4, 4), cache=folder / "clips")
    base = folder / "experiments" / "base.yaml"
    settings = yaml.safe_load(base.read_text())
    settings["data"]["manifest"] = str(manifest)
    settings["trainer"]["max_epochs"] = 1
    base.write_text(yaml.safe_dump(settings))
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    (folder / "features").mkdir()
    for row in rows:
        clip = Path(row["clip_id"]).name
        np.save(folder / "features" / f"{clip}.npy", np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32))
        row |= {"features": f"{clip}.npy", "video": str(manifest.parent / row["video"])}
    with open(folder / "features" / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    shutil.copy(manifest.parent / "classes.csv", folder / "features")
    (folder / "media").mkdir()
    names = [f"bird{i}" for i in range(3)]
    for row, name in zip(rows, names, strict=False):
        shutil.copy(row["video"], folder / "media" / f"{name}.mp4")
    lines = [
        f"{name},{species},{split}"
        for name, species, split in zip(names, ("owl", "wren", "owl"), ("train", "train", "test"), strict=True)
    ]
    (folder / "recordings.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def follow(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[[str], list[str]]:
    """Do what a section says; what its commands print. Those of a changed package run in processes of their own."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "300")

    def do(title: str) -> list[str]:
        found = section(title)
        for name, content in found.files.items():
            (place / name).write_text(content)
        for name, diff in found.diffs.items():
            apply(place / name, diff)
        printed = []
        for command in found.commands:
            program, *words = shlex.split(command)
            assert program == "mbt"
            small = SMALL if words[0] == "fit" or (words[0] == "sweep" and "--dry-run" not in words) else []
            words += small[2:] if words[0] == "sweep" else small
            if found.diffs:
                variables = {"PYTHONPATH": os.pathsep.join([str(place / "src"), os.environ.get("PYTHONPATH", "")])}
                line = [sys.executable, "-m", "mbt_lightning", *words]
                done = subprocess.run(line, env=os.environ | variables, capture_output=True, text=True, timeout=280)
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                printed.append(done.stdout)
            else:
                monkeypatch.delenv("MBT_RUN_FOLDER", raising=False)
                main(words)
                printed.append(capsys.readouterr().out)
        return printed

    return do


def apply(file: Path, diff: str) -> None:
    """Apply a change as the page shows it: each part is added lines before or after lines that are there."""
    text = file.read_text(encoding="utf-8")
    for part in diff.split("@@\n"):
        lines = part.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        assert text.count(before) == 1, f"{file}: {before!r}"
        text = text.replace(before, "".join(line[1:] for line in lines if line[0] in " +"))
    file.write_text(text, encoding="utf-8")


def test_a_strategy(place: Path, follow) -> None:
    trained, cost = follow("A fusion strategy")
    assert "fused" in trained and "MeanToken" in cost


def test_a_head(place: Path, follow) -> None:
    (trained,) = follow("A head")
    assert "fused" in trained


def test_a_task(place: Path, follow) -> None:
    (trained,) = follow("A task")
    assert "mAP" in trained


def test_a_modality_with_media_of_its_own(place: Path, follow) -> None:
    (trained,) = follow("A modality with media of its own")
    assert "features 1x16x16" in trained


def test_a_modality_made_from_frames_works_everywhere(place: Path, follow) -> None:
    """It is trained, tested, counted, swept and put into a table; another value of its settings is another row."""
    trained, tested, cost, plan, _, table = follow("A modality made from frames or audio")
    assert "motion 3x7x32x32" in trained and "motion" in tested and "motion" in cost
    assert "2 points" in plan and len(list((place / "runs" / "motion_frames").glob("*/summary.json"))) == 2
    rows = [line for line in table.splitlines() if "bottleneck" in line]
    assert len({line.split("│")[0] for line in rows}) >= 1 and len(rows) >= 2


def test_a_data_set_and_a_column(place: Path, follow) -> None:
    """The last: both change the copy of the package."""
    (prepared,) = follow("A data set")
    assert "birds" in prepared and (place / "birds.parquet").is_file()
    if not (place / "runs" / "motion_frames").is_dir():
        follow("A modality made from frames or audio")
    (table,) = follow("A table column")
    assert "steps" in table
