"""What a model costs: the count and the arithmetic, the paper's and the authors' figures, the tool that prints them."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import yaml
from paths import PROJECT

from mbt_lightning.cli.cost import Experiment, Row, compare, cost_of, fusion_layers, itself, shape_of, way_of
from mbt_lightning.cli.main import main
from mbt_lightning.data import spectrogram
from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.model import fusion
from mbt_lightning.model.authors_flops import LATE, Cost, Way, cost_of_settings, inputs_of, shape_of_settings, ways
from mbt_lightning.model.flops import by_module, by_part, count_parameters, gflops_per_clip
from mbt_lightning.model.fusion import Bottleneck, CrossAttention, Fusion, JointSelfAttention, TrainOnlyBottleneck
from mbt_lightning.model.mbt import MBT, EncoderSize
from mbt_lightning.training.checkpoint import read_checkpoint

SMALL = EncoderSize(dim=16, depth=2, num_heads=2, mlp_ratio=3)
INPUTS = {"rgb": (3, 2, 32, 32), "spectrogram": (1, 48, 32), "flow": (3, 16, 16)}
PATCHES = {"rgb": [1, 16, 16], "spectrogram": [16, 16], "flow": [8, 8]}
TWO = {m: INPUTS[m] for m in ("rgb", "spectrogram")}


def build(inputs=TWO, **settings) -> MBT:
    """A network, of shapes alone."""
    with torch.device("meta"):
        return MBT(inputs, **{"num_classes": 7, "size": SMALL, "patches": PATCHES, "fusion_layer": 1} | settings)


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic and count
# ---------------------------------------------------------------------------------------------------------------------

*_, JOINT, CROSS, SEQUENTIAL = ways(5, "sequential")
*_, SYMMETRIC = ways(5, "symmetric")
STRATEGIES: dict[str, tuple[Way, Callable]] = {
    "joint": (JOINT, JointSelfAttention),
    "cross": (CROSS, CrossAttention),
    "sequential": (SEQUENTIAL, partial(Bottleneck, num_bottlenecks=5, update="sequential")),
    "symmetric": (SYMMETRIC, partial(Bottleneck, num_bottlenecks=5, update="symmetric")),
    "late": (LATE, Fusion),
}


def check_the_count(network: MBT, inputs, way: Way) -> None:
    """The cost as run and the parameters, to the digit."""
    row = cost_of(network, inputs, way, network.fusion_layer)
    assert row.as_run == by_module(network, inputs)[""]
    assert row.parameters == count_parameters(network)


@pytest.mark.parametrize("share_encoder", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("head", ["cls", "mean"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_arithmetic_is_the_count(name: str, head: str, share_encoder: bool) -> None:
    way, strategy = STRATEGIES[name]
    for layer in [2] if name == "late" else [0, 1]:
        network = build(fusion=strategy, fusion_layer=layer, head=head, share_encoder=share_encoder)
        check_the_count(network, TWO, replace(way, share_encoder=share_encoder))


@pytest.mark.parametrize("name", STRATEGIES)
def test_arithmetic_is_the_count_of_three_modalities(name: str) -> None:
    way, strategy = STRATEGIES[name]
    check_the_count(build(INPUTS, fusion=strategy, fusion_layer=2 if name == "late" else 0), INPUTS, way)


@pytest.mark.parametrize("head", ["cls", "mean"])
@pytest.mark.parametrize("m", INPUTS)
def test_arithmetic_is_the_count_of_one_modality(m: str, head: str) -> None:
    inputs = {m: INPUTS[m]}
    check_the_count(build(inputs, head=head), inputs, LATE)


def test_a_layer_before_the_logits_counts() -> None:
    check_the_count(build(fusion=JointSelfAttention, representation_size=5), TWO, replace(JOINT, share_encoder=False))


class ThroughMeans(Fusion):
    """A strategy of one's own, with a matrix product of its own."""

    def __init__(self, geometry):
        super().__init__(geometry)
        self.linear = torch.nn.Linear(geometry.dim, geometry.dim)

    def start(self, tokens):
        return tokens, self.linear(torch.stack([x.mean(1) for x in tokens.values()], dim=1))

    def forward(self, tokens, shared, blocks, keep=None):
        return super().forward({m: x + shared.mean(1, keepdim=True) for m, x in tokens.items()}, shared, blocks, keep)


