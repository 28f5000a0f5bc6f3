"""The paper's numbers belong to runs in the paper's setting only: every deviation is refused."""

import copy

import pytest
from made_runs import CROSS, JOINT, MINI, bottleneck, paper_setting
from paper_settings import FILE, as_text, paper_settings
from program import Program

from mbt_lightning.table import paper
from mbt_lightning.table.paper import find, numbers, unmet

RGB, SPECTROGRAM = "data__inputs__rgb__init_args__", "data__inputs__spectrogram__init_args__"


def mixup(kind: str = "ModalityMixup", alpha: float = 0.3) -> dict:
    return {"class_path": f"mbt_lightning.{kind}", "init_args": {"alpha": alpha}}


def scores(config: dict, data: dict = MINI, metric: str = "mAP", swept=()) -> tuple | None:
    number = find(config, data, metric, swept)
    return (number.score, number.source) if number else None


def test_the_papers_best_setting() -> None:
    assert unmet(paper_setting(), MINI) == []
    assert scores(paper_setting()) == (43.9, "Table 1")
    assert scores(paper_setting(model__fusion=bottleneck(5, "symmetric"))) == (43.9, "Table 1")  # as coded
    assert scores(paper_setting(model__modalities=["rgb"])) == (27.7, "Table 1")
    assert scores(paper_setting(model__modalities=["spectrogram"])) == (31.3, "Table 1")
    assert scores(paper_setting(model__fusion_layer=12)) == (41.8, "Table 9")


def test_the_study_decides_between_several_numbers() -> None:
    assert scores(paper_setting(), swept={"update"}) == (43.66, "Table 4")
    assert scores(paper_setting(), swept={"data.window_seconds"}) == (42.37, "Table 6")
    assert scores(paper_setting(), swept={"data.synchronous"}) == (42.31, "Fig. 8")
    assert scores(paper_setting(), swept={"model.size"}) == (43.3, "Table 5")
    assert scores(paper_setting(model__mixup=mixup("Mixup"))) == (42.6, "text, mixup")
    for m, score in {"rgb": 25.43, "spectrogram": 30.55}.items():
        assert scores(paper_setting(model__modalities=[m]), swept={"data.window_seconds"}) == (score, "Table 6")


def test_figure_3() -> None:
    four = {"data__window_seconds": 4.0}
    for layer, ours, theirs in ((0, 40.76, 38.49), (8, 42.44, 41.16), (10, 41.82, 41.87)):
        chosen = {"model__fusion_layer": layer, **four}
        assert scores(paper_setting(**chosen), swept={"model.fusion_layer"}) == (ours, "Fig. 3")
        assert scores(paper_setting(model__fusion=CROSS, **chosen), swept={"model.fusion_layer"}) == (theirs, "Fig. 3")
    assert scores(paper_setting(model__fusion_layer=12, **four)) == (40.6, "Fig. 3")
    assert scores(paper_setting(model__fusion=JOINT, **four)) is None
    assert scores(paper_setting(model__fusion_layer=6)) is None, "Fig. 3 is of 4 s, not of 8 s"
    assert scores(paper_setting(model__fusion_layer=7, **four)) is None


def test_sequential_updates_are_distinguished_by_the_order_of_the_modalities() -> None:
    for order, score in ((["rgb", "spectrogram"], 43.42), (["spectrogram", "rgb"], 43.23)):
        chosen = paper_setting(model__fusion=bottleneck(4, "sequential"), model__modalities=order)
        assert scores(chosen) == (score, "Table 4")


