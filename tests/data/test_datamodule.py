"""The data module in whole runs: a manifest with holes, balanced draws, and what the run says of them."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer
from paths import PROJECT

from mbt_lightning.cli.main import main
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.data.demo import CLASSES
from mbt_lightning.data.manifest.manifest import ManifestRow, read_manifest, write_manifest
from mbt_lightning.data.modalities import Rgb, Spectrogram
from mbt_lightning.data.samplers import ClassBalanced, ClipSampler, InOrder, Shuffled
from mbt_lightning.errors import UserError

TINY = ["--model.size", "{dim: 16, depth: 2, num_heads: 2}", "--model.fusion_layer", "1", "--trainer.max_epochs", "1"]
PLAIN = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--data.num_workers", "0"]


@pytest.fixture
def holed(demo, tmp_path, monkeypatch) -> Path:
    """The embedded clips as a Parquet manifest that knows of two more, which are missing."""
    monkeypatch.chdir(PROJECT)
    rows = [
        ManifestRow(e.clip_id, e.clip_id, None, None, e.video, None, None, None, e.labels, split)
        for split, examples in read_manifest(demo).splits.items()
        for e in examples
    ]
    gone = ManifestRow(
        "gone", "gone", 0.0, 1.0, None, None, None, None, [CLASSES[0][0]], "test", "missing", "test.csv:9"
    )
    names, groups = zip(*CLASSES, strict=True)
    path = tmp_path / "manifest.parquet"
    write_manifest(path, [*rows, gone, gone._replace(split="train")], names, groups, about={"dataset": "demo"})
    return path


def test_a_run_tells_what_part_of_the_data_it_has_seen(holed, tmp_path, capsys) -> None:
    options = ["--config", "experiments/bottleneck_b4_lf8.yaml", "--data.manifest", str(holed), *TINY, *PLAIN]
    options += ["--data.sampler", "ClassBalanced", "--data.num_test_views", "2"]
    options += ["--model.average_views", "probabilities"]
    main(["fit", *options, "--data.batch_size", "4", "--runs", str(tmp_path / "runs")])
    printed = " ".join(capsys.readouterr().out.split())
    digest = read_manifest(holed).digest
    assert f"scored 4 of 5 official clips (80.0%); data {digest}" in printed

    (run,) = (tmp_path / "runs").glob("*/*")
    data = json.loads((run / "summary.json").read_text())["data"]
    assert data["hash"] == digest and data["clips"] == {"train": 8, "val": 2, "test": 4}
    assert data["official"] == {"train": 9, "val": 2, "test": 5} and data["left_out"] == {"missing": 2}
    assert data["coverage"] == {"train": 8 / 9, "val": 1.0, "test": 0.8}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["sampler"]["class_path"].endswith(".ClassBalanced")
    assert config["model"]["average_views"] == "probabilities"


def test_labels_that_do_not_fit_the_task_are_refused_by_the_first_clip_that_has_them(demo, tmp_path, capsys) -> None:
    examples = read_manifest(demo).split("train")
    labels = [("a",), ("b",), ("a",), ("a", "b"), ("b",), ("b", "a")]
    rows = [
        ManifestRow(e.clip_id, None, None, None, e.video, None, None, None, of, "train")
        for e, of in zip(examples, labels, strict=False)
    ]
    write_manifest(tmp_path / "m.parquet", rows, ["b", "a"])
    options = ["--data.manifest", str(tmp_path / "m.parquet"), "--model.task", "Multiclass", *TINY, *PLAIN]
    with pytest.raises(SystemExit):
        main(["fit", *options, "--runs", str(tmp_path / "runs")])
    told = f"clip '{examples[3].clip_id}' has the labels ['a', 'b']: task Multiclass needs one label, not 2"
    assert told in capsys.readouterr().err


class First(ClipSampler):
    """A user's own: the first clip, again and again."""

    def __call__(self, dataset, seed, epoch):
        index, view = InOrder()(dataset, seed, epoch)
        return index * 0, view


@pytest.mark.parametrize("sampler", [Shuffled(), ClassBalanced(), First()])
def test_only_training_is_sampled(holed, sampler) -> None:
    data = AudioVisualData(str(holed), sampler=sampler, batch_size=2, num_test_views=2, num_workers=0)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    train, val, test = (
        list(loader.sampler) for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    assert len(train) == 8 and ([draw.index for draw in train] == [0] * 8) == isinstance(sampler, First)
    assert [(draw.index, draw.view) for draw in val] == [(0, 0), (1, 0)]
    assert [(draw.index, draw.view) for draw in test] == [(i, v) for i in range(4) for v in range(2)]


def test_a_decoder_that_is_not_here_is_told_before_a_worker_starts(holed, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    data = AudioVisualData(str(holed), inputs={"rgb": Rgb(decoder="torchcodec")})
    with pytest.raises(UserError, match=r"decoder is 'torchcodec', but torchcodec is not installed: pip install"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AudioVisualData(batch_size=0), "batch_size is 0: give 1 or more"),
        (lambda: AudioVisualData(num_workers=-1), "num_workers is -1: give 0 or more"),
        (lambda: AudioVisualData(window_seconds=0), "window_seconds is 0: give a length above 0"),
        (lambda: AudioVisualData(max_bad_fraction=2), "max_bad_fraction is 2"),
        (lambda: AudioVisualData(modalities=["rbg"]), "'rbg' is unknown: data.inputs has .*; did you mean 'rgb'"),
        (lambda: AudioVisualData(modalities=["rgb", "rgb"]), "each at most once"),
        (lambda: AudioVisualData(modalities=[]), "name at least one"),
        (lambda: Rgb(num_frames=0), "num_frames is 0: give 1 or more"),
        (lambda: Rgb(frame_size=0), "frame_size is 0: give 1 or more"),
        (lambda: Rgb(short_side=0), "short_side is 0: give 1 or more"),
        (lambda: Rgb(window_seconds=-1.0), "window_seconds is -1.0: give a length above 0"),
        (lambda: Rgb(decoder="ffmpeg"), "decoder is 'ffmpeg': choose one of auto, decord"),
    ],
)
def test_values_out_of_range_are_refused(build, message) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_only_the_used_inputs_are_read() -> None:
    data = AudioVisualData(inputs={"a": Rgb(), "b": Spectrogram(), "c": Rgb(frame_size=32)}, modalities=["c", "a"])
    assert data.shapes == {"c": (3, 8, 32, 32), "a": (3, 8, 224, 224)}
    assert [stream.kind for stream in data.setting.streams] == ["video"]
