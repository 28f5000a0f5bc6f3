"""Every class that configurations may name has a short public path, and is found by any path that it ever had."""

import pytest
import torch
from jsonargparse._util import get_import_path
from lightning.pytorch import loggers

import mbt_lightning
from mbt_lightning.config.class_paths import (
    arguments_of,
    found_class,
    import_public_classes,
    is_same_class,
    public_class_paths,
    public_classes,
)
from mbt_lightning.data.augment import RgbAugment
from mbt_lightning.data.mixup import Mixup
from mbt_lightning.data.modalities import Modality
from mbt_lightning.data.samplers import ClipSampler
from mbt_lightning.data.spectrogram import MelTransform
from mbt_lightning.model.fusion import Fusion
from mbt_lightning.model.heads import Head
from mbt_lightning.model.pretrained.init import Init
from mbt_lightning.training.tasks import Task


def subclasses(base: type) -> set[type]:
    return {c for child in base.__subclasses__() for c in (child, *subclasses(child))}


@pytest.mark.parametrize("name", public_classes())
def test_a_public_class_is_dumped_by_its_short_path(name: str) -> None:
    found = getattr(mbt_lightning, name)
    assert found.__name__ == name
    assert get_import_path(found) == f"mbt_lightning.{name}"
    old = f"{found.__module__}.{name}"
    assert public_class_paths({"x": [{"class_path": old}]}) == {"x": [{"class_path": f"mbt_lightning.{name}"}]}


@pytest.mark.parametrize(
    "base", [ClipSampler, Fusion, Head, Init, MelTransform, Mixup, Modality, RgbAugment, Task], ids=lambda c: c.__name__
)
def test_no_class_of_the_house_is_missing(base: type) -> None:
    import_public_classes()
    ours = {c for c in subclasses(base) if c.__module__.startswith("mbt_lightning.")}
    inner = {"ColumnModality", "EncoderInit", "FileInit", "ModelInit", "PoolHead", "RandomCrop"}
    assert {c.__name__ for c in ours} - inner <= set(public_classes())


def test_other_names_stay() -> None:
    config = {
        "a": "Mixup",
        "b": "torch.optim.SGD",
        "c": ["mbt_lightning.nothing.Unknown", 3],
        "mbt_lightning.data.Mixup": 1,
    }
    assert public_class_paths(config) == config


def test_the_same_class_by_several_names() -> None:
    names = ("Mixup", "mbt_lightning.Mixup", "mbt_lightning.data.mixup.Mixup")
    assert all(is_same_class(one, other) for one in names for other in names)
    assert not is_same_class("Mixup", "ModalityMixup")
    assert not is_same_class("mine.Mixup", "mbt_lightning.Mixup")


def test_bare_names_are_found_among_kin() -> None:
    assert found_class("AdamW", kin="torch.optim.SGD") is torch.optim.AdamW
    assert found_class("TrainOnlyBottleneck", kin="Bottleneck").__name__ == "TrainOnlyBottleneck"
    assert found_class("TensorBoardLogger", kin="lightning.pytorch.loggers.CSVLogger") is loggers.TensorBoardLogger
    assert [found_class(name) for name in ("Nowhere", "no.where.Nowhere", "AdamW", ".", "demo")] == [None] * 5


def test_arguments_follow_keywords_to_where_they_are_taken() -> None:
    assert {"num_bottlenecks", "update"} <= arguments_of(found_class("Bottleneck"))
    assert {"path", "load_head", "inflate"} <= arguments_of(found_class("Checkpoint"))
    assert "lr" in arguments_of(torch.optim.AdamW) and arguments_of(None) == set()
