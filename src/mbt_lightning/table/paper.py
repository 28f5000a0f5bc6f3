"""The paper's scores as data, and whether a run's setting is one of the paper's. Without torch.

Nagrani et al., "Attention Bottlenecks for Multimodal Fusion" (arXiv:2107.00135v3). Scores are per cent; those of
figures are digitised. A number stands for a run only where all that the paper states of its setting holds for the run:

- what holds of all its numbers (section 4.2), `CONDITIONS` below: the data set and not a part of it, 50 epochs in
  batches of 64, SGD at 0.5, ViT on 16 x 16 patches from ImageNet-21k, mixup at 0.3, four views at test, and so on;
- what the number is of: modalities, strategy, L_f, B (4, or the 5 that the authors' code makes of it), update rule,
  window t, size, one encoder or several. Where the paper does not say which mixup an ablation had, either will do.

Left out are numbers whose setting cannot be had or is not told: Fig. 5 and AudioSet-500K (lists of clips not released),
Fig. 7 (window not told), Table 10, Kinetics-Sounds (which 36 classes is not told).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, NamedTuple

from mbt_lightning.config.settings import is_late
from mbt_lightning.model.authors_flops import BOTTLENECK
from mbt_lightning.model.size import SIZES, EncoderSize

DATASETS = {
    ("audioset", "mini"): "mini-AudioSet",
    ("vggsound", None): "VGGSound",
    ("epic-kitchens", None): "Epic-Kitchens-100",
    ("moments-in-time", None): "Moments in Time",
    ("kinetics400", None): "Kinetics-400",
}
"""The paper's data sets by the name and variant that `mbt prepare` notes down."""

TEST_SPLITS = {"Epic-Kitchens-100": "val", "Moments in Time": "val", "Kinetics-400": "val"}
"""The split that is scored, where it is not `test`: the official validation list, whose labels are public."""

METRICS = {"mini-AudioSet": "mAP", "Epic-Kitchens-100": "action_top1"}
"""The score of a data set's numbers, where it is not `top1`."""

Series = dict[Any, tuple[tuple[float, float], ...]]

ANY_MIXUP = ("Mixup", "ModalityMixup")


@dataclass(frozen=True)
class PaperNumber:
    """One of the paper's scores and the setting that it belongs to.

    Args:
        score: per cent.
        source: table or figure.
        std: standard deviation over runs, per cent; None if not told.
        study: the setting that was studied; empty: the main results.
        dataset: the data set.
        strategy: `Bottleneck`, `CrossAttention`, `late`, or the only modality.
        fusion_layer: L_f; None for late fusion and a single modality.
        update: of the bottleneck: `symmetric`, `rgb first` or `spectrogram first`.
        seconds: the windows that will do; empty: none is told.
        mixup: the kinds of mixup that will do.
        synchronous: whether both modalities were cut at the same place.
        size: of the ViT.
    """

    score: float
    source: str
    std: float | None = None
    study: str = ""
    dataset: str = "mini-AudioSet"
    strategy: str = "Bottleneck"
    fusion_layer: int | None = 8
    update: str = "symmetric"
    seconds: tuple[float, ...] = (8.0,)
    mixup: tuple[str, ...] = ANY_MIXUP
    synchronous: bool = True
    size: str = "b"

    @property
    def metric(self) -> str:
        """Name of the score."""
        return METRICS.get(self.dataset, "top1")


def of(strategy: str, score: float, source: str, std: float | None = None, **setting: Any) -> PaperNumber:
    """A number of late fusion or of a single modality, which have no L_f."""
    return PaperNumber(score, source, std, strategy=strategy, fusion_layer=None, **setting)


def main_results() -> list[PaperNumber]:
    """Tables 1, 2, 3, 7 and 8, and late fusion in Table 9."""
    numbers = []
    for dataset, source, seconds, sound, pictures, both, late in (
        ("mini-AudioSet", "Table 1", (8.0,), 31.3, 27.7, 43.9, 41.80),
        ("Epic-Kitchens-100", "Table 2", (), 13.0, 40.7, 43.4, 37.90),
        ("VGGSound", "Table 3", (8.0,), 52.3, 51.2, 64.1, 63.3),
        ("Moments in Time", "Table 7", (3.0,), 8.2, 36.3, 37.3, 36.48),
        ("Kinetics-400", "Table 8", (8.0,), 25.0, 79.4, 80.8, 77.0),
    ):
        setting: dict[str, Any] = {"dataset": dataset, "seconds": seconds}
        numbers += [of("spectrogram", sound, source, **setting), of("rgb", pictures, source, **setting)]
        numbers.append(PaperNumber(both, source, mixup=("ModalityMixup",), **setting))
        numbers.append(of("late", late, "Table 9", **setting))
    return numbers


