"""`mbt import` and `mbt export`: files that can be tested, used for prediction and fine-tuned; one-line errors."""

import json
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
import yaml
from paths import PROJECT

from mbt_lightning.cli.main import main
from mbt_lightning.data.demo import DemoSize, demo_manifest
from mbt_lightning.errors import UserError
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, JointSelfAttention, TrainOnlyBottleneck
from mbt_lightning.model.mbt import MBT, EncoderSize
from mbt_lightning.model.pretrained.scenic import Scenic, from_params, state_dict
from mbt_lightning.training.checkpoint import Checkpoint, load_checkpoint, read_checkpoint

CLASSES, DEPTH = 12, 3


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return demo_manifest(DemoSize(8, 2, 4), cache=tmp_path_factory.mktemp("convert"))


def theirs(
    *,
    tokens=(5, 4),
    bottleneck=3,
    shared=False,
    head="token",
    modalities=("spectrogram", "rgb"),
    patch=(2, 16, 16),
    width=8,
) -> dict:
    """Parameters under the authors' names, at random values."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    params: dict = {"output_projection": {"kernel": draw(width, CLASSES), "bias": draw(CLASSES)}}
    encoder: dict = {"encoder_norm": {"scale": draw(width), "bias": draw(width)}}
    for m, count in zip(("spectrogram", "rgb"), tokens, strict=True):
        if m not in modalities:
            continue
        suffix = "" if m == "rgb" else "_spectrogram"
        size = patch if m == "rgb" else patch[-2:]
        params[f"embedding{suffix}"] = {"kernel": draw(*size, 3, width), "bias": draw(width)}
        if head == "token":
            params["cls" if m == "rgb" or len(modalities) == 1 else "clsspectrogram"] = draw(1, 1, width)
        encoder[f"posembed_input{suffix}"] = {"pos_embedding": draw(1, count + (head == "token"), width)}
        for layer in range(DEPTH):
            if shared and suffix:
                continue
            attention = {p: {"kernel": draw(width, 2, 4), "bias": draw(2, 4)} for p in ("query", "key", "value")}
            attention["out"] = {"kernel": draw(2, 4, width), "bias": draw(width)}
            encoder[f"encoderblock_{layer}{suffix}"] = {
                "LayerNorm_0": {"scale": draw(width), "bias": draw(width)},
                "MultiHeadDotProductAttention_0": attention,
                "LayerNorm_1": {"scale": draw(width), "bias": draw(width)},
                "MlpBlock_0": {
                    "Dense_0": {"kernel": draw(width, 16), "bias": draw(16)},
                    "Dense_1": {"kernel": draw(16, width), "bias": draw(width)},
                },
            }
    if bottleneck:
        params["bottleneck"] = draw(1, bottleneck, width)
    return params | {"Transformer": encoder}


def pack(tree):
    """Arrays as flax's msgpack has them: extension 1 holding shape, dtype and bytes."""
    if isinstance(tree, dict):
        return {name: pack(x) for name, x in tree.items()}
    return msgpack.ExtType(1, msgpack.packb((tree.shape, tree.dtype.name, tree.tobytes())))


def write(params: dict, path="checkpoint_7") -> str:
    state = {"step": np.int32(7) * np.ones((), np.int32)}
    tree = {"global_step": state["step"], "optimizer": {"target": params, "state": state}, "model_state": {}}
    Path(path).write_bytes(msgpack.packb(pack(tree)))
    return path


SIZES = ["--frame_size", "32", "--num_mels", "32", "--fusion_layer", "1"]


def imported(params: dict, *words: str) -> dict:
    """Import parameters; returns the overlay."""
    main(["import", "scenic", write(params), "--out", "weights", *words])
    return yaml.safe_load(Path("weights/experiment.yaml").read_text())


