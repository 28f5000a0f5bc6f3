"""Whole runs as a user has them: real processes, killed and resumed, side by side, and several for one run."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import DDP, PLAIN, command, finish, only, start

from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """A few real clips; the odd number of test clips cannot be shared evenly by two processes."""
    return demo_manifest(DemoSize(32, 8, 13), cache=tmp_path_factory.mktemp("runs-demo"))


def test_a_killed_run_resumes_as_if_nothing_had_been(manifest: Path, tmp_path: Path) -> None:
    """Kill -9 after the first checkpoint; the resumed run ends with exactly the weights of an uninterrupted one."""
    epochs = ["--trainer.max_epochs", "12", "--data.max_bad_fraction", "0.5"]
    undisturbed = start(command(manifest, tmp_path / "a", *epochs))
    killed = start(command(manifest, tmp_path / "b", *epochs))
    while not list(tmp_path.glob("b/*/*/checkpoints/last.ckpt")) and killed.poll() is None:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    finish(killed, code=-signal.SIGKILL)
    finish(undisturbed)

    output = finish(start(command(manifest, tmp_path / "b", *epochs, "--ckpt_path", "last")))
    run = only(tmp_path.glob("b/*/*"))
    assert f"checkpoint: {run / 'checkpoints/last.ckpt'}" in output, "the checkpoint is printed"
    assert f"run: {run}" in output, "the same folder is used"
    whole = only(tmp_path.glob("a/*/*"))
    first, second = (load_checkpoint(folder / "checkpoints/last.ckpt").state_dict() for folder in (whole, run))
    assert all(torch.equal(first[name], second[name]) for name in first)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, run)]
    assert summaries[0]["test"] == summaries[1]["test"]
    steps = [(folder / "metrics.csv").read_text().count("\n") for folder in (whole, run)]
    assert steps[0] == steps[1], "no step is logged twice and none is lost"


def test_a_stopped_run_is_not_taken_for_a_finished_one(manifest: Path, tmp_path: Path) -> None:
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130}
    stopped = {s: start(command(manifest, tmp_path / s.name, "--trainer.max_epochs", "2000")) for s in codes}
    for sign, process in stopped.items():
        while not list(tmp_path.glob(f"{sign.name}/*/*/checkpoints/last.ckpt")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(sign)
    for sign, process in stopped.items():
        output = finish(process, codes[sign])
        assert "Traceback" not in output
        fit = json.loads(only(tmp_path.glob(f"{sign.name}/*/*/summary.json")).read_text())["fit"]
        assert fit["finished"] is False and fit["steps"] > 0


def test_two_processes_train_and_score_like_one(manifest: Path, tmp_path: Path) -> None:
    finish(start(command(manifest, tmp_path, "--trainer.max_epochs", "1", *DDP)))
    run = only(tmp_path.glob("*/*"))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["processes"] == 2 and summary["fit"]["steps"] == 4 and summary["test"]["clips"] == 13

    test = [sys.executable, "-m", "mbt_lightning", "test", *PLAIN, "--runs", str(tmp_path / "again")]
    finish(start([*test, "--ckpt_path", str(run / "checkpoints/best.ckpt")]))
    alone = json.loads(only(tmp_path.glob("again/*/*/summary.json")).read_text())
    assert alone["processes"] == 1
    assert alone["test"] == pytest.approx(summary["test"], abs=1e-9)


def test_an_error_under_two_processes_ends_both(manifest: Path, tmp_path: Path) -> None:
    output = finish(start(command(manifest, tmp_path, "--data.batch_size", "7", *DDP)), code=2)
    assert "batch_size 7 cannot be shared evenly by 2 processes: give a multiple of 2" in output
    assert "Traceback" not in output


def test_two_runs_started_at_once_have_a_folder_each(manifest: Path, tmp_path: Path) -> None:
    runs = [start(command(manifest, tmp_path, "--trainer.max_epochs", "1")) for _ in range(2)]
    for run in runs:
        finish(run)
    folders = list(tmp_path.glob("*/*"))
    assert len(folders) == 2 and all((folder / "summary.json").is_file() for folder in folders)


def test_the_same_id_is_the_same_run_and_no_other_experiment(manifest: Path, tmp_path: Path) -> None:
    words = command(manifest, tmp_path, "--trainer.max_epochs", "1")
    finish(start(words, MBT_RUN_ID="x"))
    run = only(tmp_path.glob("*/x"))
    before = json.loads((run / "summary.json").read_text())
    assert before["machine"]["device"] and before["machine"]["num_gpus"] == 0 and before["data"]["name"] is None
    other = finish(start([*words, "--model.label_smoothing", "0.3"], MBT_RUN_ID="x"), code=2)
    assert "was started with other settings: model.label_smoothing is 0.0 there and 0.3 here; use" in other
    assert json.loads((run / "state.json").read_text())["state"] == "finished", "the refusal leaves it alone"
    assert "trained already" in finish(start(words, MBT_RUN_ID="x"))
    after = json.loads((run / "summary.json").read_text())
    assert after["fit"] == before["fit"] and after["test"] == before["test"]
    assert [path.name for path in run.glob("config*")] == ["config.yaml"]
    wrong = finish(start([*words, "--model.label_smoothing", "3"], MBT_RUN_ID="y"), code=2)
    recorded = json.loads((tmp_path / run.parent.name / "y" / "state.json").read_text())
    assert recorded["state"] == "failed" and recorded["exit_code"] == 2 and recorded["message"] in wrong


@pytest.mark.slow
def test_compiled_checkpoint_loads_without(manifest: Path, tmp_path: Path) -> None:
    finish(start(command(manifest, tmp_path, "--trainer.max_epochs", "1", "--model.compile", "true")))
    model = load_checkpoint(only(tmp_path.glob("*/*/checkpoints/last.ckpt")))
    assert not any("_orig_mod" in name for name in model.state_dict())
