"""Runs that are stopped, killed and started again, as real processes: all end, nothing is left, nothing is lost."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import DDP, command, finish, kill_group, members, only, ranks, start, wait_for

from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.training.checkpoint import read_checkpoint

EPOCHS = ["--trainer.max_epochs", "2", "--trainer.log_every_n_steps", "1", "--trainer.callbacks+=processes.SendSignal"]
ONE = ["--data.batch_size", "1", *EPOCHS]
TWO = ["--data.batch_size", "2", *EPOCHS, *DDP]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """So many training clips that an epoch is longer than the time between two looks at the signals."""
    return demo_manifest(DemoSize(96, 8, 13), cache=tmp_path_factory.mktemp("stop-demo"))


@pytest.fixture
def launch(manifest: Path, tmp_path: Path) -> Iterator:
    """Start runs of the demo in a folder of `tmp_path`; what is left of them is killed."""
    begun: list[subprocess.Popen] = []

    def start_one(name: str, *options: str, **variables: str) -> subprocess.Popen:
        begun.append(start(command(manifest, tmp_path / name, *options), **variables))
        return begun[-1]

    yield start_one
    for process in begun:
        if members(process):
            kill_group(process)


def folder(tmp_path: Path, name: str) -> Path:
    return only(tmp_path.glob(f"{name}/*/*"))


def state(run: Path) -> dict:
    return json.loads((run / "state.json").read_text())


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def has_begun(tmp_path: Path, name: str) -> bool:
    """Whether a training is about to take its first step."""
    return bool(list(tmp_path.glob(f"{name}/*/*/metrics.csv")))


def assert_same(one: Path, other: Path, but: str = "") -> None:
    """Two runs have logged the same, but for one column, and ended alike, to the last bit."""
    assert [row | {but: ""} for row in rows(one)] == [row | {but: ""} for row in rows(other)]
    first, second = (read_checkpoint(run / "checkpoints/last.ckpt") for run in (one, other))
    assert first["global_step"] == second["global_step"]
    assert all(torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"])
    tests = [json.loads((run / "summary.json").read_text())["test"] for run in (one, other)]
    assert tests[0] == tests[1]


def assert_stopped(process: subprocess.Popen, run: Path, code: int = 143) -> int:
    """A run has ended for a signal inside of its first epoch; returns at which step."""
    output = finish(process, code)
    assert "Traceback" not in output, output
    assert not members(process), "no process is left"
    assert state(run)["state"] == "stopped" and state(run)["exit_code"] == code and state(run)["ended"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["fit"]["finished"] is False and "test" not in summary
    step = read_checkpoint(run / "checkpoints/last.ckpt")["global_step"]
    assert summary["fit"]["steps"] == step
    assert not any(row.get("val/score") for row in rows(run)), "no validation after the signal"
    return step


def test_a_group_under_ddp_stops_within_an_epoch_and_resumes_exactly(launch, tmp_path: Path) -> None:
    """SIGTERM to every process, workers that decode included; the same id resumes itself."""
    options = [*TWO, "--data.num_workers", "1"]
    stopped = launch("b", *options, MBT_RUN_ID="mine", SEND_SIGNAL="on_train_batch_end 7 group 15")
    undisturbed = launch("a", *options)
    wait_for(lambda: has_begun(tmp_path, "b"), stopped)
    run = folder(tmp_path, "b")
    assert state(run)["state"] in ("running", "stopped")
    assert run.name == "mine"
    assert 7 <= assert_stopped(stopped, run) < 48
    finish(undisturbed)

    output = finish(launch("b", *options, MBT_RUN_ID="mine"))
    assert f"checkpoint: {run / 'checkpoints/last.ckpt'}" in output and "not resumable" not in output
    assert state(run)["state"] == "finished" and state(run)["exit_code"] == 0
    assert_same(folder(tmp_path, "a"), run)
    fits = [json.loads((folder(tmp_path, name) / "summary.json").read_text())["fit"] for name in "ab"]
    assert fits[1]["clips_per_second"] * fits[1]["training_seconds"] == pytest.approx(2 * 96), "both parts are counted"
    assert fits[0]["epochs"] == fits[1]["epochs"] == 2


ANYWHERE = {
    "setup": "setup 1",  # before the training starts
    "training": "on_train_batch_start 7",
    "saving": "on_save_checkpoint 1",
    "validation": "on_validation_batch_start 3",
    "test": "on_test_start 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", ANYWHERE)
@pytest.mark.parametrize("rank", ["0", "1", "alone"])
def test_a_signal_to_one_rank_stops_all_wherever_they_are(place: str, rank: str, launch, tmp_path: Path) -> None:
    """And the run, started again, ends as one that nobody has stopped."""
    options = [*(ONE if rank == "alone" else TWO), "--trainer.limit_train_batches", "12"]
    sent = f"{ANYWHERE[place]} {rank.replace('alone', '0')} {signal.SIGTERM:d}"
    stopped = launch("b", *options, MBT_RUN_ID="x", SEND_SIGNAL=sent)
    undisturbed = launch("a", *options)
    output = finish(stopped, 143)
    assert "Traceback" not in output and not members(stopped)
    run = folder(tmp_path, "b")
    assert state(run)["state"] == "stopped" and state(run)["message"] == "stopped by SIGTERM"
    at_once = place == "setup" and rank == "alone"  # nobody waits for it
    assert (run / "summary.json").is_file() is not at_once
    summary = {} if at_once else json.loads((run / "summary.json").read_text())
    assert "test" not in summary and summary.get("fit", {}).get("finished", False) is (place == "test")

    finish(undisturbed)
    output = finish(launch("b", *options, MBT_RUN_ID="x"))
    assert ("trained already" in output) is (place == "test")
    assert_same(folder(tmp_path, "a"), run)


def test_ctrl_c_under_ddp_ends_all(launch, tmp_path: Path) -> None:
    """The signal of the keyboard goes to every process; what was trained is not lost."""
    process = launch("b", *TWO, MBT_RUN_ID="x", SEND_SIGNAL="on_train_batch_end 7 group 2")
    wait_for(lambda: has_begun(tmp_path, "b"), process)
    assert 7 <= assert_stopped(process, folder(tmp_path, "b"), 130) < 48
    assert state(folder(tmp_path, "b"))["message"] == "stopped by SIGINT"


def test_a_second_signal_ends_at_once(launch, tmp_path: Path) -> None:
    """Also a process that does not get to look, here because it is at a very long step."""
    process = launch("b", *ONE, "--trainer.callbacks+=processes.Sleep", MBT_RUN_ID="x")
    wait_for(lambda: (tmp_path / "b/bottleneck_b4_lf8/x/config.yaml").is_file(), process)
    time.sleep(2)
    process.terminate()
    time.sleep(1.5)
    assert process.poll() is None
    process.terminate()
    finish(process, -signal.SIGTERM)


def test_no_rank_outlives_the_first(launch, tmp_path: Path) -> None:
    process = launch("b", *TWO, "--data.num_workers", "1", MBT_RUN_ID="x")
    wait_for(lambda: len(members(process)) >= 4, process)
    assert len(ranks(process)) == 2, "two ranks, with a worker each"
    process.kill()
    finish(process, -signal.SIGKILL)
    deadline = time.monotonic() + 5
    while members(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process)
    assert state(folder(tmp_path, "b"))["state"] == "running", "no process was left to change it"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_that_starts_after_its_parent_has_ended_ends_too(method: str, tmp_path: Path) -> None:
    """A loader's own watch over the parent would take whoever has adopted the worker for it."""
    (tmp_path / "late.py").write_text(
        "import multiprocessing, os, time\n"
        "from mbt_lightning.process import serve_parent\n"
        "def worker(parent):\n"
        "    while os.getppid() == parent:\n"
        "        time.sleep(0.01)\n"
        "    open('started', 'w').close()\n"
        "    serve_parent()\n"
        "    open('outlived', 'w').close()\n"
        "if __name__ == '__main__':\n"
        f"    process = multiprocessing.get_context({method!r}).Process(target=worker, args=(os.getpid(),))\n"
        "    process.start()\n"
        "    time.sleep(1)\n"
        "    os._exit(0)\n"
    )
    run = subprocess.run([sys.executable, "late.py"], cwd=tmp_path, stdout=subprocess.PIPE)  # until the pipe is closed
    assert run.returncode == 0 and (tmp_path / "started").is_file() and not (tmp_path / "outlived").exists()


