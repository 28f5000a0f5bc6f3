"""`mbt sweep` as a user has it: real trials in processes of their own, interrupted, shared, failed and tried again."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from paths import PROJECT
from rich.console import Console

from mbt_lightning.__main__ import main
from mbt_lightning.cli.main import main as program
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.errors import UserError
from mbt_lightning.sweep.ledger import Ledger, State, read_ledger
from mbt_lightning.sweep.plan import Planner, score_of
from mbt_lightning.sweep.progress import Progress, duration, label_of, labels_of
from mbt_lightning.sweep.sweep_file import read_sweep
from mbt_lightning.sweep.workers import Workers, gpu_sets

TINY = ["--model.size", "{dim: 16, depth: 2, num_heads: 2}", "--trainer.max_epochs", "4", "--data.num_workers", "0"]
TINY += ["--data.batch_size", "8", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return demo_manifest(DemoSize(24, 8, 12), cache=tmp_path_factory.mktemp("sweep-demo"))


def sweep_file(folder: Path, parameters: dict, **more) -> Path:
    """A sweep over the embedded data, as a user writes one."""
    command = ["${env}", "mbt", "fit", "--config", str(PROJECT / "experiments/base.yaml")]
    command += ["--config", str(PROJECT / "experiments/loggers/wandb.yaml"), "--config", "${args_json_file}"]
    content = {"program": "mbt", "method": "grid", "metric": {"name": "test/score", "goal": "maximize"}}
    content |= {"parameters": {name: {"values": v} if isinstance(v, list) else v for name, v in parameters.items()}}
    content |= {"command": command}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content | more))
    return path


STRATEGIES = {"model.fusion": ["Bottleneck", "CrossAttention"], "model.fusion_layer": [1, 2], "seed_everything": [0]}
"""Four points, three experiments: fused from layer 2 of 2 on, every strategy is late fusion."""


def start(file: Path, runs: Path, manifest: Path, *more: str) -> subprocess.Popen:
    left = ("PL_", "MBT_", "LOCAL_RANK", "MASTER_", "WORLD_SIZE", "NODE_RANK", "WANDB")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(left)} | {"OMP_NUM_THREADS": "1"}
    words = ["sweep", str(file), "--runs", str(runs), "--data.manifest", str(manifest), *TINY, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "mbt_lightning", *words],
        cwd=PROJECT,
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    output, _ = process.communicate(timeout=280)
    assert process.returncode == code, output
    return output


def processes_of(runs: Path) -> list[int]:
    """Processes that run trials of a sweep: they name its folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"fit" in words and str(runs).encode() in words:
            found.append(int(path.parent.name))
    return found


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def scores(ledger: Ledger) -> dict[str, dict]:
    return {
        trial: json.loads((ledger.folder / trial / "summary.json").read_text())["test"]
        for trial in ledger.plan["trials"]
    }


def ends(ledger: Ledger) -> dict[str, list[str]]:
    """How every attempt at every trial ended; `None` where its owner did not live to tell."""
    return {
        trial: [(ledger.end_of(trial, n) or {"state": "None"})["state"] for n in ledger.attempts(trial)]
        for trial in ledger.plan["trials"]
    }