class TestParts:
    @pytest.mark.parametrize("strategy", [JointSelfAttention, Bottleneck, ThroughMeans])
    @pytest.mark.parametrize("layer", [0, 1, 2])
    def test_sum_to_the_whole(self, strategy, layer: int) -> None:
        network = build(fusion=strategy, fusion_layer=layer)
        parts = by_part(network, TWO)
        assert sum(p.parameters for p in parts) == count_parameters(network)
        assert sum(p.multiply_adds for p in parts) == round(gflops_per_clip(network, TWO) * 1e9)
        assert all(p.parameters > 0 and p.multiply_adds > 0 for p in parts)

    def test_names(self) -> None:
        embedding = ["rgb: patches, positions, CLS", "spectrogram: patches, positions, CLS"]
        towers, head = ["rgb: layer 0", "spectrogram: layer 0"], "final norm, head"
        assert [p.name for p in by_part(build(), TWO)] == [*embedding, *towers, "fused: layer 1", head]
        early = by_part(build(fusion_layer=0, head="mean"), TWO)
        assert [p.name for p in early] == [*(e[:-5] for e in embedding), "fused: layers 0-1", head]
        shared = by_part(build(fusion_layer=2, share_encoder=True), TWO)
        assert [p.name for p in shared] == [*embedding, "shared: layers 0-1", head]

    def test_embedding_by_hand(self) -> None:
        rgb, sound, *_ = by_part(build(), TWO)
        assert rgb.multiply_adds == 8 * 16 * (3 * 16 * 16)
        assert sound.multiply_adds == 6 * 16 * (1 * 16 * 16)  # one channel, though the filter has three

    def test_compiling_changes_no_count(self) -> None:
        plain, compiled = build(), build()
        compiled.compile(backend="eager")
        assert by_module(compiled, TWO) == by_module(plain, TWO)


# ---------------------------------------------------------------------------------------------------------------------
# The figures of others, for ViT-B and 527 classes
# ---------------------------------------------------------------------------------------------------------------------


@cache
def vit_b(frames: int = 8, spectrogram: int = 800, tubelet: int = 1, modality: str = "", head: str = "cls") -> tuple:
    """A network of the paper's size and its inputs; both modalities, or one."""
    inputs = {"rgb": (3, frames, 224, 224), "spectrogram": (1, spectrogram, 128)}
    inputs = {m: shape for m, shape in inputs.items() if modality in ("", m)}
    patches = PATCHES | {"rgb": [tubelet, 16, 16]}
    return build(inputs, num_classes=527, size="b", fusion_layer=12, patches=patches, head=head), inputs


HONEST = {
    "t = 4 s": ((4, 400), 5, (95.8, 96.9, 96.2, 115.6, 102.4, 101.7, 97.8, 203.3, 131.7)),
    "t = 8 s": ((8, 800), 4, (215.7, 216.6, 216.0, 266.7, 232.7, 238.9, 223.4, 477.7, 303.0)),
    "released": ((32, 800, 2), 4, (484.8, 486.0, 485.2, 581.3, 517.0, 531.2, 500.3, 1062, 677)),
}
"""By 12 N d^2 + 2 N^2 d a layer, billions of multiply-adds of the layers without embedding and head, reckoned apart
from this program. Frames, spectrogram, tubelet; number of bottlenecks; then late, bottleneck from layer 0 and 8, cross
0 and 8, joint 0 and 8, cross as coded 0 and 8."""


