"""The paper's numbers stand beside a run only where the setting is the paper's: every condition breaks it."""

import copy

import pytest
from made_runs import CROSS, JOINT, bottleneck, configuration
from paths import EXPERIMENTS

from mbt_lightning.cli.resolve import resolve
from mbt_lightning.table import paper
from mbt_lightning.table.paper import NUMBERS, find, unmet

MINI = {"dataset": "audioset", "variant": "mini", "subset": None}
MASKS = {"num_time_masks": 1, "max_time": 192, "num_freq_masks": 1, "max_freq": 48}


def mixup(kind: str = "ModalityMixup", alpha: float = 0.3) -> dict:
    return {"class_path": f"mbt_lightning.data.mixup.{kind}", "init_args": {"alpha": alpha}}


def google(path: str = "weights/ViT-B_16.npz") -> dict:
    return {"class_path": "mbt_lightning.model.pretrained.vit.GoogleViT", "init_args": {"path": path}}


def paper_setting(**settings) -> dict:
    """The paper's best setting on mini-AudioSet."""
    sgd = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}
    chosen = {
        "trainer__max_epochs": 50,
        "model__size": "b",
        "model__fusion": bottleneck(update="symmetric"),
        "model__drop_path": 0.3,
        "model__warmup_fraction": 0.05,
        "model__optimizer": {"class_path": "torch.optim.SGD", "init_args": sgd},
        "model__mixup": mixup(),
        "model__init": google(),
        "data__manifest": "data/mini.parquet",
        "data__window_seconds": 8.0,
        "data__frame_size": 224,
        "data__batch_size": 64,
        "data__num_test_views": 4,
        "data__spectrogram__init_args__num_mels": 128,
        "data__rgb_augment": {"class_path": "mbt_lightning.data.augment.JitteredCrop"},
        "data__sampler": {"class_path": "mbt_lightning.data.dataset.Shuffled"},
        "data__val_split": None,
        "data__spec_augment": {"class_path": "mbt_lightning.data.augment.SpecAugment", "init_args": MASKS},
    }
    return configuration(**chosen | settings)


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
    """Where the paper has several numbers for one setting, that of the sweep's own study counts."""
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


def test_update_rules_are_told_by_the_order_of_the_modalities() -> None:
    for order, score in ((["rgb", "spectrogram"], 43.42), (["spectrogram", "rgb"], 43.23)):
        chosen = paper_setting(model__fusion=bottleneck(4, "sequential"), model__modalities=order)
        assert scores(chosen) == (score, "Table 4")


def test_sizes_start_from_their_own_weights() -> None:
    for size, score in {"s": 38.2, "l": 42.2}.items():
        chosen = {"model__size": size, "model__init": google(f"w/ViT-{size.upper()}_16.npz")}
        assert scores(paper_setting(**chosen)) == (score, "Table 5")
        assert scores(paper_setting(**chosen | {"model__init": google()})) is None
    as_numbers = {"dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0}
    assert scores(paper_setting(model__size=as_numbers)) == (43.9, "Table 1")
    assert scores(paper_setting(model__size=as_numbers | {"num_heads": 8})) is None


BROKEN = {
    "epochs": ({"trainer__max_epochs": 49}, "trainer.max_epochs 49, not 50"),
    "steps": ({"trainer__max_steps": 100}, "trainer.max_steps 100, not -1"),
    "a part of the batches": ({"trainer__limit_train_batches": 0.5}, "trainer.limit_train_batches 0.5, not None"),
    "one batch": ({"trainer__limit_test_batches": 1}, "trainer.limit_test_batches 1, not None"),
    "a part of validation": ({"trainer__limit_val_batches": 0.1}, "trainer.limit_val_batches 0.1, not None"),
    "over and over": ({"trainer__overfit_batches": 4}, "trainer.overfit_batches 4, not 0.0"),
    "time": ({"trainer__max_time": "00:01:00:00"}, "trainer.max_time 00:01:00:00, not None"),
    "a trial run": ({"trainer__fast_dev_run": True}, "trainer.fast_dev_run True, not False"),
    "scored on another split": ({"data__test_split": "val"}, "data.test_split val, not test"),
    "chosen by what is scored": ({"data__val_split": "test"}, "data.val_split test, not any but the test split"),
    "balanced": (
        {"data__sampler": {"class_path": "mbt_lightning.data.dataset.ClassBalanced"}},
        "data.sampler ClassBalanced, not Shuffled",
    ),
    "other crops": (
        {"data__rgb_augment": {"class_path": "mbt_lightning.data.augment.RandomResizedCrop"}},
        "data.rgb_augment RandomResizedCrop, not JitteredCrop",
    ),
    "no rate": (
        {"model__optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": None, "momentum": 0.9}}},
        "optimizer SGD lr None momentum 0.9",
    ),
    "accumulation": ({"trainer__accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches 2, not 1"),
    "batch": ({"data__batch_size": 32}, "data.batch_size 32, not 64"),
    "frames": ({"data__num_frames": 32}, "frames 32, not 8"),
    "window of pictures": ({"data__rgb_window_seconds": 2.56}, "frames 8 in 2.56 s, not 8"),
    "frame size": ({"data__frame_size": 112}, "data.frame_size 112, not 224"),
    "patches": ({"model__patches__rgb": [2, 16, 16]}, "patches 2x16x16, 16x16, not 1x16x16, 16x16"),
    "mel bins": (
        {"data__spectrogram__init_args__num_mels": 64},
        "spectrogram LogMel 16000 64 0.025 0.01, not LogMel 16000 128 0.025 0.01",
    ),
    "no masks": ({"data__spec_augment": None}, "data.spec_augment.init_args.max_time None, not 192"),
    "head": ({"model__head": "mean"}, "model.head mean, not cls"),
    "pre-logits": ({"model__representation_size": 768}, "model.representation_size 768, not None"),
    "stochastic depth": ({"model__drop_path": 0.0}, "model.drop_path 0.0, not 0.3"),
    "smoothing": ({"model__label_smoothing": 0.3}, "model.label_smoothing 0.3, not 0.0"),
    "warm-up": ({"model__warmup_fraction": 0.1}, "model.warmup_fraction 0.1, not 0.05"),
    "mixup": ({"model__mixup": mixup(alpha=0.5)}, "model.mixup.init_args.alpha 0.5, not 0.3"),
    "views": ({"data__num_test_views": 1}, "data.num_test_views 1, not 4"),
    "mean of probabilities": ({"model__average_views": "probabilities"}, "model.average_views probabilities"),
    "optimizer": (
        {"model__optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}}},
        "optimizer AdamW lr 0.5 momentum 0 weight_decay 0 nesterov 0, not SGD lr 0.5",
    ),
    "from scratch": ({"model__init": None}, "starting weights random, not ImageNet-21k"),
    "fine-tuned weights": (
        {"model__init": google("imagenet21k+imagenet2012/ViT-B_16.npz")},
        "starting weights GoogleViT imagenet21k+imagenet2012/ViT-B_16.npz, not",
    ),
    "other weights": (
        {"model__init": {"class_path": "TimmViT", "init_args": {"name": "vit_base_patch16_224.dino"}}},
        "starting weights",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_condition_breaks_it(name: str) -> None:
    settings, told = BROKEN[name]
    config = paper_setting(**settings)
    assert any(line.startswith(told) for line in unmet(config, MINI)), unmet(config, MINI)
    assert scores(config) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"model__share_encoder": True},
        {"model__fusion": bottleneck(36, "symmetric")},
        {"model__fusion": {"class_path": "my.package.Bottleneck", "init_args": {"num_bottlenecks": 4}}},
        {"data__window_seconds": 5.0},
        {"model__mixup": None},
        {"data__synchronous": False, "data__window_seconds": 5.0},
    ],
)
def test_what_the_paper_has_no_number_for(settings: dict) -> None:
    assert scores(paper_setting(**settings)) is None


