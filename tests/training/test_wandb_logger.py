"""Weights & Biases as users have it: its real programs and ours, against a server of our own that can misbehave."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from paths import PROJECT
from wandb_server import ENTITY, Run, WandbServer

from mbt_lightning.config.settings import flat
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.errors import UserError
from mbt_lightning.table.wandb_runs import config_of, points_left, state_of
from mbt_lightning.training.wandb_exit import bounded
from mbt_lightning.training.wandb_logger import earlier_id, for_wandb, swept

POINT = ["--config", "experiments/bottleneck_b4_lf8.yaml", "--config", "experiments/loggers/wandb.yaml"]
TINY = {
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 2, "log_every_n_steps": 1},
    "model": {"size": {"dim": 16, "depth": 3, "num_heads": 2}, "fusion_layer": 1},
    "data": {"batch_size": 4, "num_workers": 0},
}
DDP = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
TIMES = ("clips_per_second", "training_seconds")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return demo_manifest(DemoSize(16, 4, 5), cache=tmp_path_factory.mktemp("wandb-demo"))


@pytest.fixture
def server():
    with WandbServer() as server:
        yield server
        assert server.unknown == [], "the clients asked for something that the server does not know"


@pytest.fixture
def place(tmp_path: Path, manifest: Path, server: WandbServer) -> "Place":
    return Place(tmp_path, manifest, server)


class Place:
    """A folder to run programs in, whose W&B is the server."""

    def __init__(self, folder: Path, manifest: Path, server: WandbServer):
        self.folder, self.server = folder, server
        self.runs, self.reports = folder / "runs", folder / "reports"
        self.reports.mkdir()
        tiny = TINY | {"data": TINY["data"] | {"manifest": str(manifest)}, "runs": str(self.runs)}
        self.tiny = folder / "tiny.yaml"
        self.tiny.write_text(yaml.safe_dump(tiny))

    def environment(self, **more: str) -> dict[str, str]:
        left = ("PL_", "MBT_", "WANDB", "LOCAL_RANK", "MASTER_", "WORLD_SIZE", "NODE_RANK")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left)}
        paths = [str(PROJECT / "src"), str(PROJECT / "tests" / "helpers"), kept.get("PYTHONPATH", "")]
        kept |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths), "REPORTS": str(self.reports)}
        kept |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "WANDB_DIR": str(self.folder)}
        return kept | self.server.environment(self.folder) | more

    def start(self, words: list[str], **more: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(words, cwd=PROJECT, env=self.environment(**more), start_new_session=True, **pipes)

    def mbt(self, *words: str, **more: str) -> subprocess.Popen:
        fit = [sys.executable, "-m", "mbt_lightning", "fit", *POINT, "--config", str(self.tiny), "--experiment", "x"]
        return self.start([*fit, *words], **more)

    def wandb(self, *words: str, **more: str) -> subprocess.Popen:
        return self.start([sys.executable, "-m", "wandb", *words], **more)

    def sweep(self, content: dict) -> str:
        """Hand a sweep to `wandb sweep`; gives its address."""
        path = self.folder / f"sweep-{len(self.server.sweeps)}.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        known = set(self.server.sweeps)
        finish(self.wandb("sweep", "--project", "ablation", str(path)))
        return f"{ENTITY}/ablation/{(set(self.server.sweeps) - known).pop()}"

    def left_over(self) -> list[str]:
        """Command lines of all processes that were started from here and live."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.server.url.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return [line for line in found if line]

    def gone(self) -> bool:
        """Whether no process is left, a few seconds given to those that are leaving."""
        return wait(lambda: not self.left_over(), 10)


