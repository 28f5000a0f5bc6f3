"""`mbt stats`: against plain sums over spectrograms made here, and all the way into a run and its checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from media import Recipe, write_clip
from paths import PROJECT

from mbt_lightning.cli.main import main
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.data.manifest.manifest import ManifestRow, read_manifest, write_manifest
from mbt_lightning.data.measure import (
    ClipMeasurement,
    MeasureJob,
    mean_and_std,
    measure_clip,
    read_measured,
    settings_of,
)
from mbt_lightning.data.media.decode import read_clip
from mbt_lightning.data.modalities import Rgb, Spectrogram
from mbt_lightning.data.records import Example
from mbt_lightning.data.spectrogram import KaldiFbank, LogMel
from mbt_lightning.data.store import Files
from mbt_lightning.errors import UserError
from mbt_lightning.training.checkpoint import read_checkpoint

MELS = ["--spectrogram.num_mels", "64"]
TINY = ["--model.size", "{dim: 16, depth: 2, num_heads: 2}", "--model.fusion_layer", "1", "--data.num_workers", "0"]
TINY += ["--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
RGB = {"frame_size": "32", "short_side": "36", "num_frames": "2"}
TINY += [word for name, value in RGB.items() for word in (f"--data.inputs.rgb.{name}", value)]
TINY += ["--data.batch_size", "2"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Four sounds of different lengths, one of which starts late, one broken; a video of 2 s to test on."""
    folder = tmp_path_factory.mktemp("stats")
    sounds = [(4.0, 0.0), (1.0, 0.0), (2.5, 0.75), (6.0, 0.0)]
    for i, (seconds, delay) in enumerate(sounds):
        write_clip(folder / f"{i}.mp4", Recipe(seconds=seconds, audio_delay=delay))
    (folder / "broken.mp4").write_bytes(b"junk" * 99)
    segments = [(None, None), (None, None), (None, None), (1.0, 5.0), (None, None)]
    names = ["0", "1", "2", "3", "broken"]
    labels = [["a"], ["a"], ["b"], ["a"], ["b"]]
    rows = [
        ManifestRow(name, None, None, None, f"{name}.mp4", None, *segment, label, "train")
        for name, segment, label in zip(names, segments, labels, strict=True)
    ]
    rows.append(ManifestRow("t", None, None, None, "1.mp4", None, None, None, ["a"], "test"))
    write_manifest(folder / "m.csv", rows, ("a", "b", "c"))
    return folder


@pytest.fixture
def manifest(made) -> Path:
    shutil.copytree(made, "set")
    return Path("set/m.csv")


def values(manifest: Path, spectrogram: LogMel) -> np.ndarray:
    """All values of the log-mel of the readable training clips, one behind the other."""
    pieces = []
    for name, start, end, begin in [("0", 0, 4, 0), ("1", 0, 1, 0), ("2", 0, 2.5, 0.75), ("3", 1, 5, 0)]:
        clip = read_clip(
            None,
            audio_path=manifest.parent / f"{name}.mp4",
            audio_start_seconds=start,
            audio_window_seconds=end - start,
        )
        first, last = clip.real_samples
        assert first / 16_000 == pytest.approx(begin, abs=0.03)  # what stands before is filled up
        pieces.append(spectrogram.log_mel(clip.waveform[None, first:last])[0].double().numpy())
    return np.concatenate(pieces)


def measured(manifest: Path, *words: str) -> dict:
    main(["stats", str(manifest), *words])
    return json.loads(Path(f"{manifest}.stats.json").read_text())


