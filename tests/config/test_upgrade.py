"""Configurations of version 0.1 mean today what they meant then."""

import json

import pytest
import torch
import yaml
from paths import PROJECT
from program import Program, stacked
from v0_1 import EXPERIMENTS, FINGERPRINTS, FOLDER, RECIPES, points

from mbt_lightning.config.merge import undotted
from mbt_lightning.config.settings import fingerprint, flat, identity_settings, nested, without_unused
from mbt_lightning.config.upgrade import MOVED, new_name, old_names, upgrade
from mbt_lightning.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def program() -> Program:
    return Program()


def compare(old: dict, new: dict) -> None:
    """Every setting of a stored configuration is in the new one, and no other."""
    expected = without_unused(upgrade(nested(old)))
    ours, theirs = flat(expected), flat(new)
    names = (ours.keys() | theirs.keys()) - {"base"}
    assert {name: ours.get(name, "-") for name in names} == {name: theirs.get(name, "-") for name in names}
    assert fingerprint(expected) == fingerprint(new)


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_an_experiment_is_what_it_was(path: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    compare(EXPERIMENTS[path], program.plain(*stacked(path)))


@pytest.mark.parametrize("path", RECIPES)
def test_a_recipe_is_what_it_was(path: str, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    compare(RECIPES[path]["flat"], program.plain(*stacked("experiments/bottleneck_b4_lf8.yaml", path)))


def test_the_same_experiments_are_equal_and_different_ones_differ() -> None:
    """Over everything that is stored: the fingerprints then and now make the same groups."""
    stored = [(FINGERPRINTS["experiments"][path], settings) for path, settings in EXPERIMENTS.items()]
    stored += [(FINGERPRINTS["recipes"][path], recipe["flat"]) for path, recipe in RECIPES.items()]
    for sweep, known in FINGERPRINTS["sweeps"].items():
        stored += [(point["fingerprint"], settings) for point, settings in zip(known, points(sweep), strict=True)]
    pairs = {(old, fingerprint(upgrade(nested(settings)))) for old, settings in stored}
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs}) > 200


def test_a_configuration_is_upgraded_once() -> None:
    old = yaml.safe_load((FOLDER / "config.yaml").read_text())
    before = yaml.safe_dump(old)
    new = upgrade(old)
    assert yaml.safe_dump(old) == before and upgrade(new) == new
    assert old_names(old) and not old_names(new)
    assert new["model"]["head"] == {
        "class_path": "mbt_lightning.ClsHead",
        "init_args": {"representation_size": None},
    }
    rgb = new["data"]["inputs"]["rgb"]
    assert rgb["class_path"] == "mbt_lightning.Rgb"
    assert rgb["init_args"]["num_frames"] == 4 and rgb["init_args"]["window_seconds"] is None
    assert rgb["init_args"]["augment"]["class_path"] == "mbt_lightning.RandomResizedCrop"
    spectrogram = new["data"]["inputs"]["spectrogram"]
    assert spectrogram["init_args"]["augment"] is None
    assert spectrogram["init_args"]["transform"]["class_path"] == "mbt_lightning.LogMel"
    assert new["model"]["task"] == {"class_path": "mbt_lightning.Multilabel"}
    assert identity_settings(new)["data.sampler.class_path"] == "mbt_lightning.Shuffled"


@pytest.mark.parametrize(("name", "head"), [("mean", "MeanPoolHead"), ("max", "MaxPoolHead"), ("sum", "SumPoolHead")])
def test_heads_of_one_pool_have_no_representation(name: str, head: str) -> None:
    model = upgrade({"model": {"head": name, "representation_size": None}})["model"]
    assert model == {"head": {"class_path": f"mbt_lightning.{head}"}}


def test_a_part_of_a_file_is_upgraded_alone() -> None:
    new = upgrade(undotted({"data.spectrogram.init_args.num_mels": 64, "data": {"num_frames": 4, "cache": True}}))
    assert new == {
        "data": {
            "cache": True,
            "inputs": {
                "rgb": {"class_path": "mbt_lightning.Rgb", "init_args": {"num_frames": 4}},
                "spectrogram": {
                    "class_path": "mbt_lightning.Spectrogram",
                    "init_args": {"transform": {"init_args": {"num_mels": 64}}},
                },
            },
        }
    }
    assert upgrade({}) == {} and upgrade({"model": None}) == {"model": None}


def test_names_of_settings_and_of_their_parts() -> None:
    assert new_name("data.num_frames") == "data.inputs.rgb.init_args.num_frames"
    transform = "data.inputs.spectrogram.init_args.transform"
    assert new_name("data.spectrogram.init_args.num_mels") == f"{transform}.init_args.num_mels"
    assert new_name("data.num_frames_more") == "data.num_frames_more"
    assert all(new_name(new) == new for new in MOVED.values())


@pytest.mark.parametrize("file", ["last.ckpt", "model.safetensors"])
def test_a_model_of_version_0_1_gives_the_same_logits(file: str) -> None:
    stored = json.loads((FOLDER / "predictions.json").read_text())
    model = load_checkpoint(FOLDER / file)
    torch.manual_seed(0)
    inputs = {m: torch.randn(2, *model.spec.inputs[m]) for m in ("rgb", "spectrogram")}
    assert {m: float(x.double().sum()) for m, x in inputs.items()} == pytest.approx(stored["sum_of_inputs"])
    with torch.no_grad():
        logits = model(inputs)
    for m, expected in stored["logits"].items():
        torch.testing.assert_close(logits[m], torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("file", ["config.yaml", "experiment.yaml"])
def test_a_file_of_version_0_1_is_an_experiment(file: str, program: Program) -> None:
    settings = program.plain("--config", str(FOLDER / file))
    rgb = settings["data"]["inputs"]["rgb"]["init_args"]
    assert (rgb["num_frames"], rgb["frame_size"]) == (4, 16)
    assert settings["model"]["head"]["class_path"] == "mbt_lightning.ClsHead"
    if file == "config.yaml":
        # Equal values, not equal text: a union's types, hence 8 or 8.0, come in the order that this process saw first.
        assert identity_settings(settings) == identity_settings(upgrade(yaml.safe_load((FOLDER / file).read_text())))