def test_a_rank_that_dies_is_reported_by_the_first(launch, tmp_path: Path) -> None:
    process = launch("b", *TWO, MBT_RUN_ID="x")
    wait_for(lambda: has_begun(tmp_path, "b"), process)
    os.kill(ranks(process)[1], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode and not members(process)
    recorded = state(folder(tmp_path, "b"))
    assert recorded["state"] == "failed" and recorded["exit_code"] == 1 and recorded["message"]


def test_a_process_dies_with_the_one_that_asked_for_it(launch, tmp_path: Path, manifest: Path) -> None:
    """As a sweep asks it of its trials."""
    code = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(99)"
    words = [sys.executable, "-c", code, *command(manifest, tmp_path / "b", *ONE)]
    parent = start(words, MBT_DIE_WITH_PARENT="1")
    wait_for(lambda: has_begun(tmp_path, "b"), parent)
    parent.kill()
    parent.communicate(timeout=10)  # the pipe is closed by the last process that holds it
    assert not members(parent)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_one_process_resumes_within_an_epoch(workers: str, launch, tmp_path: Path) -> None:
    """With the optimiser's state, the schedule and an accumulation over batches."""
    options = [*ONE, "--data.num_workers", workers, "--trainer.accumulate_grad_batches", "3"]
    options += ["--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "0.003"]
    stopped = launch("b", *options, MBT_RUN_ID="x", SEND_SIGNAL="on_train_batch_end 31 group 15")
    undisturbed = launch("a", *options)
    wait_for(lambda: has_begun(tmp_path, "b"), stopped)
    assert 11 <= assert_stopped(stopped, folder(tmp_path, "b")) < 32
    finish(undisturbed)
    finish(launch("b", *options, MBT_RUN_ID="x"))
    assert_same(folder(tmp_path, "a"), folder(tmp_path, "b"))


@pytest.mark.slow
def test_a_killed_run_resumes_under_its_id_even_from_a_damaged_file(launch, tmp_path: Path) -> None:
    options = ["--trainer.max_epochs", "6", "--trainer.log_every_n_steps", "1"]
    undisturbed = launch("a", *options)
    for size in (None, 0, 5000):
        killed = launch("b", *options, MBT_RUN_ID="x")
        checkpoints = tmp_path / "b/bottleneck_b4_lf8/x/checkpoints"
        before = {path: path.stat().st_mtime for path in checkpoints.glob("*.ckpt")}
        last = checkpoints / "last.ckpt"
        wait_for(lambda: last.is_file() and last.stat().st_mtime != before.get(last), killed)  # noqa: B023
        kill_group(killed)
        if size is not None:
            os.truncate(last, size)
    output = finish(launch("b", *options, MBT_RUN_ID="x"))
    assert f"{last} is damaged and was renamed to last.ckpt.damaged; resuming from best.ckpt" in output
    finish(undisturbed)
    # Killed right after an epoch's checkpoint, a run never logs the epoch's number of unreadable clips.
    assert_same(folder(tmp_path, "a"), folder(tmp_path, "b"), but="train/bad_clips")
