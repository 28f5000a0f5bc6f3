"""`mbt stats`: what is in a data set, and the mean and standard deviation of its spectrograms for training."""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mbt_lightning.cli.parser import Parser
from mbt_lightning.data.datamodule import manifest_file
from mbt_lightning.data.manifest.manifest import Manifest, read_manifest
from mbt_lightning.data.measure import (
    ClipMeasurement,
    mean_and_std,
    measure_clips,
    options_of,
    read_stats,
    settings_of,
    stats_file,
)
from mbt_lightning.data.records import BadClip
from mbt_lightning.data.sampling import chance
from mbt_lightning.data.spectrogram import LogMel, MelTransform
from mbt_lightning.data.store import store_of
from mbt_lightning.data.worker_pool import Progress
from mbt_lightning.disk import replacing
from mbt_lightning.errors import UserError, abbreviate

MOST_SIZES = 3
"""So many of the commonest picture sizes and rates are printed."""


def main(arguments: Sequence[str]) -> None:
    """Run `mbt stats`."""
    tool = parser()
    options = tool.parse_args(list(arguments))
    chosen = vars(options).pop("spectrogram")
    settings = None
    if chosen is not None:
        built = tool.instantiate_classes(tool.parse_object({"manifest": "", "spectrogram": chosen})).spectrogram
        settings = settings_of(type(built), vars(chosen.get("init_args", {})))
    stats(**vars(options), settings=settings)


def parser() -> Parser:
    """The options of `mbt stats`."""
    tool = Parser(prog="mbt stats", description="Measure a data set, for a recipe and for its spectrograms' scale.")
    tool.add_argument("manifest", help="the manifest, `.parquet`, `.jsonl` or `.csv`, or `demo`")
    tool.add_argument(
        "--spectrogram",
        type=MelTransform | None,
        default={"class_path": f"{LogMel.__module__}.LogMel"},
        help="the log-mel to measure; its mean and std do not matter; null: no sound is decoded",
    )
    tool.add_function_arguments(stats, skip={"manifest", "settings"})
    return tool


def stats(
    manifest: str,
    settings: Mapping[str, Any] | None,
    media_root: str | None = None,
    classes: str | None = None,
    split: str = "train",
    num_clips: int = 5000,
    seed: int = 0,
    window_seconds: float = 8.0,
    num_workers: int = 2,
    timeout_seconds: float = 60.0,
) -> None:
    """Measure the clips of a manifest, print it, and write it to `<manifest>.stats.json`, where training finds it.

    Args:
        manifest: the manifest.
        settings: of the spectrogram, see `settings_of`; None: no sound is decoded.
        media_root: folder that relative media paths start from; null: the manifest's folder.
        classes: the class list; null: the manifest's own.
        split: split whose sound is decoded.
        num_clips: so many clips of each split are looked at; all, if there are fewer.
        seed: of their choice.
        window_seconds: length of training's window, for the part of the clips that is shorter.
        num_workers: processes.
        timeout_seconds: time limit of one clip.

    Raises:
        UserError: settings or files that make no sense, or no clip of the split can be read.
    """
    counts = {"num_clips": num_clips, "num_workers": num_workers}
    for name, value in {**counts, "window_seconds": window_seconds, "timeout_seconds": timeout_seconds}.items():
        if not value > 0:
            raise UserError(f"{name} is {value}: give {'1 or more' if name in counts else 'a time above 0'}")
    path = manifest_file(manifest)
    full = read_manifest(path, media_root, classes)
    full.split(split)  # says which splits there are
    store = store_of(full)
    earlier = read_stats(stats_file(path))["spectrograms"] if stats_file(path).is_file() else []

    found: dict[str, tuple[list[ClipMeasurement], list[BadClip]]] = {}
    with Progress(sys.stderr.isatty()) as bar:
        for name, clips in full.splits.items():
            places = sorted(chance("stats", seed, name).sample(range(len(clips)), min(num_clips, len(clips))))
            wanted = settings if name == split else None
            part = [clips[i] for i in places]
            found[name] = measure_clips(part, store, wanted, num_workers, timeout_seconds, bar, name)
    seen, bad = found[split]
    for name, (_, failed) in found.items():
        for clip in failed:
            print(f"{name}: {clip.clip_id}: {clip.path}: {clip.reason}", file=sys.stderr)
    if not seen:
        raise UserError(
            f"{path}: none of the {len(bad)} clips of split {split!r} that were tried could be measured; the first: "
            f"{bad[0].path}: {bad[0].reason}"
        )

    splits = {name: about_split(full, name, *found[name], window_seconds) for name in full.splits}
    about = {
        "manifest": path.name,
        "hash": full.digest,
        "num_classes": len(full.classes),
        "fitting_tasks": fitting_tasks(full),
        "window_seconds": window_seconds,
        "splits": splits,
        "spectrograms": earlier,
    }
    if settings is not None:
        mean, std = mean_and_std(seen)
        if not std > 0:
            raise UserError(f"{path}: all values of the log-mel are {mean:g}: the sound of split {split!r} is silence")
        entry = {"mean": mean, "std": std, "num_clips": len(seen), "split": split, "hash": full.digest, **settings}
        entry |= {"of_clips": len(full.splits[split]), "unreadable": len(bad), "seed": seed}
        entry |= {"num_values": sum(clip.num_values for clip in seen)}
        others = [other for other in earlier if {key: other[key] for key in settings} != settings]
        about["spectrograms"] = [*others, entry]
    with replacing(stats_file(path)) as unfinished:
        unfinished.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print_stats(full, about, split)
    if settings is not None:
        print(f"spectrogram{options_of(settings)}: mean {mean:.4f}, std {std:.4f} of {len(seen)} clips")
    print(f"written: {stats_file(path)}")


