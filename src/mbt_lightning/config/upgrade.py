"""Configurations of earlier versions, read as today's: settings that have moved, and the paths of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mbt_lightning.config.class_paths import own_class, public_class_paths
from mbt_lightning.config.merge import merged
from mbt_lightning.config.settings import nested

RGB, SPECTROGRAM = "data.inputs.rgb.", "data.inputs.spectrogram."

MOVED = {
    "data.decoder": f"{RGB}init_args.decoder",
    "data.frame_size": f"{RGB}init_args.frame_size",
    "data.num_frames": f"{RGB}init_args.num_frames",
    "data.rgb_augment": f"{RGB}init_args.augment",
    "data.rgb_crop": f"{RGB}init_args.crop",
    "data.rgb_window_seconds": f"{RGB}init_args.window_seconds",
    "data.short_side": f"{RGB}init_args.short_side",
    "data.spec_augment": f"{SPECTROGRAM}init_args.augment",
    "data.spectrogram": f"{SPECTROGRAM}init_args.transform",
    "model.representation_size": "model.head.init_args.representation_size",
}
"""Settings of version 0.1 by the name that they have now."""

CLASSES = {
    RGB: "mbt_lightning.Rgb",
    SPECTROGRAM: "mbt_lightning.Spectrogram",
    "model.head.": "mbt_lightning.ClsHead",
}
"""The class that a moved setting belongs to."""

HEADS = {
    "cls": "mbt_lightning.ClsHead",
    "max": "mbt_lightning.MaxPoolHead",
    "mean": "mbt_lightning.MeanPoolHead",
    "sum": "mbt_lightning.SumPoolHead",
}
"""Heads, which had names of their own in version 0.1."""


def new_name(name: str) -> str:
    """Today's name of a setting, or of a part of one, by its dotted name."""
    for old, new in MOVED.items():
        if name == old or name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    return name


def old_names(config: Mapping[str, Any]) -> list[str]:
    """The settings of a configuration whose names are those of version 0.1."""
    found = [f"{part}.{key}" for part in ("data", "model") for key in config.get(part) or {}]
    return [name for name in found if name in MOVED]


def upgrade(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of this or an earlier version as one of this version; the settings mean the same.

    It may be that of a weight file or of W&B: no module that it names is imported.

    Args:
        config: nested plain data: a resolved configuration, or a part of one as in an experiment file.
    """
    upgraded: dict[str, Any] = {key: dict(value) if isinstance(value, dict) else value for key, value in config.items()}
    model = upgraded.get("model") or {}
    if isinstance(head := model.get("head"), str) and head in HEADS:
        model["head"] = {"class_path": HEADS[head]}
    for name in old_names(config):
        part, _, key = name.partition(".")
        value = upgraded[part].pop(key)
        if key == "representation_size" and value is None and is_pool(model.get("head")):
            continue
        owner = next(owner for owner in CLASSES if MOVED[name].startswith(owner))
        new = nested({f"{owner}class_path": CLASSES[owner], MOVED[name]: value})
        upgraded = merged(new, upgraded, find=own_class)
    return public_class_paths(upgraded)


def is_pool(head: Any) -> bool:
    """Whether a head is given that has no representation."""
    return isinstance(head, dict) and head.get("class_path") != HEADS["cls"]