def ablations() -> list[PaperNumber]:
    """Figures 3 and 8, Tables 4, 5 and 6, and the two kinds of mixup."""
    numbers = []
    for kind, score in (("Mixup", 42.6), ("ModalityMixup", 43.9)):
        numbers.append(PaperNumber(score, "text, mixup", study="model.mixup", mixup=(kind,)))
    layers: dict[str, Any] = {"study": "model.fusion_layer", "seconds": (4.0,)}
    figure_3: Series = {
        "Bottleneck": ((40.76, 0.38), (40.56, 0.25), (40.96, 0.29), (41.52, 0.31), (42.44, 0.17), (41.82, 0.13)),
        "CrossAttention": ((38.49, 0.48), (38.85, 0.30), (39.01, 0.53), (40.45, 0.37), (41.16, 0.38), (41.87, 0.32)),
    }
    for strategy, scores in figure_3.items():
        for layer, (score, std) in zip(range(0, 12, 2), scores, strict=True):
            numbers.append(PaperNumber(score, "Fig. 3", std, strategy=strategy, fusion_layer=layer, **layers))
    numbers.append(of("late", 40.60, "Fig. 3", 0.23, **layers))
    for update, score, std in (
        ("rgb first", 43.42, 0.19),
        ("spectrogram first", 43.23, 0.12),
        ("symmetric", 43.66, 0.26),
    ):
        numbers.append(PaperNumber(score, "Table 4", std, study="update", update=update))
    table_6: Series = {
        "rgb": ((26.23, 0.16), (25.74, 0.18), (25.68, 0.02), (25.43, 0.02)),
        "spectrogram": ((27.10, 0.54), (29.91, 0.21), (30.08, 0.21), (30.55, 0.22)),
        "Bottleneck": ((37.95, 0.51), (40.32, 0.20), (41.51, 0.24), (42.37, 0.44)),
    }
    figure_8: Series = {
        True: ((37.64, 0.21), (40.52, 0.15), (41.19, 0.23), (42.31, 0.05)),
        False: ((37.82, 0.15), (40.44, 0.47), (41.32, 0.30), (42.52, 0.06)),
    }
    for place, seconds in enumerate((2.0, 4.0, 6.0, 8.0)):
        for strategy, scores in table_6.items():
            fusion_layer = 8 if strategy == "Bottleneck" else None
            window = PaperNumber(scores[place][0], "Table 6", scores[place][1], "data.window_seconds")
            numbers.append(replace(window, strategy=strategy, fusion_layer=fusion_layer, seconds=(seconds,)))
        for synchronous, scores in figure_8.items():
            score, std = scores[place]
            cut = PaperNumber(score, "Fig. 8", std, "data.synchronous", synchronous=synchronous, seconds=(seconds,))
            numbers.append(cut)
    for size, mini, vggsound in (("s", 38.2, 59.0), ("b", 43.3, 64.1), ("l", 42.2, 61.4)):
        for dataset, score in (("mini-AudioSet", mini), ("VGGSound", vggsound)):
            numbers.append(PaperNumber(score, "Table 5", study="model.size", size=size, dataset=dataset))
    return numbers


NUMBERS = (*main_results(), *ablations())
"""All of them, the main results first."""


class Condition(NamedTuple):
    """What must hold of a run for any of the paper's numbers.

    Args:
        name: what it is about.
        wanted: the paper's, in words.
        got: the run's, from its configuration and its summary's part on the data.
        is_met: whether the run's is the paper's.
    """

    name: str
    wanted: str
    got: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
    is_met: Callable[[Any], bool]