def test_interrupted_again_and_again_a_sweep_ends_as_an_undisturbed_one(manifest: Path, tmp_path: Path) -> None:
    """The undisturbed one is shared by two programs; the other is killed in three ways at random moments."""
    file = sweep_file(tmp_path, STRATEGIES)
    sharing = [start(file, tmp_path / "a", manifest, "--workers", "1") for _ in range(2)]
    outputs = [finish(process) for process in sharing]
    undisturbed = read_ledger(tmp_path / "a" / "small")
    assert "4 points, 3 of them different experiments" in outputs[0]
    assert set(map(tuple, ends(undisturbed).values())) == {("done",)}, "each was run once, by one of the two"

    chance, runs = random.Random(0), tmp_path / "b"
    for how in ("kill everything", "kill the sweep alone", "ask it to stop"):
        sweep = start(file, runs, manifest, "--workers", "2")
        wait_for(lambda: processes_of(runs))
        time.sleep(chance.uniform(4, 9))
        assert sweep.poll() is None, "it must not be over before it is interrupted"
        if how == "ask it to stop":
            sweep.send_signal(signal.SIGTERM)
            assert "the same command goes on" in finish(sweep, 143)
            assert processes_of(runs) == []
        else:
            for pid in processes_of(runs) if how == "kill everything" else []:
                os.kill(pid, signal.SIGKILL)
            os.killpg(sweep.pid, signal.SIGKILL)
            sweep.communicate()
            wait_for(lambda: processes_of(runs) == [], 20)
    finish(start(file, runs, manifest, "--workers", "2"))

    interrupted = read_ledger(runs / "small")
    assert list(interrupted.plan["trials"]) == list(undisturbed.plan["trials"])
    assert all(attempts.count("done") == 1 and attempts[-1] == "done" for attempts in ends(interrupted).values())
    assert scores(interrupted) == scores(undisturbed)
    assert any("None" in attempts for attempts in ends(interrupted).values()), "something was interrupted"
    assert {path.name for path in (runs / "small").iterdir()} == {"sweep", *interrupted.plan["trials"]}

    began = time.monotonic()
    output = finish(start(file, runs, manifest))
    assert "3 of 3 trials done" in output and time.monotonic() - began < 10, "there was nothing to do"


def test_no_trial_outlives_a_sweep_that_is_killed_at_once(manifest: Path, tmp_path: Path) -> None:
    sweep = start(sweep_file(tmp_path, STRATEGIES), tmp_path / "runs", manifest, "--workers", "1")
    wait_for(lambda: processes_of(tmp_path / "runs"))
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: processes_of(tmp_path / "runs") == [], 30)


def test_a_failed_trial_is_told_and_tried_again_when_asked(manifest: Path, tmp_path: Path) -> None:
    file = sweep_file(
        tmp_path, {"data.media_root": [str(manifest.parent), str(tmp_path / "nowhere")], "model.fusion_layer": [1]}
    )
    output = finish(start(file, tmp_path / "runs", manifest, "--workers", "2"), code=1)
    ledger = read_ledger(tmp_path / "runs" / "small")
    assert sorted(map(tuple, ends(ledger).values())) == [("done",), ("failed",)]
    assert "1 of 2 trials done" in output and "1 failed; --retries 1 tries it again" in output
    failed = next(trial for trial, state in ledger.states().items() if state.name == "failed")
    assert "nowhere" in ledger.state(failed).message
    (tmp_path / "nowhere").symlink_to(manifest.parent)  # what was wrong is mended
    assert "1 of 2 trials done" in finish(start(file, tmp_path / "runs", manifest), code=1), "not tried without asking"
    assert "2 of 2 trials done" in finish(start(file, tmp_path / "runs", manifest, "--retries", "1"))
    assert sorted(map(tuple, ends(Ledger(ledger.folder)).values())) == [("done",), ("failed", "done")]


@pytest.mark.slow
def test_jobs_of_two_tasks_through_submitit(manifest: Path, tmp_path: Path) -> None:
    file = sweep_file(tmp_path, STRATEGIES)
    launcher = ["--launcher", "slurm", "--slurm", "cluster=local", "tasks_per_node=2", "timeout_min=10"]
    output = finish(start(file, tmp_path / "runs", manifest, *launcher, "--trainer.strategy=ddp"))
    assert "3 of 3 trials done" in output
    ledger = read_ledger(tmp_path / "runs" / "small")
    assert set(map(tuple, ends(ledger).values())) == {("done",)}
    for trial in ledger.plan["trials"]:
        assert json.loads((ledger.folder / trial / "summary.json").read_text())["processes"] == 2


