"""A run's resolved settings as plain data, without torch: which of them a score can depend on.

Two runs whose `identity_settings` are equal are the same experiment: they compute the same numbers, whatever was
written down for them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from mbt_lightning.model.size import SIZES

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
"""Settings of where and how a run is done and watched; nothing that is computed depends on them."""

OF_MODALITY = {
    "rgb": (
        "data.decoder",
        "data.frame_size",
        "data.num_frames",
        "data.rgb_augment",
        "data.rgb_crop",
        "data.rgb_window_seconds",
        "data.short_side",
        "model.patches.rgb",
    ),
    "spectrogram": ("data.spec_augment", "data.spectrogram", "model.patches.spectrogram"),
}
"""Settings that mean nothing without a modality."""

OF_SEVERAL_MODALITIES = ("data.synchronous", "model.fusion", "model.fusion_layer", "model.share_encoder")
"""Settings that mean nothing where there is a single modality."""

OWN = "mbt_lightning."


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration by dotted names, those that the command line and sweeps use.

    Args:
        config: plain data, as in a run's `config.yaml`.
        prefix: what stands before every name.
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


def is_late(config: Mapping[str, Any]) -> bool:
    """Whether several modalities never meet before their logits do (L_f = depth): then no strategy is at work."""
    model = config["model"]
    return len(model["modalities"]) > 1 and model["fusion_layer"] == depth_of(config)


def identity_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted names that a score can depend on.

    Left out is what belongs to the machine or to the watching of a run, and what means nothing in this very run: the
    strategy of late fusion and of a single modality, and the transforms of an absent modality.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
    """
    modalities = config["model"]["modalities"]
    without: list[str] = [*RUNTIME_ONLY]
    for modality, names in OF_MODALITY.items():
        without += [] if modality in modalities else names
    if len(modalities) == 1:
        without += OF_SEVERAL_MODALITIES
    elif is_late(config):
        without.append("model.fusion")
    kept = {}
    for name, value in flat(config).items():
        if not any(name == other or name.startswith(f"{other}.") for other in without):
            is_own = name.endswith(".class_path") and str(value).startswith(OWN)
            kept[name] = OWN + value.rpartition(".")[2] if is_own else value  # the same class has several paths
    return kept


def fingerprint(config: Mapping[str, Any]) -> str:
    """A short hash of the `identity_settings`: the same for the same experiment.

    Args:
        config: a resolved configuration, as in a run's `config.yaml`.
    """
    return hashlib.sha256(json.dumps(identity_settings(config), sort_keys=True).encode()).hexdigest()[:10]
