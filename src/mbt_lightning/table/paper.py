"""The paper's scores, and whether a run's setting is one of the paper's. Without torch.

Nagrani et al., "Attention Bottlenecks for Multimodal Fusion" (arXiv:2107.00135v3). `paper_scores.csv` has its scores,
per cent, those of figures digitised; `paper_settings.json` its setting on each data set, resolved from the recipes. A
run has a number of the paper where it is trained on the whole data set, all its settings are the recipe's but for those
that the paper varies (`VARIED`) and those that the paper does not state (`NOT_STATED`), and what is varied is what the
number is of.

Left out are numbers whose setting cannot be reproduced or is not stated: Fig. 5 and AudioSet-500K (lists of clips not
released), Fig. 7 (window not stated), Table 10, Kinetics-Sounds (which 36 classes is not stated).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from mbt_lightning.config.settings import identity_settings, is_under, may_be_absent, size_of
from mbt_lightning.table.strategies import class_of, show, strategy_of

DATASETS = {
    ("audioset", "mini"): "audioset_mini",
    ("vggsound", None): "vggsound",
    ("epic-kitchens", None): "epic_kitchens",
    ("moments-in-time", None): "moments_in_time",
    ("kinetics400", None): "kinetics400",
}
"""The recipes of the paper's data sets by the name and variant that `mbt prepare` notes down."""

METRICS = {"audioset_mini": "mAP", "epic_kitchens": "action_top1"}
"""The score of a data set's numbers, where it is not `top1`."""

VARIED = (
    "data.synchronous",
    "data.window_seconds",
    "model.fusion",
    "model.fusion_layer",
    "model.init.init_args.path",
    "model.modalities",
    "model.size",
)
"""Settings that the paper varies: a number is of certain values of them."""

NOT_STATED = (
    "seed_everything",
    "data.classes",
    "data.inputs.rgb.init_args.decoder",
    "data.inputs.spectrogram.init_args.transform.init_args.mean",
    "data.inputs.spectrogram.init_args.transform.init_args.std",
    "data.manifest",
    "data.max_bad_fraction",
    "data.media_root",
    "data.val_split",
    "model.compile",
    "model.optimizer.init_args.differentiable",
    "model.optimizer.init_args.foreach",
    "model.optimizer.init_args.fused",
    "trainer.barebones",
    "trainer.benchmark",
    "trainer.callbacks",
    "trainer.check_val_every_n_epoch",
    "trainer.deterministic",
    "trainer.enable_checkpointing",
    "trainer.gradient_clip_algorithm",
    "trainer.gradient_clip_val",
    "trainer.inference_mode",
    "trainer.limit_predict_batches",
    "trainer.min_epochs",
    "trainer.min_steps",
    "trainer.plugins",
    "trainer.precision",
    "trainer.reload_dataloaders_every_n_epochs",
    "trainer.sync_batchnorm",
    "trainer.val_check_interval",
)
"""Settings that may differ from the recipe: the paper does not state them, or they change nothing that it reports."""

ALSO = {"data.num_test_views": 4, "model.mixup.class_path": "mbt_lightning.Mixup"}
"""Values that are the paper's as well as the recipe's."""


@dataclass(frozen=True)
class PaperNumber:
    """One of the paper's scores and the values of what the paper varies; None: any, or not stated.

    Args:
        dataset: the recipe of its data set.
        score: per cent.
        std: standard deviation over runs, per cent; None if not stated.
        source: table or figure.
        study: the setting that was studied; None: the main results.
        strategy: its kind, as tables have it.
        fusion_layer: L_f.
        update: of the bottleneck: `symmetric`, `rgb first` or `spectrogram first`.
        window_seconds: the window.
        mixup: name of the class.
        synchronous: whether both modalities were cut at the same place.
        size: of the ViT.
    """

    dataset: str
    score: float
    std: float | None
    source: str
    study: str | None
    strategy: str
    fusion_layer: int | None
    update: str | None
    window_seconds: float | None
    mixup: str | None
    synchronous: bool | None
    size: str

    @property
    def metric(self) -> str:
        """Name of the score."""
        return METRICS.get(self.dataset, "top1")

    def is_of(self, varied: Mapping[str, Any]) -> bool:
        """Whether it is of a run, by the run's values of what the paper varies."""
        return all(getattr(self, name) in (None, value) for name, value in varied.items())


