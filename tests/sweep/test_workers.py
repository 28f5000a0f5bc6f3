"""`mbt sweep` as a user has it: real trials in processes of their own, interrupted, shared, failed and retried."""

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
from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.parser import as_plain, build_parser, parse
from mbt_lightning.cli.resolve import resolve
from mbt_lightning.config.settings import fingerprint, flat
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.data.measure import settings_of
from mbt_lightning.data.spectrogram import LogMel
from mbt_lightning.errors import UserError
from mbt_lightning.sweep.ledger import Ledger, TrialStatus, read_ledger
from mbt_lightning.sweep.plan import Planner, check_options, score_of
from mbt_lightning.sweep.planned_runs import read_folders
from mbt_lightning.sweep.progress import SweepProgress, duration, label_of, labels_of
from mbt_lightning.sweep.slurm import JobWorker
from mbt_lightning.sweep.sweep_file import read_sweep
from mbt_lightning.sweep.workers import Workers, gpu_sets

GOLDENS = PROJECT / "tests/goldens/v0_1"

TINY = ["--model.size", "{dim: 16, depth: 2, num_heads: 2}", "--trainer.max_epochs", "4", "--data.num_workers", "0"]
TINY += ["--data.batch_size", "8", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return demo_manifest(DemoSize(24, 8, 12), cache=tmp_path_factory.mktemp("sweep-demo"))


def sweep_file(folder: Path, parameters: dict, **more) -> Path:
    """A sweep over the embedded data, as a user writes one."""
    command = ["${env}", "mbt", "fit", "--config", str(PROJECT / "experiments/base.yaml")]
    command += ["--config", str(PROJECT / "experiments/loggers/wandb.yaml"), "--config", "${args_json_file}"]
    content = {"program": "mbt", "method": "grid", "metric": {"name": "val/score", "goal": "maximize"}}
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
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def scores(ledger: Ledger) -> dict[str, dict]:
    return {
        trial: json.loads((ledger.folder / trial / "summary.json").read_text())["test"]
        for trial in ledger.plan["trials"]
    }


def ends(ledger: Ledger) -> dict[str, list[str]]:
    """How every attempt at every trial ended; `None` where its owner died before."""
    return {
        trial: [(ledger.end_of(trial, n) or {"state": "None"})["state"] for n in ledger.attempts(trial)]
        for trial in ledger.plan["trials"]
    }


@pytest.mark.parametrize(
    "ways", [("kill everything", "ask it to stop"), pytest.param(("kill the sweep alone",) * 3, marks=pytest.mark.slow)]
)
def test_interrupted_again_and_again_a_sweep_ends_as_an_undisturbed_one(
    ways: tuple[str, ...], manifest: Path, tmp_path: Path
) -> None:
    """The undisturbed one is shared by two programs; the other is interrupted at random moments."""
    file = sweep_file(tmp_path, STRATEGIES)
    sharing = [start(file, tmp_path / "a", manifest, "--workers", "1") for _ in range(2)]
    outputs = [finish(process) for process in sharing]
    undisturbed = read_ledger(tmp_path / "a" / "small")
    assert "4 points, 3 of them different experiments" in outputs[0]
    assert set(map(tuple, ends(undisturbed).values())) == {("done",)}, "each was run once, by one of the two"

    chance, runs = random.Random(0), tmp_path / "b"
    for how in ways:
        sweep = start(file, runs, manifest, "--workers", "2")
        wait_for(lambda: processes_of(runs))
        time.sleep(chance.uniform(4, 7))
        assert sweep.poll() is None, "it must not be over before it is interrupted"
        if how == "ask it to stop":
            sweep.send_signal(signal.SIGTERM)
            assert "run the same command to resume" in finish(sweep, 143)
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


def test_a_failed_trial_is_reported_and_retried_when_asked(manifest: Path, tmp_path: Path) -> None:
    file = sweep_file(
        tmp_path, {"data.media_root": [str(manifest.parent), str(tmp_path / "nowhere")], "model.fusion_layer": [1]}
    )
    output = finish(start(file, tmp_path / "runs", manifest, "--workers", "2"), code=1)
    ledger = read_ledger(tmp_path / "runs" / "small")
    assert sorted(map(tuple, ends(ledger).values())) == [("done",), ("failed",)]
    assert "1 of 2 trials done" in output and "1 failed; retry with --retries 1" in output
    failed = next(trial for trial, status in ledger.statuses().items() if status.name == "failed")
    assert "nowhere" in ledger.status(failed).message
    (tmp_path / "nowhere").symlink_to(manifest.parent)  # the cause is fixed
    assert "1 of 2 trials done" in finish(start(file, tmp_path / "runs", manifest), code=1), (
        "not retried without asking"
    )
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
def test_bayes_learns_from_its_trials_and_resumes(manifest: Path, tmp_path: Path) -> None:
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
    return Planner(sweep, Ledger(tmp_path / "runs" / sweep.name), resolve, more, count)


def test_a_plan_is_made_once_and_again_when_something_changed(tmp_path: Path, monkeypatch) -> None:
    file = sweep_file(tmp_path, STRATEGIES)
    first = planner(tmp_path, file, *TINY).plan()
    trials = {(p["values"]["model.fusion"], p["values"]["model.fusion_layer"]): p["trial"] for p in first["points"]}
    assert trials["Bottleneck", 2] == trials["CrossAttention", 2] and len(set(trials.values())) == 3

    again = planner(tmp_path, file, *TINY)
    again.resolver = lambda *_: pytest.fail("nothing changed")
    assert again.plan() == first
    assert all(again.config(trial)["model"]["size"]["dim"] == 16 for trial in first["trials"])

    file = sweep_file(tmp_path, STRATEGIES | {"seed_everything": [0, 1]})
    more = planner(tmp_path, file, *TINY).plan()
    assert len(more["trials"]) == 6 and first["trials"].keys() < more["trials"].keys(), "what was there keeps its name"


def test_a_trial_reads_its_own_file_which_is_the_experiment_that_was_planned(tmp_path: Path) -> None:
    """Loggers, callbacks and other classes included."""
    over = tmp_path / "over.yaml"
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/score"}}
    over.write_text(
        yaml.safe_dump({"trainer": {"callbacks": [stopping]}, "base": str(PROJECT / "experiments/base.yaml")})
    )
    parameters = STRATEGIES | {"model.optimizer.init_args.lr": [1.0e-5], "model.mixup": ["ModalityMixup"]}
    logger = ["--config", str(PROJECT / "experiments/loggers/wandb.yaml")]
    made = planner(tmp_path, sweep_file(tmp_path, parameters), *TINY, *logger, "--config", str(over))
    trials = made.plan()["trials"]
    assert len(trials) == 3
    parser = build_parser("fit")
    for trial, costs in trials.items():
        config = as_plain(parser, parse(parser, expand("fit", made.command(trial)[1:])))
        assert fingerprint(config) == trial and config["experiment"] == "small"
        assert flat(config) | {"experiment": 0, "runs": 0} == flat(made.config(trial)) | {"experiment": 0, "runs": 0}
        assert config["trainer"]["logger"]["class_path"].endswith("WandbRun")
        assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-5 and config["trainer"]["callbacks"]
        assert costs["parameters"] > 1000 and costs["train_clips"] == 1024
        assert costs["gflops_per_clip"] > 0
        is_coded = config["model"]["fusion_layer"] == 2 or "Cross" in config["model"]["fusion"]["class_path"]
        assert costs["gflops_as_coded"] > costs["gflops_per_clip"] if is_coded else costs["gflops_as_coded"] is None


def test_a_measured_scale_is_filled_in_when_the_plan_is_made(manifest: Path, tmp_path: Path) -> None:
    copied = tmp_path / "manifest.csv"
    copied.write_text(manifest.read_text())
    (tmp_path / "classes.csv").write_text((manifest.parent / "classes.csv").read_text())
    words = [*TINY, "--data.manifest", str(copied)]
    words += ["--data.inputs.spectrogram.init_args.transform.init_args.mean", "null"]
    made = planner(tmp_path, sweep_file(tmp_path, {"model.fusion_layer": [1]}), *words)
    with pytest.raises(UserError, match=r"run `mbt stats .*manifest.csv"):
        made.plan()
    entry = {"mean": -2.5, "std": 3.0, "num_clips": 24, "split": "train", "hash": "x"}
    stats = {"spectrograms": [entry | settings_of(LogMel, {"num_mels": 64})]}
    copied.with_name("manifest.csv.stats.json").write_text(json.dumps(stats))
    (trial,) = made.plan()["trials"]
    scale = made.config(trial)["data"]["inputs"]["spectrogram"]["init_args"]["transform"]["init_args"]
    assert (scale["mean"], scale["std"]) == (-2.5, 3.4)


def test_a_plan_of_version_0_1_is_replaced_and_its_trials_stay_readable(tmp_path: Path) -> None:
    made = planner(tmp_path, sweep_file(tmp_path, {"model.fusion_layer": [1]}), *TINY)
    old = {"settings": flat(yaml.safe_load((GOLDENS / "config.yaml").read_text())), "words": ["fit"]}
    plan = {"digest": "old", "parameters": ["model.fusion_layer"], "trials": {"0123456789": old}}
    made.ledger.write_plan(plan | {"points": [{"values": {"model.fusion_layer": 1}, "trial": "0123456789"}]})
    runs, _ = read_folders([made.ledger.folder])
    assert [(run.name, run.state, run.config["data"]["batch_size"]) for run in runs] == [("0123456789", "waiting", 32)]
    (trial,) = made.plan()["trials"]
    runs, _ = read_folders([made.ledger.folder])
    assert [(run.name, run.state, run.config["data"]["batch_size"]) for run in runs] == [(trial, "waiting", 8)]


def test_a_job_does_not_wait_for_trials_that_others_run(tmp_path: Path) -> None:
    made = planner(tmp_path, sweep_file(tmp_path, STRATEGIES), *TINY)
    trials = list(made.plan()["trials"])
    job, worker = JobWorker(made, [[]]), Workers(made, [[]])
    attempts = [made.ledger.claim(trial, after=0) for trial in trials[1:]]
    assert not job.is_over() and job.claim().trial == trials[0]
    assert all(attempts) and job.is_over() and not worker.is_over()


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
    assert set(made.ledger.statuses().values()) == {TrialStatus("waiting")}


def test_another_command_of_the_same_name_does_not_change_a_sweep_that_runs(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, STRATEGIES)
    mine = planner(tmp_path, file, *TINY)
    trials = set(mine.plan()["trials"])
    planner(tmp_path, file, *TINY, "--data.batch_size", "4").plan()
    assert set(mine.current()["trials"]) == trials != set(mine.ledger.plan["trials"])


def test_values_as_json_text_win_over_files_of_the_command_line(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, {"model.fusion_layer": [1, 2]})
    file.write_text(file.read_text().replace("${args_json_file}", "${args_json}"))
    over = tmp_path / "over.yaml"
    over.write_text("model: {fusion_layer: 0}\n")
    made = planner(tmp_path, file, *TINY, "--config", str(over))
    plan = made.plan()
    assert [made.config(trial)["model"]["fusion_layer"] for trial in plan["trials"]] == [1, 2]


def test_an_option_of_the_command_cannot_be_a_parameter_too(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, {"model.fusion_layer": [1, 2]})
    file.write_text(file.read_text().replace("- fit\n", "- fit\n- --model.fusion_layer=1\n"))
    with pytest.raises(UserError, match=r"--model.fusion_layer=1 is also a parameter; leave the option out"):
        check_options(read_sweep(file), [])


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
        (["FILE", "--launcher", "slurm"], "give the time limit of a job: --slurm timeout_min=MINUTES"),
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
    show = SweepProgress(
        lambda: labels, "test/score", "maximize", reached.get, workers=1, console=Console(force_terminal=False)
    )
    show({"a": TrialStatus("running", attempts=1), "b": TrialStatus("waiting"), "c": TrialStatus("waiting")})
    show(
        {
            "a": TrialStatus("done", attempts=1, seconds=60),
            "b": TrialStatus("running", attempts=1),
            "c": TrialStatus("waiting"),
        }
    )
    show(
        {
            "a": TrialStatus("done", attempts=1, seconds=60),
            "b": TrialStatus("done", attempts=1, seconds=70),
            "c": TrialStatus("failed", "no such file", 1, 1),
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
    for damaged in ('{"test": {"score": "0.5"}}', '{"test": {"score": NaN}}', '{"test": 3}', '{"a":' * 100_000):
        (tmp_path / "summary.json").write_text(damaged)
        assert score_of(tmp_path, "test/score", "maximize") is None