@pytest.mark.parametrize("setting", HONEST)
def test_honest_costs_of_the_layers(setting: str) -> None:
    data, num_bottlenecks, told = HONEST[setting]
    network, inputs = vit_b(*data)
    shape = shape_of(network, inputs)
    joint, _, cross, bottleneck = ways(num_bottlenecks, "symmetric")
    rows = [cost_of(network, inputs, LATE, 12)]
    rows += [cost_of(network, inputs, way, layer) for way in (bottleneck, cross, joint) for layer in (0, 8)]
    full = [(row.full_layers - shape.embedding - shape.head) / 1e9 for row in rows]
    as_coded = [(row.as_coded - shape.embedding_as_coded - shape.head) / 1e9 for row in rows if row.name == cross.name]
    assert [*full, *as_coded] == pytest.approx(told, rel=1e-3)


def near(row: Row, gmacs: float, millions: float | None = None) -> None:
    """As counted on the authors' code, with element-wise work on top: less by up to one per cent."""
    assert row.as_coded is not None
    assert 0.99 * gmacs < row.as_coded / 1e9 < gmacs
    assert millions is None or row.parameters / 1e6 == pytest.approx(millions, abs=0.006)


FIGURE_3 = {
    0: (98.39, 205.48),
    2: (98.22, 187.46),
    4: (98.05, 169.44),
    6: (97.88, 151.42),
    8: (97.70, 133.40),
    10: (97.53, 115.38),
    12: (97.36, 97.36),
}
"""The paper's Fig. 3 (arXiv:2107.00135), right, GFLOPs of bottleneck and vanilla fusion, digitised: t = 4 s."""


@pytest.mark.parametrize("layer", FIGURE_3)
def test_the_papers_figure_fits_what_was_coded(layer: int) -> None:
    """Four frames of RGB, one more token than B = 4, and cross-attention over all tokens twice."""
    *_, cross, bottleneck = ways(5, "symmetric")
    for way, gmacs in zip((bottleneck, cross), FIGURE_3[layer], strict=True):
        near(cost_of(*vit_b(4, 400), way, layer), gmacs)
    row = cost_of(*vit_b(4, 400), cross, 0)
    assert row.full_layers is not None and FIGURE_3[0][1] > 1.7 * row.full_layers / 1e9  # not what eq. 5-6 need


AS_CODED = {
    0: (241.564, 481.961, 219.230),
    2: (237.638, 437.969, 219.027),
    4: (233.712, 393.977, 218.823),
    6: (229.786, 349.985, 218.620),
    8: (225.860, 305.993, 218.416),
    10: (221.934, 262.001, 218.212),
    12: (218.009, 218.009, 218.009),
}
"""Joint with a shared encoder, cross-attention, bottleneck B = 4 (5 tokens): billions of multiply-adds that XLA counts
in the authors' code (google-research/scenic, projects/mbt, by its `compute_flops`)."""


@pytest.mark.parametrize("layer", AS_CODED)
def test_the_authors_strategies(layer: int) -> None:
    joint, _, cross, bottleneck = ways(5, "symmetric")
    for way, gmacs, millions in zip((joint, cross, bottleneck), AS_CODED[layer], (88.16, 173.21, 173.22), strict=True):
        near(cost_of(*vit_b(), way, layer), gmacs, millions)


@pytest.mark.parametrize(
    ("their_b", "gmacs", "millions"),
    [(4, 218.416, 173.22), (36, 221.036, 173.24), (64, 223.349, 173.26), (256, 239.741, 173.41), (1024, 314.509, 174)],
)
def test_the_authors_bottlenecks(their_b: int, gmacs: float, millions: float) -> None:
    near(cost_of(*vit_b(), ways(their_b + 1, "symmetric")[3], 8), gmacs, millions)


def test_the_authors_other_models() -> None:
    near(cost_of(*vit_b(modality="spectrogram"), LATE, 12), 37.393, 86.36)
    near(cost_of(*vit_b(modality="rgb"), LATE, 12), 180.615, 87.26)
    near(cost_of(*vit_b(32, 800, 2, modality="rgb"), LATE, 12), 455.046, 89.05)  # parameters: our own count
    near(cost_of(*vit_b(32, 800, 2), ways(5, "symmetric")[3], 8), 492.944, 175.01)
    near(cost_of(*vit_b(32, 800, 2, head="mean"), ways(4, "symmetric")[3], 8), 492.541, 175.01)  # so are these