def refusal(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


SETTINGS = {  # what the parameters look like -> (words, strategy, other facts of the overlay)
    "bottleneck": ({}, [], Bottleneck, {"head": {"class_path": "ClsHead", "init_args": {}}, "share_encoder": False}),
    "cross": ({"bottleneck": 0}, [], CrossAttention, {}),
    "joint": ({"bottleneck": 0, "shared": True}, [], JointSelfAttention, {"share_encoder": True}),
    "pool": ({"head": "gap"}, [], Bottleneck, {"head": {"class_path": "MeanPoolHead", "init_args": {}}}),
    "max": (
        {"head": "gap"},
        ["--classifier", "gmp"],
        Bottleneck,
        {"head": {"class_path": "MaxPoolHead", "init_args": {}}},
    ),
    "train only": ({}, ["--test_with_bottlenecks", "false"], TrainOnlyBottleneck, {}),
    "frames": (
        {"patch": (16, 16), "tokens": (4, 12)},
        [],
        Bottleneck,
        {"patches": {"spectrogram": [16, 16], "rgb": [1, 16, 16]}},
    ),
    "order": ({}, ["--modality_fusion", "[rgb, spectrogram]"], Bottleneck, {"modalities": ["rgb", "spectrogram"]}),
}


@pytest.mark.parametrize(("facts", "words", "strategy", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_import_reads_the_settings_from_the_parameters(facts, words, strategy, expected) -> None:
    params = theirs(**{"tokens": (4, 8)} | facts)
    overlay = imported(params, *SIZES, *words)
    assert {key: overlay["model"][key] for key in expected} == expected
    model = load_checkpoint("weights/model.safetensors")
    assert type(model.network.fusion) is strategy
    used = state_dict(_flat(params), model.network)[0]
    for name, x in model.network.state_dict().items():
        assert torch.equal(x, used[name]), name
    assert model.spec.classes == tuple(f"class_{i}" for i in range(CLASSES))


def _flat(params):
    from mbt_lightning.model.pretrained.flax import flatten

    return flatten(params)


def test_one_modality_needs_no_fusion_layer() -> None:
    overlay = imported(theirs(modalities=["spectrogram"], bottleneck=0), "--num_mels", "16")
    assert overlay["model"]["modalities"] == ["spectrogram"] and "fusion" not in overlay["model"]
    assert overlay["data"]["window_seconds"] == 0.8 and "num_frames" not in overlay["data"]


def test_an_unused_bottleneck_is_reported(capsys) -> None:
    imported(theirs(modalities=["rgb"]), "--frame_size", "32")
    out = " ".join(capsys.readouterr().out.split())
    assert "parameter 'bottleneck' is not used: with one modality, nothing is fused." in out
    assert "mel bins" not in out and "spectrograms" not in out


def test_picked_frames_span_the_whole_window() -> None:
    """8 of 32 frames at every 2nd of 25 a second are 2.56 seconds apart as a whole, not 0.64."""
    overlay = imported(theirs(patch=(16, 16), tokens=(4, 32)), *SIZES)
    rgb = overlay["data"]["inputs"]["rgb"]["init_args"]
    assert rgb["num_frames"] == 8 and rgb["window_seconds"] == 2.56


def test_tubelets_are_all_the_frames() -> None:
    overlay = imported(theirs(tokens=(4, 8)), *SIZES)
    rgb = overlay["data"]["inputs"]["rgb"]["init_args"]
    assert rgb["num_frames"] == 4 and rgb["window_seconds"] == 0.32
    log_mel = overlay["data"]["inputs"]["spectrogram"]["init_args"]["transform"]["init_args"]
    assert (log_mel["mean"], log_mel["std"]) == (-1.7, 3.8) and overlay["data"]["window_seconds"] == 0.32


def test_others_may_read_the_weights() -> None:
    imported(theirs(tokens=(4, 8)), *SIZES)
    assert Path("weights/model.safetensors").stat().st_mode == Path("weights/experiment.yaml").stat().st_mode


def test_the_imported_model_tests_and_predicts(manifest, capsys) -> None:
    """Rows of the demo have another spectrogram than its own, but that is the overlay's business."""
    imported(theirs(tokens=(6, 8)), *SIZES)
    clip = str(manifest.parent / "clips" / "test-00000.mp4")
    options = ["--config", "weights/experiment.yaml", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    main(["test", *options, "--data.manifest", str(manifest)])
    summary = json.loads(next(Path("runs/weights").glob("*/summary.json")).read_text())
    assert summary["test"]["clips"] == 4 and 0 < summary["test"]["loss"] < 100
    main(["predict", clip, *options])
    found = next(Path("runs/weights").glob("*/predictions.csv")).read_text().splitlines()
    assert found[0].split(",") == ["file", *(f"class_{i}" for i in range(CLASSES))]
    assert "class_" in capsys.readouterr().out


def test_class_names_come_along(capsys) -> None:
    Path("classes.csv").write_text("name\n" + "".join(f"noise {i}\n" for i in range(CLASSES)))
    imported(theirs(tokens=(4, 8)), "--classes", "classes.csv", *SIZES)
    assert load_checkpoint("weights/model.safetensors").spec.classes[3] == "noise 3"
    Path("classes.csv").write_text("name\none\n")
    words = ["import", "scenic", write(theirs(tokens=(4, 8))), "--out", "b", "--classes", "classes.csv", *SIZES]
    message = refusal(capsys, *words)
    assert "classes.csv names 1 classes, but the checkpoint has 12" in message


REFUSALS = {
    "what": (["import"], 'expected "kind" to be one of {scenic}'),
    "other": (["import", "keras", "x"], "invalid choice: 'keras'"),
    "out": (["import", "scenic", "checkpoint_7"], "the following arguments are required: scenic.out"),
    "word": (["import", "scenic", "checkpoint_7", "--out", "o", "--colour", "x"], "colour"),
    "absent": (["import", "scenic", "nowhere", "--out", "o"], "nowhere: no such file"),
    "layer": (
        ["import", "scenic", "checkpoint_7", "--out", "o"],
        "has 3 layers, fewer than the released ones: give --fu",
    ),
    "late": (
        ["import", "scenic", "checkpoint_7", "--out", "o", "--fusion_layer", "4"],
        "the checkpoint has 3 layers: giv",
    ),
    "grid": (
        ["import", "scenic", "checkpoint_7", "--out", "o", *SIZES, "--frame_size", "48"],
        "8 tokens of rgb do not come from frames of 48 x 48 in patches [2, 16, 16]: set --frame_size",
    ),
    "zero": (
        ["import", "scenic", "checkpoint_7", "--out", "o", *SIZES, "--num_mels", "0"],
        "num_mels is 0: give 1 or m",
    ),
    "classes": (
        ["import", "scenic", "checkpoint_7", "--out", "o", "--classes", "c.csv", *SIZES],
        "c.csv: no such file",
    ),
    "garbage": (["import", "scenic", "garbage", "--out", "o"], "garbage: "),
    "file": (
        ["import", "scenic", "checkpoint_7", "--out", "garbage", *SIZES],
        "--out garbage: is a file, not a folder",
    ),
    "exported": (["export", "garbage", "--out", "o"], "garbage: not a checkpoint of mbt"),
    "exports": (["export", "nowhere", "--out", "o"], "nowhere: no such file; give a .ckpt file, or last or best with"),
    "best": (["export", "best", "--out", "o"], "best: of which experiment? Add --experiment NAME"),
}


@pytest.mark.parametrize(("words", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_done_is_reported(words, message, capsys) -> None:
    write(theirs(tokens=(4, 8)))
    Path("garbage").write_bytes(b"\x93\x01junk" * 9)
    assert message in refusal(capsys, *words)
    assert not Path("o").exists()


def test_options_that_say_nothing_are_refused(capsys) -> None:
    one = theirs(modalities=["spectrogram"], bottleneck=0)
    words = ["import", "scenic", write(one), "--out", "o", "--num_mels", "16"]
    assert "fusion_layer is 1, but the model has spectrogram only" in refusal(capsys, *words, "--fusion_layer", "1")
    message = refusal(capsys, *words, "--test_with_bottlenecks", "false")
    assert "test_with_bottlenecks is false, but no bottleneck is in use" in message


def test_nothing_is_overwritten(capsys) -> None:
    words = ["import", "scenic", write(theirs(tokens=(4, 8))), "--out", "weights", *SIZES]
    main(words)
    assert "weights/model.safetensors already exists: give another --out" in refusal(capsys, *words)


class TestCheckpoints:
    @pytest.fixture
    def run(self, manifest) -> Path:
        """A finished run of a small model."""
        point = PROJECT / "experiments" / "bottleneck_b4_lf8.yaml"
        size = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "2"]
        rest = ["--data.num_workers", "0", "--data.batch_size", "8", "--trainer.max_epochs", "1"]
        main(
            [
                "fit",
                "--config",
                str(point),
                "--data.manifest",
                str(manifest),
                *size,
                *rest,
                "--trainer.accelerator",
                "cpu",
            ]
        )
        return next(Path("runs/bottleneck_b4_lf8").iterdir())

    def test_export_gives_the_same_scores(self, run, capsys) -> None:
        checkpoint = str(run / "checkpoints" / "best.ckpt")
        main(["export", checkpoint, "--out", "model"])
        ours, file = load_checkpoint(checkpoint), load_checkpoint("model/model.safetensors")
        for name, x in ours.state_dict().items():
            assert torch.equal(x, file.state_dict()[name])
        assert file.spec.classes == ours.spec.classes and file.spec.groups == ours.spec.groups
        main(["test", "--config", "model/experiment.yaml", "--trainer.accelerator", "cpu"])
        runs = sorted(Path("runs/bottleneck_b4_lf8").iterdir(), key=lambda p: p.stat().st_mtime)
        scores = [json.loads((folder / "summary.json").read_text())["test"] for folder in (run, runs[-1])]
        assert scores[0] == scores[1] and runs[-1] != run
        config = yaml.safe_load((runs[-1] / "config.yaml").read_text())
        assert config["ckpt_path"] == "model/model.safetensors"

    def test_an_overlay_without_its_weights_takes_no_other(self, capsys) -> None:
        imported(theirs(tokens=(4, 8)), *SIZES)
        Path("elsewhere").mkdir()
        Path("weights/experiment.yaml").rename("elsewhere/experiment.yaml")
        Path("weights/model.safetensors").rename("model.safetensors")  # in the folder where the program runs
        message = refusal(capsys, "predict", "clip.mp4", "--config", "elsewhere/experiment.yaml")
        assert "elsewhere/model.safetensors: no such file" in message

    def test_damaged_metadata(self, capsys) -> None:
        from safetensors.torch import save_file

        for about in ({"config": {"model": {"foo": 3}}, "spec": {}}, {"config": 3}, [1]):
            save_file({"x": torch.zeros(2)}, "broken.safetensors", {"mbt_lightning": json.dumps(about)})
            assert "not written by mbt import" in refusal(capsys, "export", "broken.safetensors", "--out", "o")
        about = {"config": {"model": {"foo": 3}, "data": {}, "experiment": "x"}, "spec": {"inputs": {}, "classes": []}}
        save_file({"x": torch.zeros(2)}, "broken.safetensors", {"mbt_lightning": json.dumps(about)})
        with pytest.raises(UserError, match=r"broken.safetensors: its model cannot be built again"):
            load_checkpoint("broken.safetensors")

    def test_other_classes_are_refused(self, run, manifest, tmp_path, capsys) -> None:
        """A table of scores for other classes than were trained would be silently wrong."""
        names = read_checkpoint(run / "checkpoints" / "best.ckpt")["mbt_lightning"]["spec"]["classes"]
        swapped = "name\n" + "".join(f"{name}\n" for name in [names[1], names[0], *names[2:]])
        Path("classes.csv").write_text(swapped)
        words = ["test", "--ckpt_path", str(run / "checkpoints" / "best.ckpt"), "--data.classes", "classes.csv"]
        message = refusal(capsys, *words, "--trainer.accelerator", "cpu")
        assert f"number 0 is {names[0]!r} there and {names[1]!r} here: give data.classes" in message

    def test_a_training_starts_from_it(self, run, manifest, capsys) -> None:
        main(["export", str(run / "checkpoints" / "best.ckpt"), "--out", "model"])
        point = PROJECT / "experiments" / "cross_lf8.yaml"
        size = ["--model.size", "{dim: 16, depth: 3, num_heads: 2}", "--model.fusion_layer", "1"]
        rest = [
            "--data.num_workers",
            "0",
            "--data.batch_size",
            "8",
            "--trainer.max_steps",
            "1",
            "--trainer.accelerator",
            "cpu",
        ]
        init = [
            "--model.init",
            "Checkpoint",
            "--model.init.path",
            "model/model.safetensors",
            "--model.optimizer.lr",
            "0",
        ]
        main(["fit", "--config", str(point), "--data.manifest", str(manifest), *size, *rest, *init])
        out = capsys.readouterr().out
        assert (
            "init: model/model.safetensors: 8" in out
            and "not used, from the file: head.linear.weight, head.linear.bias, fusion" in out
        )
        folder = next(Path("runs/cross_lf8").iterdir())
        assert "initial head.linear.weight" in (folder / "init.txt").read_text()
        after = load_checkpoint(folder / "checkpoints" / "last.ckpt").network.layers[1]["rgb"].mlp.fc1.weight
        before = load_checkpoint(run / "checkpoints" / "best.ckpt").network.layers[1]["rgb"].mlp.fc1.weight
        assert torch.equal(after, before)

        Path("model/model.safetensors").unlink()  # going on does not need it any more
        main(["fit", "--experiment", "cross_lf8", "--ckpt_path", "last", "--trainer.max_steps", "2"])

    def test_a_training_starts_from_an_overlay(self, manifest, capsys) -> None:
        imported(theirs(tokens=(6, 8)), *SIZES)
        words = [
            "fit",
            "--config",
            "weights/experiment.yaml",
            "--data.manifest",
            str(manifest),
            "--data.num_workers",
            "0",
        ]
        main([*words, "--trainer.max_steps", "1", "--trainer.accelerator", "cpu", "--data.batch_size", "8"])
        out = capsys.readouterr().out
        assert "init: weights/model.safetensors: " in out
        assert "left at the initial value: head.linear.weight, head.linear.bias\n" in out

    def test_a_training_does_not_go_on_from_weights(self, capsys) -> None:
        imported(theirs(tokens=(4, 8)), *SIZES)
        message = refusal(capsys, "fit", "--ckpt_path", "weights/model.safetensors")
        assert "holds a model and no training to resume; to start from it, give --model.init Checkpoint" in message

    def test_a_start_that_fails_leaves_no_folder(self, manifest, capsys) -> None:
        point = PROJECT / "experiments" / "cross_lf8.yaml"
        words = ["fit", "--config", str(point), "--data.manifest", str(manifest), "--trainer.accelerator", "cpu"]
        message = refusal(capsys, *words, "--model.init", "GoogleViT", "--model.init.path", "nowhere.npz")
        assert "model.init nowhere.npz: nowhere.npz: no such file" in message or "nowhere.npz: no such file" in message
        assert not list(Path("runs/cross_lf8").iterdir())

    def test_a_safetensors_file_of_others(self, capsys) -> None:
        from safetensors.torch import save_file

        save_file({"x": torch.zeros(2)}, "vit.safetensors")
        message = refusal(capsys, "predict", "clip.mp4", "--ckpt_path", "vit.safetensors")
        assert (
            "vit.safetensors: not written by mbt import or mbt export; start from weights of others with model.i"
            in message
        )


class TestInit:
    SHAPES = {"rgb": (3, 4, 32, 32), "spectrogram": (1, 64, 16)}  # noqa: RUF012

    def build(self, fusion=lambda g: Bottleneck(g, 3, "symmetric"), classes=CLASSES, **settings) -> MBT:
        torch.manual_seed(1)
        patches = {"rgb": [2, 16, 16], "spectrogram": [16, 16]}
        size = EncoderSize(8, 3, 2, 2.0)
        return MBT(self.SHAPES, classes, fusion=fusion, fusion_layer=1, size=size, patches=patches, **settings)

    def source(self, **common) -> Scenic:
        params = theirs(tokens=(4, 8))
        settings = {"rgb_shape": [4, 32, 32, 3], "spec_shape": [1, 64, 16, 3], "fusion_layer": 1}
        return Scenic(write(params), settings, **common)

    def test_the_authors_checkpoint(self) -> None:
        network = self.build()
        report = self.source(load_head=True)(network)
        assert report.initial == report.unused == [] and not report.fitted
        shapes = {"rgb_shape": [4, 32, 32, 3], "spec_shape": [1, 64, 16, 3], "fusion_layer": 1}
        same = from_params(theirs(tokens=(4, 8)), shapes).state_dict()
        assert all(torch.equal(x, same[name]) for name, x in network.state_dict().items())

    def test_the_head_stays_unless_asked_for(self) -> None:
        network = self.build(classes=5)
        report = self.source()(network)
        assert report.initial == ["head.linear.weight", "head.linear.bias"] == report.unused
        message = r"load_head: the head is linear.weight \[12, 8\], .* there and linear.weight \[5, 8\].*: leave it out"
        with pytest.raises(UserError, match=message):
            self.source(load_head=True)(self.build(classes=5))

    def test_another_number_of_bottlenecks_stays_new(self) -> None:
        report = self.source()(self.build(lambda g: Bottleneck(g, 7)))
        assert "fusion.bottleneck" in report.initial and "fusion.bottleneck" in report.unused

    def test_another_number_of_frames(self) -> None:
        self.SHAPES = {"rgb": (3, 8, 32, 32), "spectrogram": (1, 64, 16)}
        network = self.build()
        report = self.source()(network)
        assert report.fitted == {"tokens.rgb.positions": "2x2x2 -> 4x2x2: resampled"}

    def test_one_encoder_of_two(self) -> None:
        inputs = {"rgb": self.SHAPES["rgb"]}
        network = MBT(inputs, CLASSES, size=EncoderSize(8, 3, 2, 2.0), fusion_layer=3, patches={"rgb": [2, 16, 16]})
        report = self.source()(network)
        assert report.initial == ["head.linear.weight", "head.linear.bias"]
        assert sum(".spectrogram." in name for name in report.unused) == 3 * 12 + 4

    def test_shared_blocks_take_the_first_modalitys(self) -> None:
        network = self.build(JointSelfAttention)
        report = self.source()(network)
        assert "layers.1.spectrogram.mlp.fc1.weight" in report.unused
        assert "layers.0.spectrogram.mlp.fc1.weight" in report.loaded
        assert "layers.1.shared.mlp.fc1.weight" in report.loaded
        flat = _flat(theirs(tokens=(4, 8)))
        assert np.array_equal(
            network.layers[1]["shared"].mlp.fc1.weight.detach().T,
            flat["Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"],
        )

    def test_our_own(self, tmp_path) -> None:
        imported(theirs(tokens=(4, 8)), *SIZES, "--num_mels", "16")
        one, other = self.build(), self.build()
        Checkpoint("weights/model.safetensors", load_head=True)(one)
        self.source(load_head=True)(other)
        assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())
