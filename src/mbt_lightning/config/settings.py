"""A run's resolved settings as plain data, without torch: which of them a score can depend on.

Two runs whose `identity_settings` are equal are the same experiment: they compute the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from mbt_lightning.model.size import SIZES, EncoderSize

SEED = "seed_everything"
"""The setting in which the runs of one point differ."""

RUNTIME_ONLY = (
    "base",
    "ckpt_path",
    "experiment",
    "return_predictions",
    "runs",
    "verbose",
    "weights_only",
    "data.cache",
    "data.media",
    "data.num_workers",
    "trainer.accelerator",
    "trainer.default_root_dir",
    "trainer.detect_anomaly",
    "trainer.devices",
    "trainer.enable_autolog_hparams",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.model_registry",
    "trainer.num_nodes",
    "trainer.num_sanity_val_steps",
    "trainer.profiler",
    "trainer.strategy",
    "trainer.use_distributed_sampler",
)
"""Settings of where a run is computed and how it is monitored; no score depends on them."""

OF_SEVERAL_MODALITIES = ("data.synchronous", "model.fusion", "model.fusion_layer", "model.share_encoder")
"""Settings that mean nothing where there is a single modality."""

BY_MODALITY = ("data.inputs", "model.patches")
"""Settings that are mappings from a modality's name to what is set for it."""


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names, those that the command line and sweeps use.

    Args:
        config: plain data, as in a run's `config.yaml`.
        prefix: put before every name.
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by dotted names as a nested one; the inverse of `flat`."""
    config: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        place = config
        for key in path:
            place = place.setdefault(key, {})
        place[last] = deepcopy(value)  # a mapping may be shared, and be added to
    return config


def depth_of(config: Mapping[str, Any]) -> int:
    """Number of layers of a configuration's encoder."""
    size = config["model"]["size"]
    return SIZES[size].depth if isinstance(size, str) else size["depth"]


def size_of(config: Mapping[str, Any]) -> str:
    """Name of the encoder's size; empty if it is none of the ViT family's."""
    size = config["model"]["size"]
    if isinstance(size, str):
        return size
    return next((name for name, known in SIZES.items() if known == EncoderSize(**size)), "")


def is_late(config: Mapping[str, Any]) -> bool:
    """Whether several modalities are fused by their logits only (L_f = depth), without any strategy."""
    model = config["model"]
    return len(model["modalities"]) > 1 and model["fusion_layer"] == depth_of(config)


def without_unused(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what is set for modalities that its model does not use.

    Args:
        config: a resolved configuration; one that names an unknown modality stays as it is.
    """
    used = config["model"]["modalities"]
    kept = dict(config)
    for part, key in (name.split(".") for name in BY_MODALITY):
        given = kept.get(part, {}).get(key)
        if isinstance(given, Mapping) and isinstance(used, list) and set(used) <= given.keys():
            kept[part] = kept[part] | {key: {m: value for m, value in given.items() if m in used}}
    return kept


def is_under(name: str, settings: Iterable[str]) -> bool:
    """Whether a dotted name is one of some settings or a part of one."""
    return known_to_be_under(name, tuple(settings))


@cache
def known_to_be_under(name: str, settings: tuple[str, ...]) -> bool:
    """`is_under`, remembered: a table asks the same of every run."""
    return any(name == setting or name.startswith(f"{setting}.") for setting in settings)


def may_be_absent(name: str) -> bool:
    """Whether a setting has no meaning for some runs: it is a modality's own, or needs several modalities.

    Args:
        name: the dotted name of a setting or of a part of one.
    """
    return is_under(name, (*BY_MODALITY, *OF_SEVERAL_MODALITIES))


def identity_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted names that a score can depend on.

    Left out are the settings of the machine and of the monitoring of a run, and those without effect in this very
    run: what is set for an absent modality, and the strategy of late fusion and of a single modality.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
    """
    without = [*RUNTIME_ONLY]
    if len(config["model"]["modalities"]) == 1:
        without += OF_SEVERAL_MODALITIES
    elif is_late(config):
        without.append("model.fusion")
    return {name: value for name, value in flat(without_unused(config)).items() if not is_under(name, without)}


def fingerprint(config: Mapping[str, Any]) -> str:
    """A short hash of the `identity_settings`: the same for the same experiment.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
    """
    return hashlib.sha256(json.dumps(identity_settings(config), sort_keys=True).encode()).hexdigest()[:10]