def test_sizes_start_from_their_own_weights() -> None:
    path = "model__init__init_args__path"
    for size, score in {"s": 38.2, "l": 42.2}.items():
        chosen = {"model__size": size, path: f"w/ViT-{size.upper()}_16.npz"}
        assert scores(paper_setting(**chosen)) == (score, "Table 5")
        assert scores(paper_setting(model__size=size)) is None
    as_numbers = {"dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0}
    assert scores(paper_setting(model__size=as_numbers)) == (43.9, "Table 1")
    assert scores(paper_setting(model__size=as_numbers | {"num_heads": 8})) is None


BROKEN = {
    "epochs": ({"trainer__max_epochs": 49}, "trainer.max_epochs 49, not 50"),
    "steps": ({"trainer__max_steps": 100}, "trainer.max_steps 100, not -1"),
    "a part of the batches": ({"trainer__limit_train_batches": 0.5}, "trainer.limit_train_batches 0.5, not none"),
    "one batch": ({"trainer__limit_test_batches": 1}, "trainer.limit_test_batches 1, not none"),
    "a part of validation": ({"trainer__limit_val_batches": 0.1}, "trainer.limit_val_batches 0.1, not none"),
    "over and over": ({"trainer__overfit_batches": 4}, "trainer.overfit_batches 4, not 0"),
    "time": ({"trainer__max_time": "00:01:00:00"}, "trainer.max_time 00:01:00:00, not none"),
    "a trial run": ({"trainer__fast_dev_run": True}, "trainer.fast_dev_run yes, not no"),
    "scored on another split": ({"data__test_split": "val"}, "data.test_split val, not test"),
    "chosen by what is scored": ({"data__val_split": "test"}, "data.val_split test: the epoch is chosen by"),
    "balanced": ({"data__sampler__class_path": "mbt_lightning.ClassBalanced"}, "data.sampler.class_path"),
    "other crops": (
        {f"{RGB}augment": {"class_path": "mbt_lightning.RandomResizedCrop"}},
        "data.inputs.rgb.init_args.augment.class_path mbt_lightning.RandomResizedCrop, not mbt_lightning.JitteredCrop",
    ),
    "no rate": ({"model__optimizer__init_args__lr": None}, "model.optimizer.init_args.lr none, not 0.5"),
    "accumulation": ({"trainer__accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches 2, not 1"),
    "batch": ({"data__batch_size": 32}, "data.batch_size 32, not 64"),
    "frames": ({f"{RGB}num_frames": 32}, "data.inputs.rgb.init_args.num_frames 32, not 8"),
    "window of frames": ({f"{RGB}window_seconds": 2.56}, "data.inputs.rgb.init_args.window_seconds 2.56, not none"),
    "frame size": ({f"{RGB}frame_size": 112}, "data.inputs.rgb.init_args.frame_size 112, not 224"),
    "patches": ({"model__patches__rgb": [2, 16, 16]}, "model.patches.rgb 2, 16, 16, not 1, 16, 16"),
    "mel bins": (
        {f"{SPECTROGRAM}transform__init_args__num_mels": 64},
        "data.inputs.spectrogram.init_args.transform.init_args.num_mels 64, not 128",
    ),
    "no masks": ({f"{SPECTROGRAM}augment": None}, "data.inputs.spectrogram.init_args.augment none"),
    "head": ({"model__head": {"class_path": "mbt_lightning.MeanPoolHead"}}, "model.head.class_path"),
    "pre-logits": ({"model__head__init_args__representation_size": 768}, "model.head.init_args.representation_size"),
    "stochastic depth": ({"model__drop_path": 0.0}, "model.drop_path 0, not 0.3"),
    "smoothing": ({"model__label_smoothing": 0.3}, "model.label_smoothing 0.3, not 0"),
    "warm-up": ({"model__warmup_fraction": 0.1}, "model.warmup_fraction 0.1, not 0.05"),
    "mixup": ({"model__mixup": mixup(alpha=0.5)}, "model.mixup.init_args.alpha 0.5, not 0.3"),
    "no mixup": ({"model__mixup": None}, "model.mixup none"),
    "another mixup": ({"model__mixup__class_path": "my.Mixup"}, "model.mixup.class_path my.Mixup"),
    "views": ({"data__num_test_views": 1}, "data.num_test_views 1, not 4"),
    "mean of probabilities": ({"model__average_views": "probabilities"}, "model.average_views probabilities"),
    "optimizer": ({"model__optimizer__class_path": "torch.optim.AdamW"}, "model.optimizer.class_path"),
    "one encoder": ({"model__share_encoder": True}, "model.share_encoder yes, not no"),
    "from scratch": ({"model__init": None}, "starting weights none, not ViT-B_16"),
    "fine-tuned weights": (
        {"model__init__init_args__path": "imagenet21k+imagenet2012/ViT-B_16.npz"},
        "starting weights imagenet21k+imagenet2012/ViT-B_16.npz, not",
    ),
    "other weights": (
        {"model__init": {"class_path": "TimmViT", "init_args": {"name": "vit_base_patch16_224.dino"}}},
        "model.init.class_path TimmViT",
    ),
    "a third modality": (
        {"model__modalities": ["rgb", "spectrogram", "flow"], "data__inputs__flow": {"class_path": "my.Flow"}},
        "data.inputs.flow.class_path my.Flow",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_condition_breaks_it(name: str) -> None:
    settings, reason = BROKEN[name]
    config = paper_setting(**settings)
    assert any(line.startswith(reason) for line in unmet(config, MINI)), unmet(config, MINI)
    assert scores(config) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"model__fusion": bottleneck(36, "symmetric")},
        {"model__fusion": {"class_path": "my.package.Bottleneck", "init_args": {"num_bottlenecks": 4}}},
        {"data__window_seconds": 5.0},
        {"data__synchronous": False, "data__window_seconds": 5.0},
    ],
)
def test_what_the_paper_has_no_number_for(settings: dict) -> None:
    assert unmet(paper_setting(**settings), MINI) == [] and scores(paper_setting(**settings)) is None


def test_what_the_paper_does_not_state_may_differ() -> None:
    chosen = {
        "trainer__limit_test_batches": 1.0,
        "trainer__precision": "bf16-mixed",
        "trainer__gradient_clip_val": None,
        "data__val_split": "val",
        "data__manifest": "elsewhere.csv",
        f"{SPECTROGRAM}transform__init_args__mean": -4.0,
    }
    assert unmet(paper_setting(**chosen), MINI) == []


def test_other_data() -> None:
    for data in (
        {"dataset": None},
        {},
        MINI | {"variant": "full"},
        MINI | {"variant": "500k"},
        MINI | {"subset": "0f"},
    ):
        assert scores(paper_setting(), data) is None
    assert scores(paper_setting(), metric="top1") is None
    assert scores(paper_setting(), {"dataset": "vggsound", "variant": None}, "top1") is None, "another task"
    assert scores(paper_setting(), {"dataset": "kinetics-sounds", "variant": "31"}, "top1") is None
    for (name, variant), dataset in paper.DATASETS.items():
        assert unmet(paper_setting(dataset), {"dataset": name, "variant": variant}) == []
    for dataset, name, metric, number in (
        ("vggsound", "vggsound", "top1", (64.1, "Table 3")),
        ("epic_kitchens", "epic-kitchens", "action_top1", (43.4, "Table 2")),
        ("moments_in_time", "moments-in-time", "top1", (37.3, "Table 7")),
        ("kinetics400", "kinetics400", "top1", (80.8, "Table 8")),
    ):
        assert scores(paper_setting(dataset), {"dataset": name, "variant": None}, metric) == number
    four_views = paper_setting("moments_in_time", data__num_test_views=4)
    assert scores(four_views, {"dataset": "moments-in-time", "variant": None}, "top1") == (37.3, "Table 7")


def test_the_papers_setting_is_that_of_the_recipes() -> None:
    """As the program resolves them; `tests/helpers/paper_settings.py` writes the file anew."""
    assert FILE.read_text(encoding="utf-8") == as_text(paper_settings(Program()))


def test_nothing_is_changed() -> None:
    config = paper_setting()
    before = copy.deepcopy(config)
    find(config, MINI, "mAP")
    assert config == before


def test_numbers_are_plausible() -> None:
    assert len(numbers()) == len({str(n) for n in numbers()}) == 64
    assert all(5 < n.score < 90 and (n.std is None or 0 < n.std < 1) for n in numbers())
    assert {n.dataset for n in numbers()} == set(paper.DATASETS.values())
    assert all(n.synchronous in (True, False, None) and n.size in "sbl" for n in numbers())