@cache
def numbers() -> tuple[PaperNumber, ...]:
    """All of the paper's scores, the main results first."""
    types: dict[str, Callable[[str], Any]] = {
        "score": float,
        "std": float,
        "fusion_layer": int,
        "window_seconds": float,
        "synchronous": "yes".__eq__,
    }
    with files(__package__).joinpath("paper_scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for row in rows:
        values: dict[str, Any] = {name: types.get(name, str)(text) if text else None for name, text in row.items()}
        found.append(PaperNumber(**values))
    return tuple(found)


@cache
def recipe(dataset: str) -> dict[str, Any]:
    """The resolved settings of the paper's best model on a data set."""
    return json.loads(files(__package__).joinpath("paper_settings.json").read_text(encoding="utf-8"))[dataset]


def dataset_of(data: Mapping[str, Any]) -> str:
    """The recipe of a run's data set, from its summary's part on the data; empty if it is none of the paper's."""
    return DATASETS.get((data.get("dataset") or "", data.get("variant")), "")


def unmet(config: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Why a run on one of the paper's data sets has none of the paper's numbers; empty if it may have one.

    Args:
        config: the resolved configuration.
        data: the part `data` of the run's summary.
    """
    dataset = dataset_of(data)
    ours, theirs = identity_settings(config), recipe(dataset)
    found = [f"part {show(data['subset'])} of the data set"] if data.get("subset") is not None else []
    for name in sorted(ours.keys() | theirs.keys()):
        if is_under(name, (*VARIED, *NOT_STATED)) or (name not in ours and may_be_absent(name)):
            continue
        wanted = [theirs.get(name, "–"), ALSO.get(name, theirs.get(name, "–"))]
        value = ours.get(name, "–")
        is_all = name.startswith("trainer.limit_") and isinstance(value, float) and value == 1.0  # 1 is one batch
        if value not in wanted and not is_all:
            found.append(f"{name} {show(value)}, not {show(wanted[0])}")
    split = config["data"].get("val_split")
    if split is not None and split == config["data"].get("test_split"):
        found.append(f"data.val_split {split}: the epoch is chosen by the test split")
    path = PurePath(str(((config["model"].get("init") or {}).get("init_args") or {}).get("path") or "none"))
    is_theirs = path.stem.lower() == f"vit-{size_of(config)}_16" and "imagenet2012" not in str(path)
    if not is_theirs:  # Google's folder `imagenet21k+imagenet2012` has files that were trained on
        found.append(f"starting weights {path}, not ViT-{size_of(config).upper()}_16 of ImageNet-21k")
    return found


def varied_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values of what the paper varies, as `PaperNumber` has them."""
    strategy = strategy_of(config)
    update = strategy.update if strategy.num_bottlenecks in (None, 4, 5) else "other B"  # 5 as the authors' code has it
    return {
        "strategy": strategy.kind,
        "fusion_layer": strategy.fusion_layer,
        "update": update,
        "window_seconds": config["data"]["window_seconds"],
        "mixup": class_of(config["model"]["mixup"]),
        "synchronous": config["data"]["synchronous"],
        "size": size_of(config),
    }


def find(
    config: Mapping[str, Any], data: Mapping[str, Any], metric: str, swept: Collection[str] = ()
) -> PaperNumber | None:
    """The paper's number for a run; None if its setting is none of the paper's.

    Where the paper has several for one setting, that of the study of what is swept counts, else the main result.

    Args:
        config: the resolved configuration.
        data: the part `data` of the run's summary.
        metric: name of the score.
        swept: the settings that vary in the table.
    """
    dataset = dataset_of(data)
    if not dataset or unmet(config, data):
        return None
    varied = varied_by(config)
    found = [n for n in numbers() if n.dataset == dataset and n.metric == metric and n.is_of(varied)]
    return next((n for n in found if n.study and n.study in swept), found[0] if found else None)