def wait(true, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return bool(true())


def finish(process: subprocess.Popen, code: int = 0, seconds: float = 200) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == code, output
    return output


def only(paths) -> Path:
    paths = list(paths)
    assert len(paths) == 1, paths
    return paths[0]


def records(folder: Path) -> tuple:
    """All results of a run that do not depend on the clock."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((folder / "summary.json").read_text())
    fit = {k: v for k, v in summary["fit"].items() if k not in TIMES}
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    return rows, summary["test"], fit, {name: tensor.tolist() for name, tensor in state.items()}


def steps(run: Run) -> list[int]:
    """The training's steps in the order in which W&B has them."""
    return [row["trainer/global_step"] for row in run.history if "train/loss" in row]


def test_sweeps_by_the_real_agent(place: Place) -> None:
    """One run a trial on one process and on two; values with their types; streams, summary, and a trial that fails."""
    server = place.server
    kinds = {
        "trainer.gradient_clip_val": {"value": None},
        "model.optimizer.init_args.betas": {"value": [0.8, 0.95]},
        "model.optimizer.init_args.weight_decay": {"value": 0.03125},
        "model.share_encoder": {"value": True},
        "model.fusion": {"value": "CrossAttention"},
        "model.size": {"value": {"dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 4.0}},
        "model.fusion_layer": {"values": [1, 7]},  # the second is out of range
    }
    command = ["${env}", "mbt", "fit", "--experiment=kinds", *POINT, "--config", str(place.tiny), *DDP]
    command += ["--trainer.callbacks+=report_rank.ReportRank", "--config", "${args_json_file}"]
    kinds_sweep = place.sweep(
        {"program": "mbt", "method": "grid", "metric": {"name": "test/score", "goal": "maximize"}}
        | {"parameters": kinds, "command": command}
    )
    paper = yaml.safe_load((PROJECT / "sweeps/fusion_layer.yaml").read_text())
    small = place.folder / "small.yaml"
    small.write_text(yaml.safe_dump({"model": {"size": {"dim": 16, "depth": 12, "num_heads": 2}}}))
    before_args = paper["command"].index("${args_json_file}") - 1
    paper["command"][before_args:before_args] = ["--config", str(place.tiny), "--config", str(small)]
    paper_sweep = place.sweep(paper)

    agents = [place.wandb("agent", kinds_sweep), place.wandb("agent", "--count", "1", paper_sweep)]
    outputs = [finish(agent) for agent in agents]
    assert place.gone(), place.left_over()
    runs = {run.sweep: [r for r in server.runs.values() if r.sweep == run.sweep] for run in server.runs.values()}
    good, bad = runs[kinds_sweep.split("/")[2]]
    (plain,) = runs[paper_sweep.split("/")[2]]
    assert [run.inits for run in (good, bad, plain)] == [1, 1, 1], "one run a trial, not one a process"
    assert [run.completes for run in (good, bad, plain)] == [1, 1, 1]
    assert [(run.state, run.exit_code) for run in (good, bad, plain)] == [
        ("finished", 0),
        ("failed", 2),
        ("finished", 0),
    ], outputs
    assert "fusion_layer is 7" in bad.summary["error"] and "locked" not in "".join(outputs)

    for run, experiment in ((good, "kinds"), (plain, "fusion_layer")):
        folder = place.runs / experiment / run.name
        summary = json.loads((folder / "summary.json").read_text())
        assert run.summary["summary"] == summary and summary["fit"]["finished"] and "score" in summary["test"]
        assert run.posts > 1 and len({row["trainer/global_step"] for row in run.history}) > 4, "it streams"
        assert {"train/loss", "val/score", "test/score"} <= {key for row in run.history for key in row}
        assert run.config["trainer.max_epochs"] == 2 and run.config["model.size.num_heads"] == 2
        assert run.config["model.optimizer.class_path"] == "torch.optim.AdamW"
        assert run.config["data.window_seconds"] == 1.6
        assert run.config["data.inputs.spectrogram.init_args.augment"] is None
    assert json.loads((place.runs / "kinds" / good.name / "summary.json").read_text())["processes"] == 2

    given = {name: kind["value"] for name, kind in kinds.items() if "value" in kind} | {"model.fusion_layer": 1}
    assert {name: good.config[name] for name in given} == given, "a sweep's values are unchanged"
    assert good.config["model.fusion.class_path"].endswith(".CrossAttention")
    saved = yaml.safe_load((place.runs / "kinds" / good.name / "config.yaml").read_text())
    checkpoint = torch.load(place.runs / "kinds" / good.name / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["mbt_lightning"]["config"] == saved
    for name, value in given.items():
        found = saved
        for key in name.split("."):
            found = found[key]
        assert (found["class_path"].split(".")[-1] if name == "model.fusion" else found) == value, name
    ranks = [json.loads((place.reports / f"{good.name}-{rank}.json").read_text()) for rank in (0, 1)]
    expected = {"clip": None, "betas": [0.8, 0.95], "decay": 0.03125, "fusion": "CrossAttention", "fusion_layer": 1}
    for number, reached in enumerate(ranks):
        assert reached | expected | {"rank": number} == reached
    assert ranks[0]["parameters"] == ranks[1]["parameters"]

    code = (
        "import json, sys; from mbt_lightning.table.wandb_runs import read_wandb;"
        "runs, plans = read_wandb(sys.argv[1]);"
        "assert 'torch' not in sys.modules;"
        "print(json.dumps([(r.name, r.state, r.message, r.config, r.summary, r.curves()) for r in runs]))"
    )
    read = [
        json.loads(finish(place.start([sys.executable, "-c", code, path])).splitlines()[-1])
        for path in (kinds_sweep, paper_sweep)
    ]
    assert [(name, state) for name, state, *_ in read[0]] == [(good.name, "finished"), (bad.name, "failed")]
    _, _, _, config, summary, curves = read[0][0]
    assert config == saved and summary == good.summary["summary"], "nulls, lists, numbers and empty mappings included"
    assert [step for step, _ in curves["train/loss"]] == steps(good)
    assert "fusion_layer is 7" in read[0][1][2]
    assert [state for _, state, *_ in read[1]] == ["finished"] + ["waiting"] * 62
    assert (
        read[1][1][3]["model"] == {"fusion": "Bottleneck", "fusion_layer": 0} and read[1][1][3]["seed_everything"] == 1
    )


def sync_command(output: str) -> list[str]:
    """The command that a program printed to upload what is missing."""
    (line,) = {line for line in output.splitlines() if "to upload it: wandb sync " in line}
    return line.partition("to upload it: wandb ")[2].split()


FAULTS = {
    "answers 429": ("file_stream", 429, 3),
    "answers 500": ("file_stream", 500, 3),
    "resets": ("file_stream", "reset", 2),
    "loses an answer": ("file_stream", "lost", 2),
    "answers 404": ("file_stream", 404, None),
    "answers 403": ("file_stream", 403, None),
    "answers 500 for ever": ("*", 500, None),
    "answers 429 for ever": ("*", 429, None),
    "hangs": ("*", "hang", None),
    "is gone": None,
}
PASSING = ("answers 429", "answers 500", "resets", "loses an answer")


@pytest.mark.slow
@pytest.mark.parametrize("trouble", FAULTS)
def test_trouble_in_the_middle_of_a_training(place: Place, trouble: str) -> None:
    """The training ends with 0 and all its records; what W&B has not got is uploaded by the command that is printed."""
    server = place.server
    patience = "60" if trouble in PASSING else "8"  # W&B waits longer from one attempt to the next
    epochs = ["--trainer.max_epochs", "12", "--trainer.logger.init_args.finish_seconds", patience]
    undisturbed = place.mbt(*epochs, "--runs", str(place.folder / "calm"), WANDB_MODE="disabled")
    process = place.mbt(*epochs, WANDB_RUN_ID="troubled")
    assert wait(lambda: "troubled" in server.runs and server.runs["troubled"].posts > 0, 60)
    if FAULTS[trouble] is None:
        server.close()
    else:
        server.fail(*FAULTS[trouble])
    output = finish(process)
    finish(undisturbed)
    assert "Traceback" not in output and place.gone(), place.left_over()
    folder = only(place.runs.glob("*/troubled"))
    calm = only(place.folder.glob("calm/*/*"))
    assert records(folder) == records(calm)

    run = server.runs["troubled"]
    if trouble in PASSING:
        assert server.faulted["file_stream"] == FAULTS[trouble][2] and "to upload it" not in output
    else:
        assert run.state == "running", "so far W&B knows no better"
        if FAULTS[trouble] is None:
            server.open()
        server.heal()
        assert "--include-online" in sync_command(output)
        finish(place.wandb(*sync_command(output)))
    assert (run.state, run.exit_code) == ("finished", 0)
    assert sorted(set(steps(run))) == list(range(48)), "no step is lost"
    assert run.summary["summary"] == json.loads((folder / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [("*", 500), ("*", 429), ("*", "hang"), ("UpsertBucket", 403), None])
def test_trouble_at_the_start(place: Place, trouble: tuple | None) -> None:
    """A run that W&B does not take in time is kept offline, under its id, and can be uploaded later."""
    server = place.server
    if trouble:
        server.fail(*trouble)
    else:
        server.close()
    begun = time.monotonic()
    process = place.mbt("--trainer.logger.init_args.init_seconds", "6", WANDB_RUN_ID="offline")
    output = finish(process)
    seconds = time.monotonic() - begun
    assert output.count("W&B cannot be reached, this run is kept offline") == 1 and "Traceback" not in output
    assert seconds < 90 and place.gone()
    server.heal()
    if not trouble:
        server.open()
    finish(place.wandb(*sync_command(output)))
    run = server.runs["offline"]
    assert (run.state, run.exit_code) == ("finished", 0) and steps(run) == list(range(8))
    assert run.config["trainer.max_epochs"] == 2 and run.summary["summary"]["fit"]["finished"]


@pytest.mark.slow
def test_a_killed_run_resumes_under_its_id(place: Place) -> None:
    """Its steps are counted on, none twice and none lost, and it is finished in the end."""
    epochs, again = ["--trainer.max_epochs", "40"], {"WANDB_RUN_ID": "killed"}
    process = place.mbt(*epochs, **again)
    run = None

    def is_streaming() -> bool:
        nonlocal run
        run = server.runs.get("killed")
        return run is not None and len(steps(run)) > 40

    server = place.server
    assert wait(is_streaming, 100)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert place.gone() and run.state == "running"
    before = run.history[-1]["_step"]
    output = finish(place.mbt(*epochs, "--ckpt_path", "last", **again))
    assert "checkpoint: " in output and run.inits == 2
    later = [row["_step"] for row in run.history]
    assert later == sorted(set(later)) and later[-1] > before, "W&B's own step continues"
    assert sorted(set(steps(run))) == list(range(160))
    assert (run.state, run.exit_code) == ("finished", 0)


@pytest.mark.slow
def test_the_server_hands_a_killed_trial_to_the_next_agent(place: Place) -> None:
    """An agent that resumes a trial continues its run and its folder."""
    command = ["${env}", "mbt", "fit", "--experiment=x", *POINT, "--config", str(place.tiny)]
    command += ["--trainer.max_epochs=40", "--config", "${args_json_file}"]
    parameters = {"seed_everything": {"values": [3]}}
    sweep = place.sweep({"program": "mbt", "method": "grid", "parameters": parameters, "command": command})
    server, agent = place.server, place.wandb("agent", sweep)
    assert wait(lambda: any(len(steps(run)) > 40 for run in server.runs.values()), 100)
    (run,) = server.runs.values()
    trial = next(int(p.name) for p in Path("/proc").glob("[0-9]*") if is_trial(p, place))
    os.killpg(trial, signal.SIGKILL)
    finish(agent)
    assert place.gone() and run.state == "running" and len(server.runs) == 1
    run.state = "crashed"  # as in W&B without a sign of life for minutes
    server.requeue(run.name)
    output = finish(place.wandb("agent", sweep))
    assert (run.state, run.exit_code, run.inits) == ("finished", 0, 2), output
    assert len(list(place.runs.glob("*/*"))) == 1 and sorted(set(steps(run))) == list(range(160))


def is_trial(process: Path, place: Place) -> bool:
    """Whether a process is a training that an agent has started."""
    try:
        is_ours = place.server.url.encode() in (process / "environ").read_bytes()
        return is_ours and b"mbt\0fit" in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_is_never_finished(place: Place, sign: signal.Signals, code: int) -> None:
    process = place.mbt("--trainer.max_epochs", "2000", WANDB_RUN_ID="stopped")
    run = lambda: place.server.runs.get("stopped")  # noqa: E731
    assert wait(lambda: run() and len(steps(run())) > 4, 60)
    process.send_signal(sign)
    finish(process, code)
    assert (run().state, run().exit_code) == ("failed", code) and run().summary["exit_code"] == code
    assert run().summary["summary"]["fit"]["finished"] is False


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], DDP], ids=["one process", "two"])
def test_nobody_is_logged_in(place: Place, more: list[str]) -> None:
    output = finish(place.mbt(*more, WANDB_API_KEY=""), code=2)
    assert output.count("mbt: error: W&B: No API key configured") == 1
    assert more or "Traceback" not in output  # of two, the second complains that it is left alone
    assert "`wandb login`" in output and "WANDB_MODE=offline needs no account" in output
    assert place.gone() and not place.server.runs


@pytest.mark.slow
def test_a_dead_helper_process_does_not_stop_the_training(place: Place) -> None:
    """W&B's own helper program may be killed, by a lack of memory for one."""
    process = place.mbt("--trainer.max_epochs", "12", WANDB_RUN_ID="helpless")
    assert wait(lambda: "helpless" in place.server.runs and len(steps(place.server.runs["helpless"])) > 4, 60)
    helper = next(p for p in Path("/proc").glob("[0-9]*") if is_helper(p, place))
    os.kill(int(helper.name), signal.SIGKILL)
    output = finish(process)
    assert "Traceback" not in output and "--include-online" in sync_command(output)
    assert json.loads(only(place.runs.glob("*/*/summary.json")).read_text())["fit"]["finished"]


def is_helper(process: Path, place: Place) -> bool:
    """Whether a process is W&B's helper for one of ours."""
    try:
        is_ours = place.server.url.encode() in (process / "environ").read_bytes()
        return is_ours and b"wandb-core" in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("lab", "write ENTITY/PROJECT or ENTITY/PROJECT/SWEEP"),
        ("lab/nowhere", "lab/nowhere"),
        ("lab/mbt/nosweep", "lab/mbt/nosweep"),
    ],
)
def test_a_place_that_is_not_there(place: Place, path: str, message: str) -> None:
    place.server.run_of("a", "mbt")
    code = "import sys; from mbt_lightning.table.wandb_runs import read_wandb; print(read_wandb(sys.argv[1], 20))"
    output = finish(place.start([sys.executable, "-c", code, path]), code=1)
    assert "mbt_lightning.errors.UserError: W&B's runs of " in output and message in output.splitlines()[-1]