# ---------------------------------------------------------------------------------------------------------------------
# The table of all ways
# ---------------------------------------------------------------------------------------------------------------------


def test_layers_are_even_and_have_the_networks_own() -> None:
    depths = {12: [0, 2, 4, 6, 8, 10, 12], 24: [0, 4, 8, 12, 16, 20, 24], 3: [0, 1, 2, 3]}
    for depth, layers in depths.items():
        size = EncoderSize(16, depth, 2)
        assert fusion_layers(build(size=size, fusion_layer=depth)) == layers
        assert fusion_layers(build(size=size, fusion_layer=1)) == sorted({1, *layers})


def test_rows_are_of_every_way_and_layer() -> None:
    network = build(fusion=partial(Bottleneck, num_bottlenecks=7))
    rows = compare(network, TWO)
    names = ["joint, shared encoder", "joint, separate below", "cross-attention", "bottleneck, B = 7"]
    assert [(r.name, r.fusion_layer) for r in rows] == [*((n, k) for n in names for k in (0, 1)), ("late", 2)]
    assert [r.name for r in rows if r.as_coded is None] == ["joint, separate below"] * 2
    assert all(r.full_layers and r.as_run < r.full_layers < (r.as_coded or 1e9) for r in rows)


@pytest.mark.parametrize("share_encoder", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", STRATEGIES)
def test_the_network_itself_is_known(name: str, layer: int, share_encoder: bool) -> None:
    """Arithmetic recognises each built-in strategy, and its row has the numbers that are counted."""
    network = build(fusion=STRATEGIES[name][1], fusion_layer=layer, share_encoder=share_encoder)
    row, way = itself(network, TWO), way_of(network)
    assert way is not None
    by_arithmetic = cost_of(network, TWO, way, layer)
    assert row == replace(by_arithmetic, name=row.name)
    assert (row.as_coded is None) == (name == "joint" and layer == 1 and not share_encoder)


def test_cross_attention_of_one_encoder_is_coded_as_joint() -> None:
    cross, joint = (build(fusion=f, share_encoder=True) for f in (CrossAttention, JointSelfAttention))
    assert itself(cross, TWO).as_coded == itself(joint, TWO).as_coded


@pytest.mark.parametrize("strategy", [TrainOnlyBottleneck, ThroughMeans])
def test_a_network_that_arithmetic_does_not_know(strategy) -> None:
    network = build(fusion=strategy)
    row = itself(network, TWO)
    assert row.name == f"this configuration:\n{strategy.__name__}"
    assert (row.parameters, row.as_run) == (count_parameters(network), by_module(network, TWO)[""])
    assert row.full_layers is row.as_coded is None


# ---------------------------------------------------------------------------------------------------------------------
# The tool
# ---------------------------------------------------------------------------------------------------------------------

POINT = "experiments/bottleneck_b4_lf8.yaml"
RECIPE = ["experiments/bottleneck_symmetric_b4_lf8.yaml", "experiments/recipes/audioset_mini.yaml"]


@pytest.fixture(autouse=True)
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the project's folder, in a terminal of the usual width."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("COLUMNS", "80")


def printed(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """What `mbt cost` prints, with single spaces and no frames."""
    main(["cost", *arguments])
    output = capsys.readouterr()
    assert output.err == ""
    return " ".join(output.out.translate(str.maketrans("│┃", "  ")).split())


def test_an_ablation_point(capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mbt_lightning.data.datamodule.demo_manifest", None)  # the clips must not be made
    text = printed(capsys, "--config", POINT, "--runs", str(tmp_path / "runs"))
    assert text.startswith("rgb: 3 x 8 x 32 x 32, 33 tokens spectrogram: 1 x 160 x 64, 41 tokens 12 layers of width 48")
    assert "12 classes fusion layer 8: Bottleneck, sequential, B = 4 this configuration, as run" in text
    assert "fused: layers 8-11 0.22637 0.00832" in text and "total 0.75688 0.02848" in text
    assert "this configuration: 8 0.75688 0.03054 0.02848 0.03152 Bottleneck" in text and "*" not in text
    assert "late 12 0.75668" in text and "As coded: the authors' released code" in text
    assert not (tmp_path / "runs").exists()


def test_a_recipe(capsys: pytest.CaptureFixture) -> None:
    text = printed(capsys, *(word for name in RECIPE for word in ("--config", name)))
    assert text.startswith(
        "no data/audioset_mini.parquet yet: counted with AudioSet's 527 classes; give --classes N for another"
    )
    assert "rgb: 3 x 8 x 224 x 224, 1569 tokens spectrogram: 1 x 800 x 128, 401 tokens" in text
    assert "total 173.214 201.284" in text
    assert "Bottleneck, symmetric, B = 4" in text and "configuration: 8 173.214 216.988 201.284 217.145" in text
    assert "cross-attention 0 173.211 267.745 250.182 478.870" in text


def test_options_win_over_files(capsys: pytest.CaptureFixture) -> None:
    options = ["--model.fusion_layer", "3", "--model.fusion.num_bottlenecks=2", "--model.head", "mean"]
    text = printed(capsys, "--config", POINT, *options, "--classes", "30")
    assert "32 tokens" in text and "30 classes fusion layer 3: Bottleneck, sequential, B = 2" in text
    assert "this configuration: 3 " in text and "bottleneck, B = 2 0 " in text and "joint, shared encoder 0 " in text


@pytest.mark.parametrize(
    ("options", "told", "row"),
    [
        (
            "--model.fusion JointSelfAttention --model.fusion_layer 0",
            "0: JointSelfAttention, shared encoder",
            "0.03352",
        ),
        ("--model.fusion JointSelfAttention", "8: JointSelfAttention this", "0.64360 0.03045 0.02828 – JointSelf"),
        (
            "--model.share_encoder true",
            "8: Bottleneck, sequential, B = 4, shared encoder",
            "0.41761 0.03054 0.02848 0.03152",
        ),
        (
            "--model.fusion TrainOnlyBottleneck",
            "8: TrainOnlyBottleneck, sequential, B = 4",
            "0.75688 – 0.02750 – Train",
        ),
        ("--model.fusion test_cost.ThroughMeans", "8: ThroughMeans this", "0.75904 – 0.02750 – ThroughMeans"),
        ("--model.fusion_layer 12", "12: late this", "0.75668 0.02941 0.02750 0.03040 late"),
    ],
)
def test_this_configuration_stands_first(options: str, told: str, row: str, capsys: pytest.CaptureFixture) -> None:
    text = printed(capsys, "--config", POINT, *options.split())
    assert f"fusion layer {told}" in text
    assert row in text.split("this configuration:")[1].split("joint, shared encoder 0")[0]
    assert text.count("this configuration:") == 1


def test_the_manifests_classes(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("video,labels,split\na.mp4,x|y|z,train\n")
    assert "width 48, 3 classes" in printed(capsys, "--config", POINT, "--data.manifest", str(tmp_path / "m.csv"))


def test_one_modality_has_nothing_to_fuse(capsys: pytest.CaptureFixture) -> None:
    text = printed(capsys, "--config", "experiments/audio_only.yaml")
    assert "spectrogram: layers 0-11" in text and text.endswith("one modality: there is nothing to fuse")
    assert "fusion layer" not in text and "width 48, 12 classes this configuration, as run" in text


@pytest.fixture
def imported(tmp_path: Path, capsys: pytest.CaptureFixture) -> Path:
    """The folder of an imported checkpoint of the authors, of 7 classes."""
    sizes = ["--fusion_layer", "2", "--frame_size", "32", "--num_mels", "32"]
    main(["import", "scenic", "tests/goldens/checkpoint_3", "--out", str(tmp_path / "imported"), *sizes])
    capsys.readouterr()
    return tmp_path / "imported"


class TestCheckpoints:
    def test_an_imported_one(self, imported: Path, capsys: pytest.CaptureFixture) -> None:
        overlay, weights = str(imported / "experiment.yaml"), str(imported / "model.safetensors")
        text = printed(capsys, "--config", overlay)
        assert "4 layers of width 48, 7 classes fusion layer 2: Bottleneck, symmetric, B = 4" in text
        assert printed(capsys, "--ckpt_path", weights) == text
        assert "width 48, 9 classes" in printed(capsys, f"--ckpt_path={weights}", "--classes", "9")

    def test_one_of_a_run(self, imported: Path, capsys: pytest.CaptureFixture) -> None:
        content = {"mbt_lightning": read_checkpoint(imported / "model.safetensors")["mbt_lightning"]}
        folder = imported / "runs/point/1/checkpoints"
        folder.mkdir(parents=True)
        torch.save(content, folder / "best.ckpt")
        newest = ["--ckpt_path", "best", "--experiment", "point", "--runs", str(imported / "runs")]
        assert "4 layers of width 48, 7 classes" in printed(capsys, *newest)


@pytest.mark.parametrize("ran", [{}, {"verbose": False}, {"return_predictions": None}], ids=["fit", "test", "predict"])
def test_a_runs_own_configuration(ran: dict, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """A run's file has the arguments of its subcommand too, and may name loggers, which are not made."""
    content = yaml.safe_load(Path(POINT).read_text()) | ran
    content |= {"ckpt_path": None, "weights_only": None, "base": str(PROJECT / "experiments/base.yaml")}
    content["trainer"] = {"logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(tmp_path / "x")}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    assert "total 0.75688 0.02848" in printed(capsys, "--config", str(tmp_path / "config.yaml"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--classes", "x"], "argument --classes: invalid int value: 'x'"),
        (["--classes"], "argument --classes: expected one argument"),
        (["--classes", "0"], "--classes is 0: give 1 or more"),
        (["--config", "nope.yaml"], "--config nope.yaml: no such file"),
        (["--ckpt_path", "nope.ckpt"], "checkpoint nope.ckpt: no such file"),
        (["--data.manifest", "README.md"], "README.md: a manifest ends in .parquet, .jsonl, .csv, not '.md'"),
        (["--data.manifest", "docs"], "docs: no such manifest"),
        (["--model.fusion_layr", "3"], "did you mean model.fusion_layer?"),
        (["--model.fusion_layer", "13"], "fusion_layer is 13, but the encoder has 12 layers"),
        ([POINT], f"unrecognized arguments: {POINT}"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["cost", *arguments])
    output = capsys.readouterr()
    assert stop.value.code == 2 and output.out == ""
    assert output.err.startswith("mbt: error: ") and line in output.err and output.err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture) -> None:
    for arguments, text in (
        (["--help"], "each with its own --help: "),
        (["cost", "--help"], "usage: mbt cost [--config FILE ...] [--classes N] [OPTION VALUE ...] Print"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and text in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------------------------------------------------------------
# From a resolved configuration, without torch
# ---------------------------------------------------------------------------------------------------------------------


@cache
def resolved() -> str:
    """The resolved configuration of an ablation point, as text."""
    experiment = Experiment(["--config", POINT], classes=13)
    return experiment.parser.dump(experiment.config, skip_none=False)


def network_of(config: dict) -> tuple[MBT, dict[str, tuple[int, ...]]]:
    """What a configuration describes, built by the real classes."""
    model, data = config["model"], config["data"]
    sound = data["spectrogram"]
    bank = getattr(spectrogram, sound["class_path"].rpartition(".")[2])(**sound["init_args"])
    names = ("window_seconds", "num_frames", "frame_size")
    clips = AudioVisualData(modalities=model["modalities"], spectrogram=bank, **{name: data[name] for name in names})
    strategy = getattr(fusion, model["fusion"]["class_path"].rpartition(".")[2])
    size = model["size"] if isinstance(model["size"], str) else EncoderSize(**model["size"])
    plain = ("fusion_layer", "patches", "share_encoder", "head", "representation_size")
    settings = {name: model[name] for name in plain}
    built = partial(strategy, **model["fusion"].get("init_args", {}))
    with torch.device("meta"):
        return MBT(clips.inputs, 13, fusion=built, size=size, **settings), clips.inputs


CROSS_CONFIG, JOINT_CONFIG = (
    {"class_path": f"mbt_lightning.{name}"} for name in ("CrossAttention", "JointSelfAttention")
)
SYMMETRIC_CONFIG = {
    "class_path": "mbt_lightning.model.fusion.Bottleneck",
    "init_args": {"num_bottlenecks": 7, "update": "symmetric"},
}
KALDI = {
    "class_path": "mbt_lightning.data.spectrogram.KaldiFbank",
    "init_args": {"sample_rate": 16000, "num_mels": 128},
}
SETTINGS: dict[str, dict] = {
    "as it is": {},
    "defaults": {"model.fusion": {"class_path": "mbt_lightning.Bottleneck"}},
    "symmetric": {"model.fusion": SYMMETRIC_CONFIG, "model.fusion_layer": 0},
    "cross": {"model.fusion": CROSS_CONFIG},
    "joint": {"model.fusion": JOINT_CONFIG},
    "cross, shared": {"model.fusion": CROSS_CONFIG, "model.share_encoder": True},
    "joint, shared": {"model.fusion": JOINT_CONFIG, "model.share_encoder": True},
    "late": {"model.fusion_layer": 3},
    "late, shared": {"model.fusion_layer": 3, "model.share_encoder": True},
    "rgb": {"model.modalities": ["rgb"]},
    "spectrogram": {"model.modalities": ["spectrogram"]},
    "passed on": {"model.modalities": ["spectrogram", "rgb"], "model.fusion_layer": 0},
    "paper": {"model.size": "b", "data.window_seconds": 8.0, "data.frame_size": 224},
    "pool": {"model.head": "mean", "model.share_encoder": True},
    "pre-logits": {"model.representation_size": 5},
    "kaldi": {"data.spectrogram": KALDI, "data.window_seconds": 0.97},
    "odd": {"model.patches": {"rgb": [3, 7, 5], "spectrogram": [9, 11]}, "data.window_seconds": 1.23},
    "tubelets": {"model.patches": {"rgb": [2, 8, 8], "spectrogram": [16, 16]}},
    "stacked": {"model.patches": {"rgb": [24, 16], "spectrogram": [16, 16]}},
    "size": {"model.size": {"dim": 20, "depth": 4, "num_heads": 2, "mlp_ratio": 2.55}},
    "small": {"model.size": "s"},
}
"""Changes to the configuration of an ablation point."""


@pytest.mark.parametrize("name", SETTINGS)
def test_a_configuration_costs_what_its_network_does(name: str) -> None:
    """To the digit: the numbers of the network, and the row that `mbt cost` prints of it."""
    config = yaml.safe_load(resolved())
    config["model"] |= {"size": {"dim": 48, "depth": 3, "num_heads": 2}, "fusion_layer": 1}
    for key, value in SETTINGS[name].items():
        part, _, setting = key.partition(".")
        config[part][setting] = value
    network, inputs = network_of(config)
    assert inputs_of(config) == inputs
    assert shape_of_settings(config, 13) == shape_of(network, inputs)
    row = itself(network, inputs)
    assert cost_of_settings(config, 13) == Cost(row.full_layers or 0, row.as_run, row.as_coded)


def test_a_strategy_of_ones_own_is_not_taken_for_a_built_in_one() -> None:
    config = yaml.safe_load(resolved())
    for path in ("my.own.Bottleneck", "mbt_lightning.model.fusion.TrainOnlyBottleneck"):
        config["model"]["fusion"]["class_path"] = path
        assert cost_of_settings(config, 13) is None


def test_arithmetic_does_without_torch() -> None:
    code = "import sys, mbt_lightning.model.authors_flops; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
