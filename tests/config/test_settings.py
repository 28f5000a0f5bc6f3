"""Which settings a score can depend on: two runs with the same ones are the same experiment."""

import copy

import pytest
import yaml
from paths import EXPERIMENTS
from program import Program

from mbt_lightning.config.settings import (
    OF_SEVERAL_MODALITIES,
    RUNTIME_ONLY,
    depth_of,
    fingerprint,
    flat,
    identity_settings,
    is_late,
    is_under,
    may_be_absent,
    nested,
    without_unused,
)
from mbt_lightning.model.mbt import MBT

CONFIG = {
    "seed_everything": 0,
    "experiment": "x",
    "runs": "runs",
    "trainer": {"max_epochs": 8, "devices": "auto", "logger": {"class_path": "WandbLogger", "init_args": {}}},
    "model": {
        "modalities": ["rgb", "spectrogram"],
        "fusion": {"class_path": "mbt_lightning.Bottleneck", "init_args": {"num_bottlenecks": 4}},
        "fusion_layer": 8,
        "share_encoder": False,
        "size": "b",
        "patches": {"rgb": [1, 16, 16], "spectrogram": [16, 16]},
        "mixup": None,
    },
    "data": {
        "manifest": "demo",
        "inputs": {
            "rgb": {"class_path": "mbt_lightning.Rgb", "init_args": {"num_frames": 8}},
            "spectrogram": {"class_path": "mbt_lightning.Spectrogram", "init_args": {"augment": None}},
        },
        "num_workers": 2,
        "synchronous": True,
    },
}

RGB, SPECTROGRAM = "data__inputs__rgb__init_args", "data__inputs__spectrogram__init_args"


def changed(**values) -> dict:
    """The configuration with other values; `__` stands for a dot."""
    return nested(flat(copy.deepcopy(CONFIG)) | {name.replace("__", "."): value for name, value in values.items()})


def test_flat_and_nested_are_inverse() -> None:
    assert nested(flat(CONFIG)) == CONFIG
    assert flat(CONFIG)["model.fusion.init_args.num_bottlenecks"] == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"trainer__devices": 8, "runs": "elsewhere", "data__num_workers": 0, "experiment": "y"}),
        (
            {"model__fusion_layer": 12},
            {"model__fusion_layer": 12, "model__fusion": {"class_path": "mbt_lightning.CrossAttention"}},
        ),
        ({"model__modalities": ["rgb"]}, {"model__modalities": ["rgb"], "model__fusion_layer": 3}),
        ({"model__modalities": ["rgb"]}, {"model__modalities": ["rgb"], f"{SPECTROGRAM}__augment": {"max_time": 3}}),
        (
            {"model__modalities": ["spectrogram"]},
            {"model__modalities": ["spectrogram"], f"{RGB}__num_frames": 2, "data__synchronous": False},
        ),
    ],
)
def test_the_same_experiment(one, other) -> None:
    assert identity_settings(changed(**one)) == identity_settings(changed(**other))


@pytest.mark.parametrize(
    "other",
    [
        {"seed_everything": 1},
        {"model__fusion_layer": 7},
        {"model__fusion__init_args__num_bottlenecks": 5},
        {"model__fusion__class_path": "elsewhere.Bottleneck"},
        {"model__modalities": ["rgb"]},
        {f"{RGB}__num_frames": 2},
        {f"{SPECTROGRAM}__augment": {"max_time": 3}},
        {"data__manifest": "other.parquet"},
        {"model__mixup": {"class_path": "mbt_lightning.Mixup"}},
        {"trainer__max_epochs": 9},
    ],
)
def test_another_experiment(other) -> None:
    assert identity_settings(changed(**other)) != identity_settings(CONFIG)


def test_depth_is_that_of_the_model() -> None:
    inputs = {"rgb": (3, 1, 16, 16), "spectrogram": (1, 16, 16)}
    for size in ("ti", "s"):
        config = nested(flat(CONFIG) | {"model.size": size})
        assert depth_of(config) == len(MBT(inputs, 2, size=size, fusion_layer=0).layers)
    assert depth_of(nested(flat(CONFIG) | {"model.size": {"dim": 8, "depth": 3, "num_heads": 2}})) == 3


def test_late_fusion_leaves_no_strategy() -> None:
    late = identity_settings(changed(model__fusion_layer=12))
    assert not [name for name in late if name.startswith("model.fusion.")]
    assert yaml.safe_dump(late)


def another(value):
    """Another value of a setting, whatever it is."""
    if isinstance(value, bool) or value is None:
        return not value
    return (
        [*value, 1]
        if isinstance(value, list)
        else {"new": 1}
        if isinstance(value, dict)
        else value * 2 + type(value)(3)
    )


def test_another_value_of_any_setting_is_another_experiment() -> None:
    """All settings of every experiment, but those that are named as without effect on a score."""
    program = Program()
    for file in sorted(EXPERIMENTS.glob("*.yaml")) + sorted((EXPERIMENTS / "recipes").glob("*.yaml")):
        settings = program.resolve(str(file))
        config = nested(settings)
        same = fingerprint(config)
        without = list(RUNTIME_ONLY)
        if len(config["model"]["modalities"]) == 1:
            without += OF_SEVERAL_MODALITIES
        elif is_late(config):
            without.append("model.fusion")
        assert len(settings) > 100
        for name, value in settings.items():
            other = "ti" if value == "b" else another(value)  # an encoder's size is one of a few
            is_another = fingerprint(nested(settings | {name: other})) != same
            assert is_another != is_under(name, without), (file.name, name)


def test_a_third_modality_is_told_by_its_settings() -> None:
    """Nobody has listed them."""
    modalities = {"model__modalities": ["rgb", "motion"], "model__patches__motion": [1, 8, 8]}
    motion = {"class_path": "mine.Motion", "init_args": {"num_frames": 8}}
    one = changed(**modalities, data__inputs__motion=motion)
    assert identity_settings(one)["data.inputs.motion.init_args.num_frames"] == 8
    for name, value in (("init_args__num_frames", 16), ("class_path", "mine.Flow")):
        other = nested(flat(one) | {f"data.inputs.motion.{name.replace('__', '.')}": value})
        assert fingerprint(other) != fingerprint(one)
    assert fingerprint(nested(flat(one) | {"model.patches.motion": [2, 8, 8]})) != fingerprint(one)


def test_what_is_not_used_is_dropped() -> None:
    one = without_unused(changed(model__modalities=["spectrogram"]))
    assert one["data"]["inputs"].keys() == one["model"]["patches"].keys() == {"spectrogram"}
    assert CONFIG["data"]["inputs"].keys() == {"rgb", "spectrogram"}
    assert without_unused(CONFIG) == CONFIG


def test_settings_that_some_runs_do_not_have() -> None:
    for name in (
        "data.inputs.rgb.init_args.num_frames",
        "model.patches.x",
        "model.fusion.class_path",
        "data.synchronous",
    ):
        assert may_be_absent(name)
    assert not may_be_absent("model.size") and not may_be_absent("data.inputs_of_mine")
