"""Which settings a score can depend on: two runs with the same ones are the same experiment."""

import copy

import pytest
import yaml

from mbt_lightning.config.settings import depth_of, flat, identity_settings, nested
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
    "data": {"manifest": "demo", "num_frames": 8, "num_workers": 2, "spec_augment": None, "synchronous": True},
}


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
        ({}, {"model__fusion__class_path": "mbt_lightning.model.fusion.Bottleneck"}),
        (
            {"model__fusion_layer": 12},
            {"model__fusion_layer": 12, "model__fusion": {"class_path": "mbt_lightning.CrossAttention"}},
        ),
        ({"model__modalities": ["rgb"]}, {"model__modalities": ["rgb"], "model__fusion_layer": 3}),
        ({"model__modalities": ["rgb"]}, {"model__modalities": ["rgb"], "data__spec_augment": {"max_time": 3}}),
        (
            {"model__modalities": ["spectrogram"]},
            {"model__modalities": ["spectrogram"], "data__num_frames": 2, "data__synchronous": False},
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
        {"data__num_frames": 2},
        {"data__manifest": "other.parquet"},
        {"model__mixup": {"class_path": "mbt_lightning.data.mixup.Mixup"}},
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
