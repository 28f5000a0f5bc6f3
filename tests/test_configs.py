"""Every experiment file: it loads through the program's own parser, builds its model, and says what it is.

A recipe must hold the paper's whole setting. It is therefore compared with a table of the paper's values, and with
itself alone: what it does not set itself would differ once it is stacked on a point of the small demonstration.
"""

from __future__ import annotations

import csv
import inspect
import re
import shlex
from pathlib import Path

import paper_settings
import pytest
import torch
from paths import PROJECT
from program import Program, stacked

import mbt_lightning.model.mbt as mbt
from mbt_lightning.cli import prepare, stats, subset
from mbt_lightning.cli.main import main
from mbt_lightning.config.merge import Layer, merge
from mbt_lightning.config.settings import BY_MODALITY, is_under
from mbt_lightning.config.yaml_files import read_yaml, with_bases
from mbt_lightning.data.augment import ColourJitter, JitteredCrop, SpecAugment
from mbt_lightning.data.spectrogram import KaldiFbank, LogMel

EXPERIMENTS = PROJECT / "experiments"
FILES = sorted(EXPERIMENTS.rglob("*.yaml"))
POINTS = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml") if path.stem != "base")
RECIPES = sorted(path.stem for path in EXPERIMENTS.glob("recipes/*.yaml") if path.stem != "paper")
INITS = sorted(path.stem for path in EXPERIMENTS.glob("init/*.yaml"))
LOGGERS = sorted(path.stem for path in EXPERIMENTS.glob("loggers/*.yaml"))


def name_of(path: Path) -> str:
    """A file as it stands in commands: experiments/late.yaml."""
    return path.relative_to(PROJECT).as_posix()


def point_file(name: str) -> str:
    return str(EXPERIMENTS / f"{name}.yaml")


def recipe_file(name: str) -> str:
    return str(EXPERIMENTS / "recipes" / f"{name}.yaml")


def content_of(recipe: str) -> dict:
    """What a recipe and the file that it builds on set."""
    paths = with_bases(Path(recipe_file(recipe)))
    return merge([Layer(str(path), read_yaml(path)) for path in paths])


@pytest.fixture(scope="module")
def program() -> Program:
    return Program()


@pytest.fixture
def hollow_blocks(monkeypatch) -> None:
    """Build the blocks, which are nearly all of a model, without memory."""
    block = mbt.Block

    def hollow(*args, **kwargs):
        with torch.device("meta"):
            return block(*args, **kwargs)

    monkeypatch.setattr(mbt, "Block", hollow)


CLASSES = {
    "audioset_mini": 527,
    "audioset_mini_released": 527,
    "audioset_500k": 527,
    "vggsound": 309,
    "epic_kitchens": 397,
    "kinetics400": 400,
    "kinetics_sounds": 36,
    "moments_in_time": 339,
    "cremad": 6,
    "ave": 28,
}


NOT_IN_THE_PAPER = ["ave", "cremad"]


def classes_of(recipe: str) -> list[str]:
    """Class names, as many as the data set has and in the form that its task wants."""
    if recipe == "epic_kitchens":
        return [f"verb:{i}" for i in range(97)] + [f"noun:{i}" for i in range(300)]
    return [f"class {i + 1:04d}" for i in range(CLASSES[recipe])]


def write_manifest(folder: Path, classes: list[str]) -> str:
    """A manifest of three clips and its class list."""
    with open(folder / "classes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["name"], *([name] for name in classes)])
    labels = f"{classes[0]}|{classes[-1]}" if ":" in classes[0] else classes[0]
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        rows = [[f"{split}.mp4", "", labels, split] for split in ("train", "val", "test")]
        csv.writer(file).writerows([["video", "audio", "labels", "split"], *rows])
    return str(folder / "manifest.csv")


# ---------------------------------------------------------------------------------------------------------------------
# What a file says of itself
# ---------------------------------------------------------------------------------------------------------------------


def header(path: Path) -> str:
    """The comment that a file starts with, without its marks."""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def commands(path: Path) -> list[list[str]]:
    """The commands of a header, as words."""
    text = header(path).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("  mbt ")]