def setting(name: str, wanted: Any, *also: Any) -> Condition:
    """The condition that a setting, by its dotted name, has one of some values; what a run does not have is None."""

    def got(config: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        return value_of(config, name)

    return Condition(name, str(wanted), got, lambda value: value in (wanted, *also))


def whole(name: str) -> Condition:
    """The condition that a limit of batches is none: 1.0 is all of them, but 1 is one batch."""
    limit = setting(name, None)
    return limit._replace(is_met=lambda value: value is None or (isinstance(value, float) and value == 1.0))


def value_of(config: Mapping[str, Any], name: str) -> Any:
    """A setting by its dotted name; None where there is none."""
    place: Any = config
    for key in name.split("."):
        place = place.get(key) if isinstance(place, Mapping) else None
    return place


def class_of(value: Any) -> str:
    """Name of the class of a setting; empty if it is none."""
    return str(value["class_path"]).rpartition(".")[2] if isinstance(value, Mapping) and "class_path" in value else ""


def arguments_of(value: Any) -> Mapping[str, Any]:
    """Settings of a class."""
    return (value.get("init_args") or {}) if isinstance(value, Mapping) else {}


def size_of(config: Mapping[str, Any]) -> str:
    """Name of the encoder's size; empty if it is none of the ViT family's."""
    size = config["model"]["size"]
    if isinstance(size, str):
        return size
    return next((name for name, known in SIZES.items() if known == EncoderSize(**size)), "")


def start_of(config: Mapping[str, Any]) -> str:
    """`ImageNet-21k`, or what else the weights start from in words.

    Google's file of that name lies in a folder `imagenet21k`; the one in `imagenet21k+imagenet2012` was trained on.
    """
    init, size = config["model"].get("init"), size_of(config)
    path = str(arguments_of(init).get("path") or arguments_of(init).get("name") or "")
    is_theirs = class_of(init) == "GoogleViT" and "imagenet2012" not in path
    if is_theirs and PurePath(path).stem.lower() == f"vit-{size}_16":
        return "ImageNet-21k"
    return f"{class_of(init)} {path}".strip() or "random"


def sound_of(config: Mapping[str, Any]) -> str:
    """The spectrogram's recipe in words."""
    chosen = config["data"]["spectrogram"]
    names = ("sample_rate", "num_mels", "window_seconds", "hop_seconds")
    return " ".join([class_of(chosen), *(str(arguments_of(chosen).get(name)) for name in names)])


def optimizer_of(config: Mapping[str, Any]) -> str:
    """The optimiser in words."""
    chosen = config["model"]["optimizer"]
    names = ("lr", "momentum", "weight_decay", "nesterov")
    values = {"momentum": 0, "weight_decay": 0, "nesterov": False} | dict(arguments_of(chosen))
    return " ".join([class_of(chosen), *(f"{name} {number(values.get(name))}" for name in names)])


def number(value: Any) -> str:
    """A number as it is read; what is none by its own text."""
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def frames_of(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Number of pictures, and their window if it is one of their own."""
    own = config["data"].get("rgb_window_seconds")
    return f"{config['data']['num_frames']}" + (f" in {own:g} s" if own is not None else "")


def sampler_of(config: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Name of the class that draws clips."""
    chosen = config["data"].get("sampler")
    return chosen.rpartition(".")[2] if isinstance(chosen, str) else class_of(chosen)


def patches_of(config: Mapping[str, Any]) -> str:
    """Patch sizes in words."""
    patches = config["model"]["patches"]
    return ", ".join("x".join(map(str, patches[m])) for m in sorted(config["model"]["modalities"]))


def conditions(config: Mapping[str, Any], data: Mapping[str, Any]) -> list[Condition]:
    """What must hold of a run for any of the paper's numbers on its data set (section 4.2).

    Args:
        config: the resolved configuration.
        data: the part `data` of the run's summary.
    """
    dataset, modalities = dataset_of(data), sorted(config["model"]["modalities"])
    frames = "32 in 1.28 s" if dataset == "Epic-Kitchens-100" else "8"
    patches = ", ".join({"rgb": "1x16x16", "spectrogram": "16x16"}.get(m, "") for m in modalities)
    sgd, sound = "SGD lr 0.5 momentum 0.9 weight_decay 0 nesterov 0", "LogMel 16000 128 0.025 0.01"

    def equal(name: str, wanted: str, got: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]) -> Condition:
        return Condition(name, wanted, got, lambda value: value == wanted)

    chosen = [
        Condition("part of the data set", "none", lambda c, d: d.get("subset"), lambda value: value is None),
        setting("trainer.max_epochs", 50),
        setting("trainer.max_steps", -1, None),
        *(whole(f"trainer.limit_{part}_batches") for part in ("train", "val", "test")),
        setting("trainer.fast_dev_run", False, None),
        setting("trainer.overfit_batches", 0.0, None),
        setting("trainer.max_time", None),
        setting("trainer.accumulate_grad_batches", 1, None),
        setting("data.batch_size", 64),
        Condition("data.sampler", "Shuffled", sampler_of, lambda value: value == "Shuffled"),
        setting("data.test_split", TEST_SPLITS.get(dataset, "test")),
        Condition(
            "data.val_split",
            "any but the test split: the epoch would be chosen by it",
            lambda c, d: value_of(c, "data.val_split"),
            lambda value: value is None or value != value_of(config, "data.test_split"),
        ),
        setting("model.head", "cls"),
        setting("model.representation_size", None),
        setting("model.drop_path", 0.3),
        setting("model.label_smoothing", 0.0),
        setting("model.warmup_fraction", 0.05),
        setting("model.average_views", "logits", None),
        setting("model.mixup.init_args.alpha", 0.3),
        setting("data.num_test_views", 4, *([1] if dataset == "Moments in Time" else [])),
        equal("optimizer", sgd, lambda c, d: optimizer_of(c)),
        equal("patches", patches, lambda c, d: patches_of(c)),
        equal("starting weights", "ImageNet-21k", lambda c, d: start_of(c)),
    ]
    if "rgb" in modalities:
        chosen += [equal("frames", frames, frames_of), setting("data.frame_size", 224)]
        chosen.append(equal("data.rgb_augment", "JitteredCrop", lambda c, d: class_of(c["data"].get("rgb_augment"))))
    if "spectrogram" in modalities:
        masks = {"num_time_masks": 1, "max_time": 192, "num_freq_masks": 1, "max_freq": 48}
        chosen.append(equal("spectrogram", sound, lambda c, d: sound_of(c)))
        chosen += [setting(f"data.spec_augment.init_args.{name}", value) for name, value in masks.items()]
    return chosen


def dataset_of(data: Mapping[str, Any]) -> str:
    """The paper's name of a run's data set, from its summary's part on the data; empty if the paper has no such."""
    return DATASETS.get((data.get("dataset") or "", data.get("variant")), "")


def unmet(config: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """What keeps a run on one of the paper's data sets from all of the paper's numbers, in words.

    Args:
        config: the resolved configuration.
        data: the part `data` of the run's summary.
    """
    found = [(condition, condition.got(config, data)) for condition in conditions(config, data)]
    return [f"{c.name} {value}, not {c.wanted}" for c, value in found if not c.is_met(value)]


def strategy_of(config: Mapping[str, Any]) -> str:
    """`late`, the only modality, or the name of a strategy of ours; empty for any other."""
    model = config["model"]
    if len(model["modalities"]) == 1:
        return model["modalities"][0]
    if is_late(config):
        return "late"
    module, _, name = model["fusion"]["class_path"].rpartition(".")
    return name if module in ("mbt_lightning", "mbt_lightning.model.fusion") else ""


def is_of(number: PaperNumber, config: Mapping[str, Any]) -> bool:
    """Whether a number is of a run's strategy, window, size and mixup; its `CONDITIONS` are another matter."""
    model, data, strategy = config["model"], config["data"], strategy_of(config)
    several = len(model["modalities"]) > 1
    if strategy != number.strategy or size_of(config) != number.size or class_of(model["mixup"]) not in number.mixup:
        return False
    if number.seconds and data["window_seconds"] not in number.seconds:
        return False
    if several and (set(model["modalities"]) != {"rgb", "spectrogram"} or model["share_encoder"]):
        return False
    if several and data["synchronous"] != number.synchronous:
        return False
    if number.fusion_layer is not None and model["fusion_layer"] != number.fusion_layer:
        return False
    if strategy == "Bottleneck":
        chosen = BOTTLENECK | dict(arguments_of(model["fusion"]))
        update = "symmetric" if chosen["update"] == "symmetric" else f"{model['modalities'][0]} first"
        return chosen["num_bottlenecks"] in (4, 5) and update == number.update
    return True


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
    found = [n for n in NUMBERS if n.dataset == dataset and n.metric == metric and is_of(n, config)]
    return next((n for n in found if n.study and n.study in swept), found[0] if found else None)