@pytest.mark.slow
def test_bayes_learns_from_its_trials_and_goes_on(manifest: Path, tmp_path: Path) -> None:
    parameters = {"model.optimizer.init_args.lr": {"min": 1e-6, "max": 1e-2, "distribution": "log_uniform_values"}}
    parameters |= {"model.fusion_layer": {"value": 1}}
    file = sweep_file(tmp_path, parameters, method="bayes")
    assert "2 of 2 trials done" in finish(start(file, tmp_path / "runs", manifest, "--count", "2"))
    assert "4 of 4 trials done" in finish(start(file, tmp_path / "runs", manifest, "--count", "4", "--workers", "2"))
    ledger = read_ledger(tmp_path / "runs" / "small")
    assert len(ledger.plan["points"]) == 4 and set(map(tuple, ends(ledger).values())) == {("done",)}


# ---------------------------------------------------------------------------------------------------------------------
# Without running anything
# ---------------------------------------------------------------------------------------------------------------------


def planner(tmp_path: Path, file: Path, *more: str, count: int = 0) -> Planner:
    sweep = read_sweep(file)
    return Planner(sweep, Ledger(tmp_path / "runs" / sweep.name), more, count)


def test_a_plan_is_made_once_and_again_when_something_changed(tmp_path: Path, monkeypatch) -> None:
    file = sweep_file(tmp_path, STRATEGIES)
    first = planner(tmp_path, file, *TINY).plan()
    trials = {(p["values"]["model.fusion"], p["values"]["model.fusion_layer"]): p["trial"] for p in first["points"]}
    assert trials["Bottleneck", 2] == trials["CrossAttention", 2] and len(set(trials.values())) == 3

    again = planner(tmp_path, file, *TINY)
    again.resolver = lambda *_: pytest.fail("nothing changed")
    assert again.plan() == first

    file = sweep_file(tmp_path, STRATEGIES | {"seed_everything": [0, 1]})
    more = planner(tmp_path, file, *TINY).plan()
    assert len(more["trials"]) == 6 and first["trials"].keys() < more["trials"].keys(), "what was there keeps its name"


def test_a_file_that_changes_while_a_sweep_runs_ends_it(tmp_path: Path) -> None:
    """The next trials would not be what was planned."""
    over = tmp_path / "over.yaml"
    over.write_text("model: {label_smoothing: 0.1}\n")
    made = planner(tmp_path, sweep_file(tmp_path, STRATEGIES), *TINY, "--config", str(over))
    made.plan()
    workers = Workers(made, [[]])
    over.write_text("model: {label_smoothing: 0.7}\n")
    assert workers.claim() is None and workers.is_over()
    with pytest.raises(UserError, match="has changed since the trials were planned"):
        workers.run(lambda states: None)
    assert set(made.ledger.states().values()) == {State("waiting")}