def about_split(
    full: Manifest, name: str, seen: Sequence[ClipMeasurement], bad: Sequence[BadClip], window_seconds: float
) -> dict[str, Any]:
    """What is known of a split, as plain data."""
    clips, classes = full.splits[name].labelled()
    labels = np.bincount(clips, minlength=len(full.splits[name]))
    positives = np.bincount(classes, minlength=len(full.classes)).tolist()
    about = {
        "clips": len(labels),
        "official": full.coverage[name][1] if name in full.coverage else len(labels),
        "labels_per_clip": {"mean": float(labels.mean()), "max": int(labels.max()), "none": int((labels == 0).sum())},
        "positives": dict(zip(full.classes, positives, strict=True)),
        "looked_at": len(seen) + len(bad),
        "unreadable": {clip.clip_id: f"{clip.path}: {clip.reason}" for clip in bad},
    }
    if seen:
        seconds = [clip.seconds for clip in seen]
        about["seconds"] = {
            "min": min(seconds),
            "median": statistics.median(seconds),
            "mean": statistics.fmean(seconds),
            "max": max(seconds),
            "shorter_than_window": sum(x < window_seconds for x in seconds) / len(seconds),
        }
    sizes = Counter(f"{clip.size[0]}x{clip.size[1]}" for clip in seen if clip.size)
    rates = Counter(f"{clip.frames_per_second:.2f}" for clip in seen if clip.frames_per_second)
    return about | {"picture_sizes": dict(sizes.most_common()), "frames_per_second": dict(rates.most_common())}


def fitting_tasks(full: Manifest) -> list[str]:
    """The tasks that every label of the manifest fits."""
    heads = {name.partition(":")[0] for name in full.classes}
    are_heads = len(heads) > 1 and all(":" in name for name in full.classes)
    one, one_a_head = True, are_heads
    for examples in full.splits.values():
        clips, classes = examples.labelled()
        one &= bool((np.bincount(clips, minlength=len(examples)) == 1).all())
        if are_heads:
            head = np.array([sorted(heads).index(name.partition(":")[0]) for name in full.classes])
            table = np.bincount(clips * len(heads) + head[classes], minlength=len(examples) * len(heads))
            one_a_head &= bool((table == 1).all())
    return ["Multihead"] * one_a_head + ["Multiclass"] * one + ["Multilabel"]


def print_stats(full: Manifest, about: Mapping[str, Any], split: str) -> None:
    """Print what was measured: a column a split, then the classes."""
    table = Table(title=f"{full.path}: {len(full.classes)} classes, data {full.digest}")
    table.add_column("")
    for name in about["splits"]:
        table.add_column(name, justify="right")
    splits = list(about["splits"].values())
    rows = {
        "clips": [f"{s['clips']} of {s['official']}" for s in splits],
        "labels a clip, mean / max": [
            f"{s['labels_per_clip']['mean']:.2f} / {s['labels_per_clip']['max']}" for s in splits
        ],
        "clips without label": [str(s["labels_per_clip"]["none"]) for s in splits],
        "looked at, unreadable": [f"{s['looked_at']}, {len(s['unreadable'])}" for s in splits],
    }
    for key in ("min", "median", "mean", "max"):
        rows[f"seconds, {key}"] = [f"{s['seconds'][key]:.2f}" if "seconds" in s else "–" for s in splits]
    shorter = [f"{s['seconds']['shorter_than_window']:.1%}" if "seconds" in s else "–" for s in splits]
    rows[f"shorter than {about['window_seconds']:g} s"] = shorter
    for title, key in {"pictures": "picture_sizes", "pictures a second": "frames_per_second"}.items():
        rows[title] = [abbreviate(list(s[key]), MOST_SIZES) or "–" for s in splits]
    for title, cells in rows.items():
        table.add_row(title, *cells)
    Console().print(table)

    positives = about["splits"][split]["positives"]
    ranked = sorted(positives, key=positives.get)
    for what, names in {"rarest": ranked[:3], "commonest": ranked[:-4:-1]}.items():
        print(f"{what} classes in {split}: " + ", ".join(f"{name} ({positives[name]})" for name in names))
    for name in about["splits"]:
        without = [c for c, count in about["splits"][name]["positives"].items() if not count]
        if without:
            print(f"classes without a clip in {name}: {len(without)} ({abbreviate(without)})")
    print(f"tasks that all labels fit: {', '.join(about['fitting_tasks'])}")