def test_other_data() -> None:
    assert scores(paper_setting(), {"dataset": None}) is None, "the embedded clips"
    assert scores(paper_setting(), {}) is None, "a summary from before the data set was noted down"
    assert scores(paper_setting(), MINI | {"variant": "full"}) is None
    assert scores(paper_setting(), MINI | {"variant": "500k"}) is None, "which clips the paper's half million are"
    assert scores(paper_setting(), MINI | {"subset": "0f"}) is None
    assert scores(paper_setting(), metric="top1") is None
    assert scores(paper_setting(), {"dataset": "vggsound", "variant": None}, "top1") == (64.1, "Table 3")
    assert scores(paper_setting(), {"dataset": "kinetics-sounds", "variant": "31"}, "top1") is None
    val = {"data__test_split": "val"}
    epic = paper_setting(**val, data__num_frames=32, data__rgb_window_seconds=1.28, data__window_seconds=2.56)
    assert scores(epic, {"dataset": "epic-kitchens", "variant": None}, "action_top1") == (43.4, "Table 2")
    assert scores(epic) is None
    short = paper_setting(**val, data__window_seconds=3.0, data__num_test_views=1)
    assert scores(short, {"dataset": "moments-in-time", "variant": None}, "top1") == (37.3, "Table 7")


def test_a_limit_of_all_is_none() -> None:
    assert unmet(paper_setting(trainer__limit_test_batches=1.0), MINI) == []


def test_the_recipe_is_the_papers_setting() -> None:
    """As the program resolves it, with the settings that the sweeps over L_f give."""
    four = ["--data.window_seconds=4.0", "--model.fusion_layer=8"]
    files = ["bottleneck_symmetric_b4_lf8", "recipes/audioset_mini", "init/imagenet21k"]
    words = ["fit", *(word for name in files for word in ("--config", str(EXPERIMENTS / f"{name}.yaml")))]
    whole, window = (resolve(line, [{}])[0].config for line in (words, [*words, *four]))
    assert unmet(whole, MINI) == unmet(window, MINI) == []
    assert scores(whole) == (43.9, "Table 1")
    assert scores(window, swept={"model.fusion_layer"}) == (42.44, "Fig. 3")
    others = {"vggsound": "vggsound", "epic_kitchens": "epic-kitchens", "kinetics400": "kinetics400"}
    others["moments_in_time"] = "moments-in-time"
    lines = [[*words[:3], "--config", str(EXPERIMENTS / f"recipes/{name}.yaml"), *words[5:]] for name in others]
    for line, name in zip(lines, others.values(), strict=True):
        assert unmet(resolve(line, [{}])[0].config, {"dataset": name, "variant": None}) == [], name


def test_nothing_is_changed() -> None:
    config = paper_setting()
    before = copy.deepcopy(config)
    find(config, MINI, "mAP")
    assert config == before


def test_numbers_are_plausible() -> None:
    assert len(NUMBERS) == len({(n.source, n.study, n.dataset, str(n)) for n in NUMBERS})
    assert all(5 < n.score < 90 and (n.std is None or 0 < n.std < 1) for n in NUMBERS)
    assert {n.dataset for n in NUMBERS} == set(paper.DATASETS.values())