def test_mean_and_std_are_those_of_all_rows_of_sound(manifest, capsys) -> None:
    expected = values(manifest, LogMel())
    assert abs(expected.mean() - np.log(1e-6)) > 1  # silence would be told from sound
    about = measured(manifest, "--num_workers", "2")
    (entry,) = about["spectrograms"]
    assert entry["num_values"] == expected.size
    assert entry["mean"] == pytest.approx(expected.mean(), rel=1e-12)
    assert entry["std"] == pytest.approx(expected.std(), rel=1e-12)
    assert (entry["num_clips"], entry["of_clips"], entry["unreadable"], entry["split"]) == (4, 5, 1, "train")

    told = capsys.readouterr()
    assert "train: broken: " in told.err and "broken.mp4: damaged, or not a media file" in told.err
    assert "broken.mp4: damaged" in about["splits"]["train"]["unreadable"]["broken"]

    main(["stats", str(manifest), "--num_workers", "1"])
    assert json.loads(Path(f"{manifest}.stats.json").read_text()) == about, "it depends on the number of workers"


def test_what_a_recipe_needs_is_told(manifest, capsys) -> None:
    about = measured(manifest, "--spectrogram", "null", "--window_seconds", "2", "--num_workers", "1")
    train, test = about["splits"]["train"], about["splits"]["test"]
    assert train["positives"] == {"a": 3, "b": 2, "c": 0} and test["positives"] == {"a": 1, "b": 0, "c": 0}
    assert train["labels_per_clip"] == {"mean": 1.0, "max": 1, "none": 0} and train["clips"] == 5
    seconds = [train["seconds"][key] for key in ("min", "median", "mean", "max")]
    assert seconds == pytest.approx([1.0, 3.25, 2.875, 4.0], abs=0.05)
    assert train["seconds"]["shorter_than_window"] == 0.25 and test["seconds"]["shorter_than_window"] == 1.0
    assert train["picture_sizes"] == {"128x96": 4} and train["frames_per_second"] == {"25.00": 4}
    assert about["num_classes"] == 3 and about["fitting_tasks"] == ["Multiclass", "Multilabel"]
    assert about["spectrograms"] == [] and about["hash"] == read_manifest(manifest).digest
    out = capsys.readouterr().out
    assert "classes without a clip in train: 1 (c)" in out and "classes without a clip in test: 2 (b, c)" in out
    assert "rarest classes in train: c (0), b (2), a (3)" in out


def test_a_sample_is_drawn_from_the_seed(manifest, demo) -> None:
    shutil.copytree(demo.parent, "demo")
    first, again, other = (
        measured(Path("demo") / demo.name, *MELS, "--num_clips", "3", "--seed", str(seed), "--num_workers", "1")
        for seed in (1, 1, 2)
    )
    assert first == again and first["spectrograms"][0]["num_clips"] == first["splits"]["train"]["looked_at"] == 3
    assert first["spectrograms"][0]["mean"] != other["spectrograms"][0]["mean"]


