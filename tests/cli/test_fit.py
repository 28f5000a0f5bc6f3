"""The program: what it refuses and how, which value wins, what a run leaves behind. In this process, on real clips."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from paths import PROJECT
from program import POINT, refusal, tiny

from mbt_lightning.cli import arguments
from mbt_lightning.cli.arguments import expand
from mbt_lightning.cli.main import main
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.errors import UserError
from mbt_lightning.runs.folder import find_checkpoint, new_run_folder
from mbt_lightning.training import checkpoint
from mbt_lightning.training.checkpoint import load_checkpoint, read_checkpoint
from mbt_lightning.training.metrics_csv import MetricsCsv


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the project's folder."""
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few real clips of the embedded task."""
    return demo_manifest(DemoSize(16, 8, 12), cache=tmp_path_factory.mktemp("cli-demo"))


@pytest.fixture(scope="session")
def finished(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that has been trained and tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        runs = tmp_path_factory.mktemp("runs")
        main(["fit", *tiny(manifest, runs)])
    return next((runs / "bottleneck_b4_lf8").iterdir())


WRONG = {
    "unknown key": (["--model.fusion_layr", "3"], "did you mean 'model.fusion_layer'?"),
    "not a number": (["--model.fusion_layer", "abc"], "Parser key \"model.fusion_layer\": Expected a <class 'int'>"),
    "layer beyond the encoder": (["--model.fusion_layer", "13"], "fusion_layer is 13, but the encoder has 12 layers"),
    "unknown strategy": (["--model.fusion", "Botleneck"], "did you mean 'Bottleneck'?"),
    "no bottleneck token": (["--model.fusion.num_bottlenecks", "0"], "num_bottlenecks is 0: give at least 1"),
    "unknown rule": (["--model.fusion.update", "both"], "choose one of sequential, symmetric"),
    "unknown modality": (
        ["--model.modalities", "[rgb,sound]"],
        "modality 'sound' is unknown: data.inputs has rgb, spectrogram",
    ),
    "unknown size": (["--model.size", "xl"], "size is 'xl': choose one of ti, s, b, l"),
    "unknown decoder": (["--data.inputs.rgb.decoder", "ffmpeg"], "decoder is 'ffmpeg': choose one of"),
    "no clips a batch": (["--data.batch_size", "0"], "batch_size is 0: give 1 or more"),
    "no window": (["--data.window_seconds", "0"], "window_seconds is 0.0: give a length above 0"),
    "smoothing": (["--model.label_smoothing", "1.5"], "label_smoothing is 1.5: give a part from 0 to below 1"),
    "missing manifest": (["--data.manifest", "nope.csv"], "nope.csv: no such manifest"),
    "precision": (["--trainer.precision", "bf16-true"], "trainer.precision is bf16-true: choose one of 32-true"),
    "missing checkpoint": (["--ckpt_path", "nope.ckpt"], "checkpoint nope.ckpt: no such file"),
    "precision of other names": (["--trainer.precision", "fp16"], "trainer.precision is fp16: choose one of 32-true"),
    "a folder": (["--config", "experiments"], "--config experiments: is a folder; name one of its files, e.g. "),
    "lr": (["--lr", "0.1"], "did you mean 'model.optimizer.init_args.lr'?"),
    "epochs": (["--epochs", "3"], "did you mean 'trainer.max_epochs'?"),
    "batch": (["--batch_size", "3"], "did you mean 'data.batch_size'?"),
    "no such test split": (["--data.test_split", "dev"], "split 'dev' has no clips; the manifest's splits are: train"),
    "no such modality": (
        ["--data.inputs.rbg.num_frames", "4"],
        "data.inputs.rbg: there is no modality 'rbg'; did you mean 'rgb'?; a new one needs a class_path",
    ),
    "no such split": (["--data.val_split", "dev"], "split 'dev' has no clips; the manifest's splits are: train (1024)"),
    "nothing to resume": (["--ckpt_path", "last"], "--ckpt_path last: no run of experiment 'bottleneck_b4_lf8'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_refused_in_one_line(name: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    arguments, text = WRONG[name]
    line = refusal(capsys, "fit", "--config", POINT, "--runs", str(tmp_path), *arguments)
    assert line.startswith("mbt: error: ") and text in line
    assert not list(tmp_path.glob("*/*")), "a run that cannot start leaves an empty folder"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("model:\n  fusion_layer: 3\n  fusion_layer: 4\n", "wrong.yaml:3: key 'fusion_layer' is there twice"),
        ("x: [1\n", "wrong.yaml: not YAML"),
        ("- 1\n", "wrong.yaml: an experiment file holds keys and values, not list"),
        ("config: base.yaml\n", "write `base: FILE` to build on another file"),
        ("base: nope.yaml\n", "nope.yaml: no such file"),
        ("model: 3\n", "wrong.yaml: model is 3: give its settings"),
        ("base: wrong.yaml\n", "wrong.yaml: is its own base"),
        ("model:\n  fusion_layr: 4\n", "does not accept option 'fusion_layr'; did you mean 'model.fusion_layer'?"),
        ("data: {inputs: {rgb: {init_args: {num_frame: 4}}}}\n", "data.inputs.rgb.init_args.num_frames'?"),
        ("model: {fusion: {class_path: Bottleneck, init_args: {numbottlenecks: 4}}}\n", "init_args.num_bottlenecks'?"),
        ("model:\n  fusion: Botleneck\n", "did you mean 'Bottleneck'?"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    content: str, text: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    line = refusal(capsys, "fit", "--config", POINT, "--config", str(tmp_path / "wrong.yaml"), "--runs", str(tmp_path))
    assert text in line and str(tmp_path) in line, "the message names the file"


def test_settings_that_the_optimiser_refuses(manifest: Path, tmp_path: Path, capsys) -> None:
    line = refusal(capsys, "fit", *tiny(manifest, tmp_path, "--model.optimizer.lr", "-1"))
    assert "model.optimizer: Invalid learning rate: -1" in line
    assert json.loads(next(tmp_path.glob("*/*/state.json")).read_text())["state"] == "failed"


def test_a_prediction_checks_its_files_first(finished: Path, tmp_path: Path, capsys) -> None:
    options = ["--ckpt_path", str(finished / "checkpoints/best.ckpt"), "--runs", str(tmp_path)]
    assert refusal(capsys, "predict", *options).startswith("mbt: error: nothing to predict")
    assert "nofile.mp4: no such file or folder" in refusal(capsys, "predict", "nofile.mp4", *options)
    assert not list(tmp_path.iterdir())


def test_the_embedded_clips_need_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MBT_CACHE", str(tmp_path / "file" / "cache"))
    line = refusal(capsys, "fit", "--config", POINT, "--runs", str(tmp_path / "runs"))
    assert "the embedded clips cannot be written there (Not a directory); set MBT_CACHE" in line


def test_an_unexpected_error_is_one_line_and_a_log(manifest: Path, tmp_path: Path, capsys) -> None:
    """A score to watch that does not exist; the message lists those there are."""
    watching = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/los"]
    with pytest.raises(SystemExit) as stop:
        main(["fit", *tiny(manifest, tmp_path, *watching)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    run = next(tmp_path.glob("*/*"))
    assert stop.value.code == 1 and "val/los" in line and "`val/loss`" in line and str(run / "error.log") in line
    assert "Traceback" in (run / "error.log").read_text()
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
    with pytest.raises(RuntimeError):
        main(["fit", "--debug", *tiny(manifest, tmp_path, *watching)])


def test_a_full_disk_ends_a_run_with_its_reason(manifest: Path, tmp_path: Path) -> None:
    """No file may grow beyond 100 kB, as on a full disk: the first checkpoint cannot be written whole."""
    words = [sys.executable, "-m", "mbt_lightning", "fit", *tiny(manifest, tmp_path)]
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # noqa: E731
    done = subprocess.run(words, preexec_fn=limit, capture_output=True, text=True, timeout=120)
    (run,) = tmp_path.glob("*/*")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("mbt: error: ") and "File too large" in last, done.stderr
    assert json.loads((run / "state.json").read_text())["state"] == "failed"
    assert not list(run.glob("checkpoints/*.ckpt")), "no file looks like a checkpoint"


def test_a_score_needs_a_checkpoint(capsys: pytest.CaptureFixture) -> None:
    assert "nothing to test with: give --ckpt_path FILE" in refusal(capsys, "test", "--config", POINT)


def test_runs_must_be_a_folder(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = refusal(capsys, "fit", "--config", POINT, "--runs", str(tmp_path / "file"))
    assert "cannot make folders there (Not a directory)" in line


def test_a_class_without_positives_has_no_score(manifest: Path, tmp_path: Path, capsys) -> None:
    classes = (manifest.parent / "classes.csv").read_text() + "never seen,rare\n"
    (tmp_path / "classes.csv").write_text(classes)
    main(["fit", *tiny(manifest, tmp_path / "r", "--data.classes", str(tmp_path / "classes.csv"))])
    test = json.loads(next(tmp_path.glob("r/*/*/summary.json")).read_text())["test"]
    assert test["fused/mAP/rare"] is None and test["fused/classes_with_positives"] == 12
    assert "–" in capsys.readouterr().out


def test_a_misspelt_file_is_hinted_at(capsys: pytest.CaptureFixture) -> None:
    line = refusal(capsys, "fit", "--config", "experiments/botleneck_b4_lf8.yaml")
    assert "no such file; did you mean 'experiments/bottleneck_b4_lf8.yaml'?" in line


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 truncated"])
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="not a checkpoint of mbt"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"mbt_lightning": {"config": {}, "spec": {}}, "state_dict": Harm()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of mbt"):
        read_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / "harm").exists()


def expanded(*arguments: str) -> tuple[dict, list[str]]:
    """The one configuration that a command line is merged into, and the options that the parser takes."""
    option, text, *options = expand(arguments[0], arguments[1:]).words
    assert option == "--config"
    return yaml.safe_load(text), options


def test_files_a_checkpoint_and_options_are_one_configuration(finished: Path) -> None:
    config, options = expanded("fit", f"--config={POINT}", "--model.fusion_layer", "3")
    assert config["model"]["fusion_layer"] == 8 and config["data"]["manifest"] == "demo" and "base" not in config
    assert options == ["--model.fusion_layer", "3", "--experiment", "bottleneck_b4_lf8"]
    checkpoint = str(finished / "checkpoints/best.ckpt")
    config, _ = expanded("test", "--ckpt_path", checkpoint)
    assert config["model"]["fusion_layer"] == 2
    config, _ = expanded("test", "--ckpt_path", checkpoint, "--config", POINT)
    assert config["model"]["fusion_layer"] == 8 and config["data"]["batch_size"] == 32, "files win over a checkpoint"
    _, options = expanded("predict", "a.mp4", "--ckpt_path", checkpoint, "--print_config", "b c.mp4")
    assert options[options.index("--data.media") + 1] == "[a.mp4, b c.mp4]", "media may be anywhere"


def test_options_of_modalities_are_merged_with_the_files() -> None:
    for option in ("--data.inputs.rgb.num_frames", "--data.inputs.rgb.init_args.num_frames"):
        for words in ([option, "16"], [f"{option}=16"]):
            config, options = expanded("fit", *words, "--config", POINT)
            assert config["data"]["inputs"]["rgb"]["init_args"]["num_frames"] == 16
            assert config["data"]["inputs"]["rgb"]["init_args"]["frame_size"] == 32
            assert options == ["--experiment", "bottleneck_b4_lf8"]
    config, _ = expanded("fit", "--config", POINT, "--data.inputs.spectrogram.transform.num_mels", "32")
    transform = config["data"]["inputs"]["spectrogram"]["init_args"]["transform"]
    assert transform == {"class_path": "LogMel", "init_args": {"num_mels": 32, "mean": -1.8, "std": 3.4}}
    config, _ = expanded("fit", "--config", POINT, "--model.modalities", "[spectrogram]")
    assert config["data"]["inputs"].keys() == config["model"]["patches"].keys() == {"spectrogram"}


def test_settings_of_version_0_1_are_read_by_their_new_names(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.yaml").write_text("base: old.yaml\ndata: {num_frames: 4}\nmodel: {head: mean}\n")
    (tmp_path / "old.yaml").write_text("data: {spec_augment: null, cache: true}\n")
    config, _ = expanded("fit", "--config", str(tmp_path / "mine.yaml"), "--data.frame_size", "64")
    inputs = config["data"]["inputs"]
    assert inputs["rgb"]["init_args"] == {"num_frames": 4, "frame_size": 64}
    assert inputs["spectrogram"]["init_args"] == {"augment": None}
    assert config["data"]["cache"] is True and config["model"]["head"]["class_path"] == "mbt_lightning.MeanPoolHead"
    old = ("spec_augment", "num_frames", "frame_size")
    printed = capsys.readouterr().out.splitlines()
    assert [f"data.{name} is now data.inputs." in line for name, line in zip(old, printed, strict=True)] == [True] * 3


def test_options_beat_files_wherever_they_stand(tmp_path: Path) -> None:
    words = expand("fit", ["--model.fusion_layer", "2", "--config", POINT]).words
    assert words.index("--model.fusion_layer") > words.index("--config")
    (tmp_path / "named.yaml").write_text("experiment: mine\nmodel:\n")
    words = expand("fit", ["--config", POINT, "--config", str(tmp_path / "named.yaml")]).words
    assert words[-2:] == ["--experiment", "mine"]


def test_the_newest_run_goes_on_with_its_own_settings(manifest: Path, tmp_path: Path) -> None:
    """What was said on the command line of the first run needs not be said again."""
    main(["fit", *tiny(manifest, tmp_path, "--model.label_smoothing", "0.2", "--seed_everything", "5")])
    newest = ["--runs", str(tmp_path), "--experiment", "bottleneck_b4_lf8", "--ckpt_path"]
    main(["fit", *newest, "last", "--trainer.max_epochs", "2"])
    run = next((tmp_path / "bottleneck_b4_lf8").iterdir())
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["label_smoothing"] == 0.2 and config["seed_everything"] == 5
    assert config["trainer"]["gradient_clip_val"] == 1.0 and config["trainer"]["max_epochs"] == 2
    assert json.loads((run / "summary.json").read_text())["fit"]["steps"] == 4
    main(["test", *newest, "best"])
    assert (run / "config.1.yaml").is_file(), "the first configuration is kept"


def test_a_run_leaves_its_records(finished: Path, manifest: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["experiment"] == "bottleneck_b4_lf8" and summary["run"] == finished.name
    assert summary["fit"]["finished"] and summary["fit"]["steps"] == 2 and summary["fit"]["clips_per_second"] > 0
    assert summary["test"]["clips"] == 12 and summary["test"]["bad_clips"] == 0
    for logits in ("rgb", "spectrogram", "fused"):
        assert {f"{logits}/mAP", f"{logits}/mAP/video", f"{logits}/mAP/audio", f"{logits}/mAP/relation"} <= set(
            summary["test"]
        )
    assert summary["parameters"] > 0 and summary["gflops_per_clip"] > 0 and summary["peak_memory_gb"] > 0
    assert summary["versions"]["torch"] == torch.__version__.split("+")[0] or summary["versions"]["torch"]
    assert len(summary["data"]["hash"]) == 16 and summary["data"]["clips"] == {"train": 16, "val": 8, "test": 12}

    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["fusion_layer"] == 2 and config["data"]["manifest"] == str(manifest)
    with open(finished / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(row["val/score"] for row in rows) and any(row["test/score"] for row in rows)
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_saved_config_repeats_the_run(finished: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(finished / "config.yaml"), "--runs", str(tmp_path)])
    again = next((tmp_path / "bottleneck_b4_lf8").iterdir())
    first, second = (load_checkpoint(run / "checkpoints/last.ckpt").state_dict() for run in (finished, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_needs_no_config(finished: Path, tmp_path: Path) -> None:
    main(["test", "--ckpt_path", str(finished / "checkpoints/best.ckpt"), "--runs", str(tmp_path)])
    summary = json.loads(next(tmp_path.glob("bottleneck_b4_lf8/*/summary.json")).read_text())
    expected = json.loads((finished / "summary.json").read_text())
    assert summary["test"] == expected["test"]


def test_a_model_of_another_shape_is_refused(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = [
        "--ckpt_path",
        str(finished / "checkpoints/best.ckpt"),
        "--runs",
        str(tmp_path),
        "--model.fusion_layer",
        "3",
    ]
    line = refusal(capsys, "test", *options)
    assert "the checkpoint does not fit this model: network.fusion.bottleneck is not known here" in line


def test_command_line_beats_file_beats_checkpoint(finished: Path, tmp_path: Path) -> None:
    """Also for what the optimiser's state in the checkpoint would bring back."""
    file = tmp_path / "more.yaml"
    file.write_text("model:\n  warmup_fraction: 0.5\n  label_smoothing: 0.25\ntrainer:\n  max_epochs: 2\n")
    options = [
        "--ckpt_path",
        str(finished / "checkpoints/last.ckpt"),
        "--config",
        str(file),
        "--runs",
        str(tmp_path / "r"),
    ]
    main(["fit", *options, "--model.optimizer.lr", "0.007", "--model.warmup_fraction", "0"])
    run = next((tmp_path / "r" / "more").iterdir())
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert (model["fusion_layer"], model["label_smoothing"], model["warmup_fraction"]) == (2, 0.25, 0.0)
    content = read_checkpoint(run / "checkpoints/last.ckpt")
    assert content["global_step"] == 4
    assert all(group["initial_lr"] == 0.007 for group in content["optimizer_states"][0]["param_groups"])
    assert content["lr_schedulers"][0]["base_lrs"] == [0.007, 0.007]
    (stage,) = json.loads((run / "summary.json").read_text())["fit"]["history"]
    assert stage["steps"] == 2 and stage["continued_from"] == str(finished / "checkpoints/last.ckpt")
    assert stage["settings"]["model.optimizer.init_args.lr"] == 0.0015 and stage["settings"]["trainer.max_epochs"] == 1