def test_experiments_are_all_there():
    assert {"bottleneck_b4_lf8", "joint_lf8", "cross_lf8", "late", "audio_only", "video_only"} <= set(POINTS)
    assert set(RECIPES) == set(CLASSES)
    assert LOGGERS == ["tensorboard", "wandb"]
    assert INITS == ["imagenet21k", "timm", "timm_and_ast"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_header_has_a_command_that_the_parser_takes(path, program, monkeypatch):
    found = commands(path)
    assert found, f"{name_of(path)}: the header shows no command (a line of `#   mbt ...`)"
    monkeypatch.chdir(PROJECT)
    for command in [command for command in found if command[1] == "fit"]:
        assert name_of(path) in command
        program.parse(*command[2:])
    assert {"fit"} <= {command[1] for command in found} <= {"fit", "prepare", "subset", "stats"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_says_how_its_manifest_is_made(recipe):
    data = content_of(recipe)["data"]
    *tools, fit = commands(Path(recipe_file(recipe)))
    made, measured = set(), set()
    for _, tool, *words in tools:
        settings = {"prepare": prepare, "subset": subset, "stats": stats}[tool].parser().parse_args(words)
        assert settings.annotations and settings.media if tool == "prepare" else settings.manifest in made
        (measured if tool == "stats" else made).add(settings.manifest if tool == "stats" else settings.out)
    assert data["manifest"] == fit[-1] and fit[-1] in made
    transform = data["inputs"]["spectrogram"]["init_args"]["transform"]
    assert (transform["init_args"]["mean"] is None) == (fit[-1] in measured)


@pytest.mark.parametrize("recipe", NOT_IN_THE_PAPER)
def test_header_says_that_the_paper_has_no_number(recipe):
    assert "The paper has no number on this set" in " ".join(header(Path(recipe_file(recipe))).split())


@pytest.mark.parametrize("name", [*POINTS, *(f"recipes/{name}" for name in RECIPES if name not in NOT_IN_THE_PAPER)])
def test_header_names_where_the_paper_has_its_number(name):
    text = header(EXPERIMENTS / f"{name}.yaml")
    assert re.search(r"\b(Fig\.|Table) \d", text), f"{name}: the header names no figure or table of the paper"


@pytest.mark.parametrize("name", POINTS)
def test_header_of_a_point_says_that_the_small_run_is_not_the_paper(name):
    assert "does not reproduce" in header(EXPERIMENTS / f"{name}.yaml")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_text_is_tidy(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(len(line) <= 120 and line == line.rstrip() for line in lines)
    assert not re.search(r"(^|[\s:'\"])/(home|root|tmp|work|mnt|Users)/", "\n".join(lines)), "a path of one machine"


# ---------------------------------------------------------------------------------------------------------------------
# Points
# ---------------------------------------------------------------------------------------------------------------------

SEQUENTIAL = {"class_path": "Bottleneck", "num_bottlenecks": 4, "update": "sequential"}
POINT_VALUES = {
    "audio_only": {"modalities": ["spectrogram"]},
    "bottleneck_audio_first_b4_lf8": {"modalities": ["spectrogram", "rgb"], "fusion": SEQUENTIAL, "fusion_layer": 8},
    "bottleneck_b4_lf8": {"modalities": ["rgb", "spectrogram"], "fusion": SEQUENTIAL, "fusion_layer": 8},
    "bottleneck_symmetric_b4_lf8": {"fusion": SEQUENTIAL | {"update": "symmetric"}, "fusion_layer": 8},
    "cross_lf8": {"fusion": {"class_path": "CrossAttention"}, "fusion_layer": 8, "share_encoder": False},
    "early_bottleneck_b4": {"fusion": SEQUENTIAL, "fusion_layer": 0},
    "joint_lf8": {"fusion": {"class_path": "JointSelfAttention"}, "fusion_layer": 8, "share_encoder": False},
    "joint_shared_lf8": {"fusion": {"class_path": "JointSelfAttention"}, "fusion_layer": 8, "share_encoder": True},
    "late": {"modalities": ["rgb", "spectrogram"], "fusion_layer": 12},
    "video_only": {"modalities": ["rgb"]},
}
"""What each point is; of a fusion the last part of its class path and its settings."""


@pytest.fixture(scope="module")
def base_values(program) -> dict:
    return program.resolve(point_file("base"))


@pytest.mark.parametrize("name", POINTS)
def test_point_is_what_its_name_says(name, program):
    values = program.resolve(point_file(name))
    for key, expected in POINT_VALUES[name].items():
        if key == "fusion":
            assert values["model.fusion.class_path"].rsplit(".", 1)[-1] == expected["class_path"]
            for setting in expected.keys() - {"class_path"}:
                assert values[f"model.fusion.init_args.{setting}"] == expected[setting]
        else:
            assert values[f"model.{key}"] == expected


@pytest.mark.parametrize("name", POINTS)
def test_point_differs_from_the_base_in_its_idea_only(name, program, base_values):
    assert read_yaml(EXPERIMENTS / f"{name}.yaml")["base"] == "base.yaml"
    values = program.resolve(point_file(name))
    different = {key for key in values.keys() | base_values.keys() if values.get(key) != base_values.get(key)}
    unused = [f"{name}.{m}" for name in BY_MODALITY for m in MODALITIES if m not in values["model.modalities"]]
    assert not [key for key in values if is_under(key, unused)]
    assert all(re.match(LEFT_TO_THE_POINT, key) for key in different if not is_under(key, unused)), different


@pytest.mark.parametrize("name", POINTS)
def test_point_builds_on_the_embedded_data(name, program):
    model, data = program.build(point_file(name))
    wanted = POINT_VALUES[name].get("modalities", ["rgb", "spectrogram"])
    assert list(model.network.modalities) == list(data.inputs) == wanted
    assert len(model.network.layers) == 12


# ---------------------------------------------------------------------------------------------------------------------
# Recipes
# ---------------------------------------------------------------------------------------------------------------------

RGB, SPECTROGRAM = "data.inputs.rgb.init_args", "data.inputs.spectrogram.init_args"
MODALITIES = ("rgb", "spectrogram")
SGD = {"lr": 0.5, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
PAPER = {
    "trainer.max_epochs": 50,
    "trainer.precision": "32-true",
    "trainer.gradient_clip_val": 1.0,
    "trainer.accumulate_grad_batches": 1,
    "model.size": "b",
    "model.patches.rgb": [1, 16, 16],
    "model.patches.spectrogram": [16, 16],
    "model.share_encoder": False,
    "model.head.class_path": "mbt_lightning.ClsHead",
    "model.drop_path": 0.3,
    "model.position_std": 0.02,
    "model.optimizer.class_path": "torch.optim.SGD",
    **{f"model.optimizer.init_args.{key}": value for key, value in SGD.items()},
    "model.warmup_fraction": 0.05,
    "model.label_smoothing": 0.0,
    "model.mixup.class_path": "mbt_lightning.ModalityMixup",
    "model.mixup.init_args.alpha": 0.3,
    "data.media_root": None,
    "data.val_split": None,  # no epoch is chosen by the clips that are scored
    "data.test_split": "test",
    "data.window_seconds": 8.0,
    "data.synchronous": True,
    f"{RGB}.window_seconds": None,
    f"{RGB}.num_frames": 8,
    f"{RGB}.frame_size": 224,
    f"{RGB}.short_side": 256,
    f"{RGB}.augment.class_path": "mbt_lightning.JitteredCrop",
    f"{RGB}.crop.init_args.fraction": 0.875,
    f"{SPECTROGRAM}.transform.class_path": "mbt_lightning.LogMel",
    f"{SPECTROGRAM}.transform.init_args.sample_rate": 16000,
    f"{SPECTROGRAM}.transform.init_args.num_mels": 128,
    f"{SPECTROGRAM}.transform.init_args.window_seconds": 0.025,
    f"{SPECTROGRAM}.transform.init_args.hop_seconds": 0.01,
    f"{SPECTROGRAM}.augment.init_args.num_time_masks": 1,
    f"{SPECTROGRAM}.augment.init_args.max_time": 192,
    f"{SPECTROGRAM}.augment.init_args.num_freq_masks": 1,
    f"{SPECTROGRAM}.augment.init_args.max_freq": 48,
    "data.num_test_views": 4,
    "data.batch_size": 64,
    "data.cache": False,
}
"""The paper's setting (section 4.2; the clipping and the ranges of the crop are the released configuration's)."""

SCORED_ON_VAL = {"data.test_split": "val"}
"""Where the official test list has no public labels."""
DIFFERENT = {
    "audioset_mini_released": {
        f"{RGB}.num_frames": 32,
        f"{RGB}.window_seconds": 2.56,  # 32 frames at stride 2 of 25 fps
        "model.patches.rgb": [2, 16, 16],
        "model.label_smoothing": 0.3,
        "model.mixup.class_path": "mbt_lightning.Mixup",
        "model.mixup.init_args.alpha": 0.5,
        f"{SPECTROGRAM}.augment.init_args.num_time_masks": 4,
        f"{SPECTROGRAM}.augment.init_args.max_time": 48,
    },
    "epic_kitchens": SCORED_ON_VAL
    | {f"{RGB}.num_frames": 32, f"{RGB}.window_seconds": 1.28, "data.window_seconds": 2.56},
    "kinetics400": SCORED_ON_VAL,
    "moments_in_time": SCORED_ON_VAL | {"data.window_seconds": 3.0, "data.num_test_views": 1},
    "cremad": {"data.val_split": "val", "data.window_seconds": 2.56},
    "ave": {"data.val_split": "val"},
}
TASKS = dict.fromkeys(RECIPES, "Multiclass") | {"epic_kitchens": "Multihead"}
TASKS |= {name: "Multilabel" for name in RECIPES if name.startswith("audioset")}

LEFT_TO_THE_POINT = r"(model\.(fusion|fusion_layer|modalities|share_encoder)(\.|$)|experiment$|base$)"


@pytest.mark.parametrize("point", ["bottleneck_b4_lf8", "audio_only"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_holds_the_papers_values_and_none_of_the_demo(recipe, point, program):
    values = program.resolve(point_file(point), recipe_file(recipe))
    wanted = PAPER | DIFFERENT.get(recipe, {}) | {"model.task.class_path": f"mbt_lightning.{TASKS[recipe]}"}
    unused = [f"{name}.{m}" for name in BY_MODALITY for m in MODALITIES if m not in values["model.modalities"]]
    wanted = {name: value for name, value in wanted.items() if not is_under(name, unused)}
    assert not [name for name in values if is_under(name, unused)]
    assert {key: values.get(key, "is not set") for key in wanted} == wanted
    assert values["data.manifest"] == f"data/{recipe.removesuffix('_released')}.parquet"
    assert values["experiment"] == f"{point}+{recipe}"

    alone = program.resolve(recipe_file(recipe))
    different = {key for key in values.keys() | alone.keys() if values.get(key) != alone.get(key)}
    left_over = {key for key in different if not re.match(LEFT_TO_THE_POINT, key) and not is_under(key, unused)}
    assert not left_over, f"not set by the recipe itself, so they come from the demonstration: {sorted(left_over)}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_leaves_the_ablation_to_the_point(recipe):
    content = content_of(recipe)
    assert content.keys() == {"base", "trainer", "model", "data"} and content["base"] == "paper.yaml"
    own = {"fusion"} if recipe == "audioset_mini_released" else set()
    assert content["model"].keys() & {"fusion", "fusion_layer", "modalities", "share_encoder"} == own


def test_recipes_repeat_the_defaults_of_the_classes_they_write_out():
    """Written out, so that nothing of a point's own setting shines through; they must not drift from the classes."""
    for recipe in RECIPES:
        inputs = content_of(recipe)["data"]["inputs"]
        rgb, spectrogram = (inputs[m]["init_args"] for m in ("rgb", "spectrogram"))
        crop = dict(rgb["augment"]["init_args"])
        check_defaults(ColourJitter, crop.pop("colour"))
        check_defaults(JitteredCrop, crop, without={"colour"})
        log_mel = dict(spectrogram["transform"]["init_args"])
        scale = (log_mel.pop("mean"), log_mel.pop("std"))
        # As measured on the set by `mbt stats`, but where it is the authors' file that is repeated.
        assert scale == ((-1.7, 3.8) if recipe == "audioset_mini_released" else (None, None))
        check_defaults(LogMel, log_mel, without={"mean", "std", "offset", "min_hz", "max_hz"})
        if recipe != "audioset_mini_released":
            check_defaults(SpecAugment, spectrogram["augment"]["init_args"])


def check_defaults(cls: type, settings: dict, without: set[str] = frozenset()) -> None:
    defaults = {k: p.default for k, p in inspect.signature(cls).parameters.items() if k not in without}
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    assert plain == defaults, cls.__name__


TOKENS = dict.fromkeys(RECIPES, (8 * 14 * 14, 50 * 8))
TOKENS |= {
    "audioset_mini_released": (16 * 14 * 14, 50 * 8),
    "epic_kitchens": (32 * 14 * 14, 16 * 8),
    "moments_in_time": (8 * 14 * 14, 18 * 8),
    "cremad": (8 * 14 * 14, 16 * 8),
}
"""Tokens of frames and of audio, without CLS. The paper: 1,568 and 400."""


@pytest.mark.parametrize("point", ["bottleneck_b4_lf8", "audio_only"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_builds_its_model(recipe, point, program, tmp_path, hollow_blocks):
    manifest = write_manifest(tmp_path, classes_of(recipe))
    model, data = program.build(point_file(point), recipe_file(recipe), manifest=manifest)
    network, tokens = model.network, dict(zip(("rgb", "spectrogram"), TOKENS[recipe], strict=True))
    assert {m: network.tokens[m].positions.shape[1] - 1 for m in network.modalities} == {
        m: tokens[m] for m in network.modalities
    }
    assert network.head.linear.weight.shape == (CLASSES[recipe], 768)
    assert type(model.task).__name__ == TASKS[recipe]
    assert data.has_val == (recipe in NOT_IN_THE_PAPER)  # which have validation clips of their own
    blocks = sum(p.numel() for p in network.layers.parameters())
    assert blocks == 12 * 7_087_872 * len(network.modalities)


def test_audioset_recipe_is_as_large_as_the_authors_model(program, tmp_path, hollow_blocks):
    """Their count at B = 4 (5 tokens): 173.22 million parameters, and 86.36 for sound alone."""
    manifest = write_manifest(tmp_path, classes_of("audioset_mini"))
    for point, millions in {"bottleneck_b4_lf8": 173.22, "audio_only": 86.36}.items():
        model, _ = program.build(point_file(point), recipe_file("audioset_mini"), manifest=manifest)
        assert sum(p.numel() for p in model.network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_released_recipe_brings_its_five_tokens(program):
    for point in ("bottleneck_symmetric_b4_lf8", "bottleneck_b4_lf8"):
        values = program.resolve(point_file(point), recipe_file("audioset_mini_released"))
        assert values["model.fusion.init_args.num_bottlenecks"] == 5
        assert values["model.fusion.init_args.update"] == "symmetric"
        assert values["model.fusion_layer"] == 8


# ---------------------------------------------------------------------------------------------------------------------
# Loggers
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("logger", LOGGERS)
@pytest.mark.parametrize("point", ["bottleneck_b4_lf8", "audio_only"])
def test_logger_sets_the_logger_and_nothing_else(logger, point, program):
    path = EXPERIMENTS / "loggers" / f"{logger}.yaml"
    content = read_yaml(path)
    assert content.keys() == {"trainer"} and content["trainer"].keys() == {"logger"}
    values = program.resolve(point_file(point), str(path))
    alone = program.resolve(point_file(point))
    different = {key for key in values.keys() | alone.keys() if values.get(key) != alone.get(key)}
    assert all(re.match(r"(trainer\.logger|experiment)(\.|$)", key) for key in different)
    # What the program replaces by the run's folder:
    assert values["trainer.logger.init_args.save_dir"] in (None, ".")


def test_wandb_takes_up_the_run_it_is_given(program):
    """LightningCLI would hand WandbLogger's own `resume="allow"` on as None."""
    path = EXPERIMENTS / "loggers" / "wandb.yaml"
    values = program.resolve(point_file("late"), str(path))
    assert values["trainer.logger.init_args.resume"] == "allow"
    assert values["trainer.logger.init_args.log_model"] is False


# ---------------------------------------------------------------------------------------------------------------------
# Starting weights
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("point", ["bottleneck_b4_lf8", "audio_only"])
def test_init_sets_the_starting_weights_and_what_belongs_to_them(init, point, program):
    path = EXPERIMENTS / "init" / f"{init}.yaml"
    values = program.resolve(point_file(point), recipe_file("vggsound"), str(path))
    alone = program.resolve(point_file(point), recipe_file("vggsound"))
    different = {key for key in values.keys() | alone.keys() if values.get(key) != alone.get(key)}
    allowed = ["model.init", "experiment", *([f"{SPECTROGRAM}.transform"] if init == "timm_and_ast" else [])]
    assert different and all(is_under(key, allowed) for key in different)


def test_asts_weights_come_with_their_own_features(program):
    values = program.resolve(point_file("late"), recipe_file("vggsound"), str(EXPERIMENTS / "init/timm_and_ast.yaml"))
    transform = f"{SPECTROGRAM}.transform"
    found = {key: value for key, value in values.items() if is_under(key, [transform])}
    defaults = inspect.signature(KaldiFbank).parameters
    assert found.pop(f"{transform}.class_path") == "mbt_lightning.KaldiFbank"
    assert found == {f"{transform}.init_args.{name}": p.default for name, p in defaults.items()}


@pytest.mark.parametrize("recipe", ["paper", *NOT_IN_THE_PAPER])
def test_recipes_name_the_papers_starting_weights(recipe):
    assert "--config experiments/init/imagenet21k.yaml" in header(EXPERIMENTS / "recipes" / f"{recipe}.yaml")


def test_the_papers_settings_of_the_package_are_those_of_the_recipes(program):
    """Without the folder of experiments the table knows them from here; run tests/helpers/paper_settings.py."""
    assert paper_settings.FILE.read_text() == paper_settings.as_text(paper_settings.paper_settings(program))


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong ends with exit code 2 and one line
# ---------------------------------------------------------------------------------------------------------------------

WRONG = {
    "key twice": ("model:\n  drop_path: 0.1\n  drop_path: 0.2\n", "'drop_path' is there twice"),
    "section twice": (
        "data:\n  cache: true\nmodel:\n  head: cls\ndata:\n  cache: false\n",
        "'data' is there twice",
    ),
    "key twice in braces": ("model:\n  size: {dim: 8, dim: 16}\n", "'dim' is there twice"),
    "unknown section": ("modle:\n  head: cls\n", "modle"),
    "unknown key": ("model:\n  fusion_layers: 3\n", "fusion_layers"),
    "unknown setting of a class": (
        "model:\n  fusion: {class_path: Bottleneck, init_args: {num_tokens: 4}}\n",
        "num_tokens",
    ),
    "no such base": ("base: bass.yaml\n", "bass.yaml"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file_ends_with_exit_code_2(case, tmp_path, capsys):
    content, part = WRONG[case]
    path = tmp_path / "wrong.yaml"
    path.write_text(content, encoding="utf-8")
    runs = tmp_path / "runs"
    with pytest.raises(SystemExit) as end:
        main(["fit", *stacked(point_file("late"), str(path)), "--runs", str(runs)])
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("mbt: error: ") and part in lines[0]
    assert str(tmp_path) in lines[0], "the message names the file"
    assert not runs.exists(), "a run that cannot be leaves no folder"


def test_key_twice_in_a_base_is_found_too(tmp_path, capsys):
    (tmp_path / "base.yaml").write_text("model:\n  head: cls\n  head: mean\n", encoding="utf-8")
    (tmp_path / "point.yaml").write_text("base: base.yaml\n", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["fit", *stacked(str(tmp_path / "point.yaml"))])
    assert end.value.code == 2
    assert "base.yaml:3" in capsys.readouterr().err