@pytest.mark.parametrize("kind", ["jpeg-shards", pytest.param("mp4-intra", marks=pytest.mark.slow)])
def test_of_what_mbt_shard_has_written(manifest, kind) -> None:
    """Figures are those of its source, which is sampled and compressed anew; no process leaves anything behind."""
    main(["shard", str(manifest), "--out", "new", "--format", kind, "--num_workers", "1"])
    command = "from mbt_lightning.cli.main import main; main(['stats', 'new/manifest.parquet'])"
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, [PROJECT / "src", *sys.path]))}
    done = subprocess.run([sys.executable, "-c", command], env=places, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    about, source = json.loads(Path("new/manifest.parquet.stats.json").read_text()), measured(manifest)
    (entry,), (expected,) = about["spectrograms"], source["spectrograms"]
    assert entry["num_clips"] == expected["num_clips"] == 4
    assert entry["num_values"] == pytest.approx(expected["num_values"], rel=0.03)
    assert entry["mean"] == pytest.approx(expected["mean"], abs=0.5)
    train = about["splits"]["train"]
    assert train["picture_sizes"] == {"128x96": 4} and train["seconds"]["max"] == pytest.approx(4, abs=0.05)
    assert all(float(rate) == pytest.approx(5, rel=0.3) for rate in train["frames_per_second"])


class TestMeasureClip:
    """What a worker does with one clip."""

    def test_rows_that_fill_up_are_left_out(self, made) -> None:
        example = Example("0", str(made / "0.mp4"), str(made / "0.mp4"))
        seen = measure_clip(MeasureJob(0, example, Files(), json.dumps(settings_of(KaldiFbank, {}))))
        whole = KaldiFbank().log_mel(read_clip(made / "0.mp4", window_seconds=seen.seconds).waveform[None])[0].double()
        assert seen.num_values % 128 == 0 and 0 < whole.numel() - seen.num_values <= 8 * 128
        rows = whole[: seen.num_values // 128]
        assert seen.total == pytest.approx(rows.sum().item(), rel=1e-4)

    def test_a_long_sound_comes_in_pieces(self, made, monkeypatch) -> None:
        example, recipe = Example("3", None, str(made / "3.mp4")), json.dumps(settings_of(LogMel, {}))
        whole = measure_clip(MeasureJob(0, example, Files(), recipe))
        monkeypatch.setattr("mbt_lightning.data.measure.PIECE_SECONDS", 2)
        pieces = measure_clip(MeasureJob(0, example, Files(), recipe))
        assert abs(whole.num_values - pieces.num_values) <= 128 and pieces != whole
        for a, b in zip(mean_and_std([whole]), mean_and_std([pieces]), strict=True):
            assert a == pytest.approx(b, rel=0.01)

    @pytest.mark.parametrize(
        ("clip", "told"),
        [
            (Example("x", None, None), "the manifest names no audio file"),
            (Example("x", None, "1.mp4", 7.0), "before its segment starts at 7 s"),
            (Example("x", None, "1.mp4", 0.0, 0.01), "waveform holds 160 samples a clip; LogMel needs 513 or more"),
            (Example("x", None, "gone.mp4"), "no such file"),
        ],
    )
    def test_why_a_clip_is_left_out(self, clip, told, made, monkeypatch) -> None:
        monkeypatch.chdir(made)
        assert told in measure_clip(MeasureJob(0, clip, Files(), json.dumps(settings_of(LogMel, {})))).reason

    def test_sums_do_not_depend_on_the_order(self) -> None:
        numbers = np.random.default_rng(0).normal(1e6, 1, (50, 100))
        seen = [ClipMeasurement(1.0, None, None, 100, float(x.sum()), float((x**2).sum())) for x in numbers]
        assert mean_and_std(seen) == mean_and_std(seen[::-1])
        assert mean_and_std(seen)[1] == pytest.approx(numbers.std(), rel=1e-2)


RUN = ["--config", str(PROJECT / "experiments" / "bottleneck_symmetric_b4_lf8.yaml")]
RECIPE = [*RUN, "--config", str(PROJECT / "experiments" / "recipes" / "vggsound.yaml")]
SPLITS = ["--data.manifest", "set/m.csv", "--data.val_split", "null", "--data.num_test_views", "1"]
SPLITS += ["--data.window_seconds", "1", "--data.max_bad_fraction", "1"]


def transform_of(config: dict) -> dict:
    return config["data"]["inputs"]["spectrogram"]["init_args"]["transform"]["init_args"]


def refused(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_takes_the_numbers_and_its_checkpoint_carries_them(manifest, capsys) -> None:
    fit = ["fit", *RECIPE, *SPLITS, *TINY]
    line = refused(capsys, *fit)
    assert "there is no set/m.csv.stats.json: run `mbt stats set/m.csv`, or give numbers" in line
    assert not list(Path("runs").glob("*/*")), "a run that cannot start leaves an empty folder"

    entry = measured(manifest, "--num_workers", "1")["spectrograms"][0]
    line = refused(capsys, *fit, "--data.inputs.spectrogram.transform.num_mels", "64")
    assert "m.csv.stats.json has it for other settings only (`LogMel by default`)" in line
    assert "run `mbt stats set/m.csv --spectrogram.num_mels 64`" in line
    line = refused(capsys, *fit, "--data.inputs.spectrogram.transform", "KaldiFbank")
    assert "run `mbt stats set/m.csv --spectrogram KaldiFbank`" in line

    rows = Path("set/m.csv").read_text().splitlines(keepends=True)
    Path("set/m.csv").write_text("".join([*rows, rows[1].replace("0,", "again,", 1)]))
    main(fit)
    now = read_manifest(manifest).digest
    out = " ".join(capsys.readouterr().out.split())
    assert f"spectrogram: mean {entry['mean']:.6g}, std {entry['std']:.6g}; mean and std measured on 4 clips" in out
    assert f"warning: they were measured when the manifest's hash was {entry['hash']}; it is now {now}" in out

    (run,) = Path("runs").glob("*/*")
    carried = read_checkpoint(run / "checkpoints" / "last.ckpt")["mbt_lightning"]["config"]
    for config in (carried, yaml.safe_load((run / "config.yaml").read_text())):
        numbers = transform_of(config)
        assert (numbers["mean"], numbers["std"]) == (entry["mean"], entry["std"])

    Path("set/m.csv.stats.json").unlink()
    last = ["--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--runs", "later"]
    machine = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    main(["predict", "set/1.mp4", *last, *machine])
    main(
        ["test", *RECIPE, *SPLITS, *TINY[:6], *last, *machine, *TINY[-8:]]
    )  # the recipe's null again: the checkpoint's
    for config in Path("later").glob("*/*/config.yaml"):
        assert transform_of(yaml.safe_load(config.read_text()))["mean"] == entry["mean"]


def test_pictures_alone_need_no_measurement(manifest) -> None:
    video = ["--config", str(PROJECT / "experiments" / "video_only.yaml"), *RECIPE[2:]]
    main(["fit", *video, *SPLITS, *TINY])
    assert list(Path("runs").glob("*/*/checkpoints/last.ckpt"))


def test_in_python_the_numbers_are_asked_for(manifest) -> None:
    inputs = {"rgb": Rgb(), "spectrogram": Spectrogram(LogMel(mean=None))}
    unmeasured = AudioVisualData(str(manifest), inputs=inputs)
    with pytest.raises(UserError, match=r"mean or std is null.*mbt stats MANIFEST.*read_measured"):
        unmeasured.setup("fit")
    with pytest.raises(UserError, match="mean or std is null"):
        LogMel(std=None)(torch.zeros(1, 16_000))
    AudioVisualData(str(manifest), inputs=inputs, modalities=["rgb"]).setup("fit")

    entry = measured(manifest, "--spectrogram", "KaldiFbank", "--spectrogram.num_mels", "32")["spectrograms"][0]
    main(["stats", str(manifest)])  # another spectrogram is added
    found = read_measured(manifest, KaldiFbank, {"num_mels": 32})
    assert (found.mean, found.std) == (entry["mean"], entry["std"]) != read_measured(manifest)[:2]
    with pytest.raises(UserError, match=r"run `mbt stats .*m.csv --spectrogram KaldiFbank`"):
        read_measured(manifest, KaldiFbank)
    Path("set/m.csv.stats.json").write_text('{"spectrograms": [{"mean": 1}]}')
    with pytest.raises(UserError, match="not a file of mbt stats"):
        read_measured(manifest)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num_clips", "0"], "num_clips is 0: give 1 or more"),
        (["--window_seconds", "0"], "window_seconds is 0.0: give a time above 0"),
        (["--split", "trian"], "split 'trian' has no clips; the manifest's splits are: train (5), test (1)"),
        (["--spectrogram", "LogMle"], "did you mean 'LogMel'?"),
        (["--spectrogram.num_mels", "4000"], "num_mels is 4000"),
    ],
)
def test_what_makes_no_sense_is_refused(words, told, manifest, capsys) -> None:
    assert told in refused(capsys, "stats", str(manifest), *words)
    assert not Path("set/m.csv.stats.json").exists()


def test_a_split_without_a_readable_clip_is_refused(manifest, capsys) -> None:
    for path in manifest.parent.glob("*.mp4"):
        path.write_bytes(b"junk")
    line = refused(capsys, "stats", str(manifest), "--num_workers", "1")
    assert "none of the 5 clips tried in split 'train' could be measured; the first: set/0.mp4: damaged" in line