def test_what_is_cut_and_what_leaks_is_printed_and_recorded(manifest: Path, tmp_path: Path, capsys) -> None:
    """The first test clip is a validation clip under another name; frames of 50 pixels are no multiple of 16."""
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    leak = next(row for row in rows if row["split"] == "test") | {"clip_id": "other", "split": "val"}
    for row in rows:
        row["split"] = {"val": "train"}.get(row["split"], row["split"])
    leaky = tmp_path / "leaky.csv"
    with open(leaky, "w", newline="") as file:
        writer = csv.DictWriter(file, list(leak))
        writer.writeheader()
        writer.writerows([*rows, leak])
    options = ["--data.media_root", str(manifest.parent), "--data.inputs.rgb.frame_size", "50"]
    main(["fit", *tiny(leaky, tmp_path / "r"), *options, "--data.classes", str(manifest.parent / "classes.csv")])
    out = capsys.readouterr().out
    assert "rgb: patches of (1, 16, 16) cover (8, 48, 48) of it" in out
    assert "warning: 1 clips of split 'test' are also in split 'val'" in out
    summary = json.loads(next(tmp_path.glob("r/*/*/summary.json")).read_text())
    assert summary["fit"]["shared_clips"] == {"test and val": 1}
    assert summary["fit"]["val_score"] == pytest.approx(float(last_value(tmp_path, "val/score")), abs=1e-6)