def test_a_configuration_comes_back_as_it_was() -> None:
    config = {"a": None, "b": {"c": [1, 2.5, None, "1e-3"], "d": {}, "e": {"class_path": "x.Y", "init_args": {}}}}
    kept = for_wandb(config, locked={"b.c"}) | {"b.c": [1, 2.5, None, "1e-3"], "b.e": "Y"}  # as a sweep puts them there
    assert config_of(kept) == config
    assert {} in flat(config).values() and {} not in kept.values()


def test_a_sweep_s_settings_are_known_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config-abc.yaml"
    path.write_text("wandb_version: 1\nmodel.fusion:\n  value: Bottleneck\n")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(path))
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert swept() == set()
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert "model.fusion" in swept()


def test_a_folder_knows_its_run(tmp_path: Path) -> None:
    assert earlier_id(tmp_path) is None
    for name in ("run-20260101_000000-aaa", "offline-run-20260102_000000-bbb", "sweep-x"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb" / "latest-run").symlink_to(tmp_path / "wandb/run-20260101_000000-aaa")
    assert earlier_id(tmp_path) == "bbb"


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [500, "hang", 403, None, "nobody is logged in"])
def test_a_server_that_cannot_be_read(place: Place, trouble: int | str | None) -> None:
    more = {}
    if trouble is None:
        place.server.close()
    elif trouble == "nobody is logged in":
        more = {"WANDB_API_KEY": ""}
    else:
        place.server.fail("*", trouble)
    code = "from mbt_lightning.table.wandb_runs import read_wandb; read_wandb('lab/mbt', 8)"
    output = finish(place.start([sys.executable, "-c", code], **more), code=1, seconds=60)
    assert "mbt_lightning.errors.UserError: W&B's runs of lab/mbt: " in output.splitlines()[-1]
    assert ("`wandb login`" in output.splitlines()[-1]) == bool(more)


