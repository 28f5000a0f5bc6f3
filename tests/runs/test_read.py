"""Run folders as they are read: which are found, their states, and files that cannot be read."""

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from made_runs import make_run

from mbt_lightning.errors import UserError
from mbt_lightning.runs.read import is_run, read_run
from mbt_lightning.sweep.planned_runs import read_folders, subfolders


def names_in(*folders: Path) -> list[str]:
    return sorted(run.name for run in read_folders(folders)[0])


def test_runs_are_found_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path / "runs/a/1")
    make_run(tmp_path / "runs/deep/er/b/2")
    make_run(tmp_path / "runs/a/1/wandb/run-1/files")  # W&B keeps a config.yaml of its own
    make_run(tmp_path / "runs/wandb/offline-run-2/files")
    assert names_in(tmp_path / "runs") == ["1", "2"]
    assert names_in(tmp_path / "runs/a") == names_in(tmp_path / "runs/a/1") == ["1"]
    assert names_in(tmp_path / "runs/a", tmp_path / "runs/deep/er/b/2", tmp_path / "runs") == ["1", "2"]


def test_a_link_is_followed_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a/1")
    (tmp_path / "a/again").symlink_to(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/elsewhere").symlink_to(tmp_path / "a")
    assert names_in(tmp_path) == names_in(tmp_path / "b") == ["1"]


def test_experiments_may_be_called_as_the_sweeps_own_folder(tmp_path: Path) -> None:
    for name in ("sweep", "wandb", "checkpoints"):
        make_run(tmp_path / "runs" / name / f"in-{name}")
    make_run(tmp_path / "runs/a/wandb/offline-run-1/files")
    make_run(tmp_path / "runs/b/sweep/no-run")
    (tmp_path / "runs/b/sweep/plan.json").write_text("{}")
    names = sorted(folder.name for folder in subfolders(tmp_path / "runs") if is_run(folder))
    assert names == ["in-checkpoints", "in-sweep", "in-wandb"]


def test_states(tmp_path: Path) -> None:
    host, gone = socket.gethostname(), subprocess.Popen(["true"])
    gone.wait()

    def state(name: str, summary: bool = True, parts: dict | None = None, **content) -> tuple[str, bool]:
        run = read_run(make_run(tmp_path / name, 0.5 if summary else None, content or None, parts))
        return run.state, run.is_scored

    def message(name: str) -> str:
        return read_run(tmp_path / name).message

    assert state("old") == ("finished", True)
    assert state("old-stopped", parts={"fit": {"finished": False, "epochs": 3}, "test": {}}) == ("stopped", False)
    assert "3 epochs" in message("old-stopped")
    assert state("old-untested", parts={"test": {}}) == ("stopped", False)
    assert state("old-none", summary=False) == ("stopped", False) and "summary.json" in message("old-none")
    assert state("done", state="finished", pid=1, host=host) == ("finished", True)
    assert state("oom", False, state="failed", pid=1, host=host, message="boom") == ("failed", False)
    assert message("oom") == "boom" and message("done") == ""
    assert state("here", False, state="running", pid=os.getpid(), host=host) == ("running", False)
    assert state("dead", False, state="running", pid=gone.pid, host=host) == ("killed", False)
    assert state("far", False, state="running", pid=gone.pid, host="elsewhere") == ("running", False)
    assert state("nan", parts={"test": {"score": None}}, state="finished", pid=1, host=host) == ("finished", False)
    assert state("no-name", pid=1) == ("finished", True), "from its summary"
    assert state("no-pid", state="running", host=host)[0] == "running"
    assert state("no-message", False, state="failed", message=None)[0] == "failed" and message("no-message") == ""


def test_curves_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "1")
    run = read_run(folder)
    (folder / "metrics.csv").write_text("step,epoch,train/loss,val/score\n8,0,2.5,\n16,0,,0.25\n24,1,nan,\n")
    assert run.curves() == {"train/loss": [(8, 2.5)], "val/score": [(16, 0.25)]}
    (folder / "metrics.csv").write_text("step,train/loss\n8,2.5\n16,ab\n")
    with pytest.raises(UserError, match=r"metrics\.csv, line 3: "):
        run.curves()
    (folder / "metrics.csv").unlink()
    assert run.curves() == {}


def test_configurations_of_version_0_1_are_upgraded(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "1")
    old = yaml.safe_load((folder / "config.yaml").read_text())
    old["data"] |= {"num_frames": 4, "spec_augment": None}
    del old["data"]["inputs"]
    old["model"] |= {"head": "cls", "fusion": {"class_path": "mbt_lightning.model.fusion.Bottleneck"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(old))
    config = read_run(folder).config
    assert config["data"]["inputs"]["rgb"]["init_args"] == {"num_frames": 4}
    assert config["model"]["head"]["class_path"] == "mbt_lightning.ClsHead"
    assert config["model"]["fusion"]["class_path"] == "mbt_lightning.Bottleneck"


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("summary.json", "{", "is not JSON"),
        ("summary.json", "[]", "is not a JSON object"),
        ("config.yaml", "a: [", "is not YAML"),
        ("config.yaml", "a: \udcff", "is not UTF-8 text (invalid start byte at byte 3)"),
        ("summary.json", '"\udcff"', "is not UTF-8 text"),
        ("state.json", '"\udcff"', "is not UTF-8 text"),
        ("state.json", "", "is not JSON"),
        ("summary.json", None, "cannot be read (Is a directory)"),
        ("summary.json", '{"data": 3}', "data is 3, not a JSON object"),
        ("summary.json", '{"data": {"clips": [4]}}', "data.clips is [4], not a JSON object"),
        ("summary.json", '{"versions": "2"}', "versions is '2', not a JSON object"),
        ("summary.json", '{"provenance": {"fit": [{}, 3]}}', "provenance.fit is not a list of JSON objects"),
    ],
)
def test_a_broken_file_is_named(file: str, content: str | None, problem: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "1") / file
    if content is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match=re.escape(f"{file}: {problem}")):
        read_folders([tmp_path])