def last_value(folder: Path, name: str) -> str:
    with open(next(folder.glob("r/*/*/metrics.csv")), newline="") as file:
        return [row[name] for row in csv.DictReader(file) if row.get(name)][-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trainer.max_epochs", "2", "--model.fusion_layer", "0"], "model.fusion_layer is 2 there and 0 here"),
        (["--trainer.max_epochs", "2", "--seed_everything", "1"], "seed_everything is 0 there and 1 here"),
        ([], "has trained to epoch 1 and trainer.max_epochs is 1: nothing is left to train"),
        (["--trainer.max_epochs", "9", "--trainer.max_steps", "2"], "trainer.max_steps is 2: nothing is left to train"),
    ],
)
def test_another_runs_training_is_continued_as_what_it_is_or_not_at_all(
    options: list[str], message: str, finished: Path, tmp_path: Path, capsys
) -> None:
    checkpoint = ["--ckpt_path", str(finished / "checkpoints/last.ckpt"), "--runs", str(tmp_path)]
    assert message in refusal(capsys, "fit", *checkpoint, *options)
    assert not list(tmp_path.rglob("*"))


def test_predict_names_the_best_classes(finished: Path, manifest: Path, tmp_path: Path, capsys) -> None:
    clips = manifest.parent / "clips"
    one, *_ = sorted(clips.glob("test-*.mp4"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "copy.MP4").write_bytes(one.read_bytes())
    (tmp_path / "folder" / "notes.txt").write_text("no media file")
    checkpoint = str(finished / "checkpoints/best.ckpt")
    main(["predict", str(one), str(tmp_path / "folder"), "--ckpt_path", checkpoint, "--runs", str(tmp_path / "r")])
    with open(next(tmp_path.glob("r/*/*/predictions.csv")), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == [one.name, "copy.MP4"]
    assert rows[0]["red disc"] == rows[1]["red disc"] and 0 < float(rows[0]["red disc"]) < 1
    assert "top 1" in capsys.readouterr().out

    (tmp_path / "broken.mp4").write_bytes(one.read_bytes()[:500])
    text = refusal(
        capsys,
        "predict",
        str(tmp_path / "broken.mp4"),
        str(one),
        "--ckpt_path",
        checkpoint,
        "--runs",
        str(tmp_path / "s"),
    )
    assert "1 of the files could not be read" in text
    assert len(list(tmp_path.glob("s/*/*/predictions.csv"))) == 1, "the others are predicted all the same"
    assert "no such file or folder" in refusal(
        capsys, "predict", "nope.mp4", "--ckpt_path", checkpoint, "--runs", str(tmp_path / "t")
    )


@pytest.mark.parametrize("modality", ["rgb", "spectrogram"])
def test_one_modality_trains_alone(modality: str, manifest: Path, tmp_path: Path) -> None:
    main(["fit", *tiny(manifest, tmp_path, "--model.modalities", f"[{modality}]")])
    summary = json.loads(next(tmp_path.glob("*/*/summary.json")).read_text())
    assert summary["test"]["fused/mAP"] == summary["test"][f"{modality}/mAP"]


def test_bf16_checkpoint_loads_without(manifest: Path, tmp_path: Path) -> None:
    main(["fit", *tiny(manifest, tmp_path, "--trainer.precision", "bf16-mixed")])
    model = load_checkpoint(next(tmp_path.glob("*/*/checkpoints/last.ckpt")))
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("broken", [1, 6])
def test_unreadable_clips_are_counted_and_limited(broken: int, manifest: Path, tmp_path: Path, capsys, caplog) -> None:
    """One broken training clip of sixteen is tolerated by an option; six are too many."""
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["video"] = str(manifest.parent / row["video"])
    bad = [row for row in rows if row["split"] == "train"][:broken]
    for number, row in enumerate(bad):
        row["video"] = str(tmp_path / f"broken{number}.mp4")
        Path(row["video"]).write_bytes(b"\0" * 2000)
    with open(tmp_path / "m.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "classes.csv").write_bytes((manifest.parent / "classes.csv").read_bytes())
    arguments = [
        "fit",
        *tiny(tmp_path / "m.csv", tmp_path / "r", "--data.max_bad_fraction", "0.2", "--trainer.max_epochs", "2"),
    ]
    if broken == 1:
        main(arguments)
        with open(next(tmp_path.glob("r/*/*/metrics.csv")), newline="") as file:
            assert [row["train/bad_clips"] for row in csv.DictReader(file) if row["train/bad_clips"]] == ["1.0", "1.0"]
        assert sum("cannot be read and is skipped" in message for message in caplog.messages) == 1
    else:
        line = refusal(capsys, *arguments)
        assert "of the 16 clips of split 'train' cannot be read, more than data.max_bad_fraction = 0.2; e.g. " in line


def test_folders_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [new_run_folder(tmp_path, "x") for _ in range(5)]
    assert len(set(folders)) == 5 and all(folder.is_dir() for folder in folders)
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    assert new_run_folder(tmp_path, "x") == new_run_folder(tmp_path, "x") == tmp_path / "x" / "abc123"


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    for run in ("20260101-000000", "20260102-000000", "20260102-000000-2"):
        (tmp_path / "x" / run / "checkpoints").mkdir(parents=True)
    for run in ("20260101-000000", "20260102-000000"):
        (tmp_path / "x" / run / "checkpoints" / "last.ckpt").touch()
    assert find_checkpoint(tmp_path, "x", "last").parent.parent.name == "20260102-000000"
    with pytest.raises(UserError, match="no run of experiment 'y' has a checkpoint"):
        find_checkpoint(tmp_path, "y", "last")


def test_metrics_go_on_where_a_run_resumes(tmp_path: Path) -> None:
    logger = MetricsCsv(tmp_path)
    for step in (1, 2, 3):
        logger.log_metrics({"a": step}, step)
    logger.save()
    resumed = MetricsCsv(tmp_path)
    resumed.rewind_to(2)
    resumed.log_metrics({"b": 9}, 3)
    resumed.save()
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"step": "1", "a": "1", "b": ""},
            {"step": "2", "a": "2", "b": ""},
            {"step": "3", "a": "", "b": "9"},
        ]


def test_a_checkpoint_is_found_and_opened_once(finished: Path, manifest: Path, tmp_path: Path, monkeypatch) -> None:
    """What `best` means is decided once: a run that ends meanwhile changes neither configuration nor weights."""
    runs = tmp_path / "runs"
    shutil.copytree(finished.parent, runs / "mine")
    found, opened = [], []
    real_find, real_read = arguments.find_checkpoint, checkpoint.read_checkpoint

    def find(*places):
        found.append(real_find(*places))
        later = runs / "mine" / "later" / "checkpoints"
        later.mkdir(parents=True)
        (later / "best.ckpt").write_bytes(b"of another run that has just ended")
        return found[-1]

    def read(path):
        opened.append(Path(path))
        return real_read(path)

    monkeypatch.setattr(arguments, "find_checkpoint", find)
    monkeypatch.setattr(checkpoint, "read_checkpoint", read)
    main(["test", "--runs", str(runs), "--experiment", "mine", "--ckpt_path", "best", "--trainer.accelerator", "cpu"])
    assert len(found) == 1 and opened == found