@pytest.mark.slow
def test_a_trial_that_cannot_even_be_imported(place: Place) -> None:
    """The agent's run reports what is missing."""
    (place.folder / "broken").mkdir()
    (place.folder / "broken" / "jsonargparse.py").write_text("raise ImportError('half installed')\n")
    parameters = {"seed_everything": {"values": [3]}}
    command = ["${env}", f"PYTHONPATH={place.folder / 'broken'}:{PROJECT / 'src'}", "mbt", "fit", "${args}"]
    sweep = place.sweep({"program": "mbt", "method": "grid", "parameters": parameters, "command": command})
    output = finish(place.wandb("agent", sweep))
    (run,) = place.server.runs.values()
    assert (run.state, run.exit_code, run.inits) == ("failed", 1, 1), output
    assert run.summary["error"] == "ImportError: half installed" and place.gone()


DONE = {"summary": {"fit": {"finished": True}, "test": {"score": 0.5}}, "exit_code": 0, "error": ""}


@pytest.mark.parametrize(
    ("state", "about", "word"),
    [
        ("finished", DONE, "finished"),
        ("finished", {"summary": {"fit": {"finished": False}}}, "stopped"),
        ("finished", {"summary": {"fit": {"finished": True}}}, "stopped"),
        ("finished", {}, "stopped"),
        ("running", {}, "running"),
        ("failed", {"exit_code": 2, "error": "no"}, "failed"),
        ("failed", {"exit_code": 143}, "stopped"),
        ("crashed", DONE, "killed"),
        ("killed", {}, "killed"),
        ("preempted", {}, "stopped"),
        ("pending", {}, "waiting"),
        ("new word", {}, "failed"),
    ],
)
def test_states(state: str, about: dict, word: str) -> None:
    found, message = state_of(state, about)
    assert found == word and (message == "no") == (about.get("error") == "no")


def test_points_that_nobody_has_begun() -> None:
    sweep = {"method": "grid", "parameters": {"b": {"values": [1, None]}, "a": {"value": "x"}}}
    assert points_left(sweep, [{"a": "x", "b": None, "c": 3}]) == [{"a": "x", "b": 1}]
    assert points_left(sweep | {"method": "random"}, []) == []
    huge = {"method": "grid", "parameters": {f"p{i}": {"values": list(range(10))} for i in range(12)}}
    with pytest.raises(UserError, match="1000000000000 points"):
        points_left(huge, [])
    assert points_left({"method": "grid", "parameters": {"a": {"distribution": "uniform"}}}, []) == []


def test_work_in_bounded_time() -> None:
    assert bounded(lambda: None, 5) is None
    assert isinstance(bounded(lambda: [][0], 5), IndexError)
    begun = time.monotonic()
    assert isinstance(bounded(lambda: time.sleep(3), 0.2), TimeoutError) and time.monotonic() - begun < 2