def test_a_trial_refuses_settings_that_were_not_planned(manifest: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MBT_EXPERIMENT", "0123456789")
    with pytest.raises(SystemExit) as stop:
        program(["fit", "--config", str(PROJECT / "experiments/base.yaml"), "--data.manifest", str(manifest)])
    assert stop.value.code == 2 and "not the settings that trial 0123456789 was planned with" in capsys.readouterr().err


def test_another_command_of_the_same_name_does_not_change_a_sweep_that_runs(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, STRATEGIES)
    mine = planner(tmp_path, file, *TINY)
    trials = set(mine.plan()["trials"])
    planner(tmp_path, file, *TINY, "--data.batch_size", "4").plan()
    assert set(mine.current()["trials"]) == trials != set(mine.ledger.plan["trials"])


def test_values_as_json_text_win_over_files_behind_the_sweep(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, {"model.fusion_layer": [1, 2]})
    file.write_text(file.read_text().replace("${args_json_file}", "${args_json}"))
    over = tmp_path / "over.yaml"
    over.write_text("model: {fusion_layer: 0}\n")
    plan = planner(tmp_path, file, *TINY, "--config", str(over)).plan()
    assert [trial["settings"]["model.fusion_layer"] for trial in plan["trials"].values()] == [1, 2]


def test_a_random_search_is_the_same_for_all_who_share_it(tmp_path: Path) -> None:
    parameters = {"model.drop_path": {"min": 0.0, "max": 0.5}, "model.fusion_layer": {"values": [0, 1, 2]}}
    file = sweep_file(tmp_path, parameters, method="random")
    one, other = (planner(tmp_path / name, file, *TINY, count=5).plan() for name in ("a", "b"))
    assert one["points"] == other["points"] and len(one["points"]) == 5
    longer = planner(tmp_path / "a", file, *TINY, count=7).plan()
    assert longer["points"][:5] == one["points"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml: no such sweep file"),
        ([], "which sweep. Give a file"),
        (["FILE", "--workers", "0"], "--workers is 0: give 1 or more"),
        (["FILE", "--count", "0"], "--count is 0: give 1 or more"),
        (["FILE", "--retries", "-1"], "--retries is -1: give 0 or more"),
        (["FILE", "--model.fusion_layer", "3"], "model.fusion_layer is what .*small.yaml varies; leave the option out"),
        (["FILE", "--model.fusion.update=symmetric"], "model.fusion is what .* varies"),
        (["FILE", "--ckpt_path", "last"], "a sweep names its runs and resumes them itself"),
        (["FILE", "--slurm", "nodes=2"], "--slurm: give --launcher slurm with it"),
        (["FILE", "--launcher", "slurm", "--slurm", "nodes=0"], "--slurm nodes=0: give a whole number, at least 1"),
        (["FILE", "--launcher", "slurm", "--slurm", "nodes"], "--slurm nodes: give NAME=VALUE"),
        (
            ["FILE", "--launcher", "slurm", "--slurm", "cluster=pbs", "timeout_min=9"],
            "cluster=pbs: choose slurm or local",
        ),
        (
            ["FILE", "--launcher", "slurm", "--slurm", "cluster=local", "node=2", "timeout_min=9"],
            "Unknown|need to be prefixed",
        ),
        (["FILE", "--launcher", "slurm", "--slurm", "timeout_min=9"], "there is no srun here"),
        (["FILE", "--launcher", "slurm"], "say how long a trial may take: --slurm timeout_min=MINUTES"),
        (["FILE", "--name", "null"], "--name null: give a word that names a folder"),
        (["FILE", "--name", ".."], "--name ..: give a word that names a folder"),
        (["FILE", "--runs", "small.yaml/x"], "cannot make this folder .Not a directory.; give --runs FOLDER"),
        (["FILE", "--trainer.precision", "bf16-true"], "is refused: trainer.precision is bf16-true: choose one of"),
        (["FILE", "--model.size", "huge"], r"the point \{.*\} is refused: size is 'huge': choose one of ti, s"),
        (["FILE", *TINY[:1], "{dim: 16, depth: 0, num_heads: 2}"], r"the point \{.*\} is refused: depth is 0"),
        (["FILE", "--model.fusion_layr", "3"], r"the point \{.*\} is refused: .*fusion_layr"),
        (["FILE", "--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
        (["FILE", "--dry-run", "--rate", "-1"], "--rate is -1"),
    ],
)
def test_bad_input_gets_a_line(words, message, tmp_path: Path, monkeypatch, capsys) -> None:
    file = sweep_file(tmp_path, {"model.fusion": ["Bottleneck"], "model.fusion_layer": [1]})
    words = [str(file) if word == "FILE" else word for word in words]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mbt", "sweep", *words])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as stop:
        main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("mbt: error: "), error
    assert re.search(message, error), error


def test_a_dry_run_prints_trials_and_what_they_cost(tmp_path: Path, monkeypatch, capsys) -> None:
    file = sweep_file(tmp_path, STRATEGIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mbt", "sweep", str(file), "--dry-run", *TINY, "--workers", "1"])
    main()
    assert "no run has finished yet to measure the speed by" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--rate", "0.01"])
    main()
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines() if line.strip().startswith(("any", "Bottl", "CrossA"))]
    assert [row[0] for row in rows] == ["Bottleneck", "any", "CrossAttention"]
    assert [row[3] for row in rows] == ["1", "2", "1"]
    seconds = [3 * 4 * 1024 * float(row[4]) / 0.01 for row in rows]  # epochs, clips, GFLOPs, speed
    assert all(f"~ {duration(s)}" in output for s in seconds)
    assert not (tmp_path / "runs" / "small").exists(), "nothing was run, nothing was planned for others"


def test_workers_share_gpus_evenly(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,GPU-5,6,7,8")
    assert gpu_sets(None) == [["0"], ["1"], ["2"], ["3"], ["GPU-5"], ["6"], ["7"], ["8"]]
    assert gpu_sets(2) == [["0", "1", "2", "3"], ["GPU-5", "6", "7", "8"]]
    with pytest.raises(UserError, match="--workers is 9, but there are 8 GPUs"):
        gpu_sets(9)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_sets(3) == [[], [], []]


def test_what_the_view_says(capsys) -> None:
    labels = {"a": "Bottleneck, fusion_layer 8", "b": "CrossAttention, fusion_layer 8", "c": "late"}
    reached = {"a": 0.5, "b": 0.75}
    show = Progress(
        lambda: labels, "test/score", "maximize", reached.get, workers=1, console=Console(force_terminal=False)
    )
    show({"a": State("running", attempts=1), "b": State("waiting"), "c": State("waiting")})
    show({"a": State("done", attempts=1, seconds=60), "b": State("running", attempts=1), "c": State("waiting")})
    show(
        {
            "a": State("done", attempts=1, seconds=60),
            "b": State("done", attempts=1, seconds=70),
            "c": State("failed", "no such file", 1, 1),
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 of 3 done, 1 running"
    assert "a Bottleneck, fusion_layer 8: done in 1 min 0 s, test/score 0.500" in lines
    assert "1 of 3 done, 1 running, about 2 min 0 s left, best test/score 0.500 (Bottleneck, fusion_layer 8)" in lines
    assert "c late: failed: no such file" in lines
    assert lines[-1] == "2 of 3 done, 1 failed, best test/score 0.750 (CrossAttention, fusion_layer 8)"
    assert label_of(
        {"model.modalities": ["rgb", "spectrogram"], "data.synchronous": True, "x.seed_everything": None}
    ) == ("rgb+spectrogram, synchronous true, seed none")


def test_a_trial_of_several_points_is_named_by_what_they_share() -> None:
    points = [{"values": {"model.fusion": f, "model.fusion_layer": 12}, "trial": "a"} for f in ("X", "Y")]
    points.append({"values": {"model.fusion": "X", "model.fusion_layer": 8}, "trial": "b"})
    assert labels_of({"points": points}) == {"a": "fusion any, fusion_layer 12", "b": "X, fusion_layer 8"}


def test_scores_are_read_by_the_metrics_name(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"test": {"score": 0.5, "fused/mAP": 0.25}}')
    (tmp_path / "metrics.csv").write_text("step,val/score,val/loss\n1,0.5,3\n2,,\n3,0.75,2\n4,0.25,1\n")
    assert score_of(tmp_path, "test/score", "maximize") == 0.5
    assert score_of(tmp_path, "test/fused/mAP", "maximize") == 0.25
    assert score_of(tmp_path, "val/score", "maximize") == 0.75
    assert score_of(tmp_path, "val/loss", "minimize") == 1
    assert score_of(tmp_path, "test/nothing", "maximize") is None
    assert score_of(tmp_path / "nowhere", "val/score", "maximize") is None
