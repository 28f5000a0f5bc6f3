"""What the trials of a sweep cost before they are run: GFLOPs by arithmetic, hours at a rate that was measured."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbt_lightning.config.settings import nested
from mbt_lightning.errors import UserError, duration
from mbt_lightning.model.authors_flops import cost_of_settings
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.plan import Planner
from mbt_lightning.sweep.planned_runs import read_folders
from mbt_lightning.sweep.progress import ANY, short, title_of, values_of

TRAINING = 3
"""A training step over a forward pass, in multiply-adds: the backward pass makes two products of each one."""

AUDIOSET_CLASSES = 527


def print_estimate(planner: Planner, workers: int, rate: float | None) -> None:
    """Print every trial of the plan with what it costs.

    Args:
        planner: the sweep's planner.
        workers: how many trials will run at a time.
        rate: billions of multiply-adds a second of a training; None: that of runs that have finished.
    """
    ledger = planner.ledger
    plan = planner.made
    states = {trial: ledger.state(trial) for trial in plan["trials"]}
    source = "as given"
    if rate is None:
        rate, source = measured_rate(ledger.folder)
    elif rate <= 0:
        raise UserError(f"--rate is {rate}: give billions of multiply-adds a second, above 0")
    table = Table(box=None)
    for name in plan["parameters"]:
        table.add_column(escape(title_of(name).replace("_", "\n")), overflow="fold")
    for name in ("points", "GFLOPs", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    values = values_of(plan)
    num_points = Counter(point["trial"] for point in plan["points"])
    left, is_complete = 0.0, True
    for trial, about in plan["trials"].items():
        config, state = nested(about["settings"]), states[trial]
        a_clip, whole = gflops_a_clip(config), training_gflops(config)
        seconds = whole / rate if whole and rate else None
        if state.name != "done":
            is_complete &= seconds is not None
            left += seconds or 0.0
        expected = "–" if seconds is None else f"~ {duration(seconds)}"
        took = state.name if state.name != "waiting" else ""
        table.add_row(
            *(escape(short(values[trial].get(name, ANY))) for name in plan["parameters"]),
            str(num_points[trial]),
            "–" if a_clip is None else f"{a_clip:.4g}",
            f"took {duration(state.seconds)}" if state.name == "done" else f"{took} {expected}".strip(),
        )
    Console().print(table)
    print(
        "points: how many of the sweep are this one experiment\n"
        "GFLOPs: billions of multiply-adds of a clip's forward pass; a training takes three times that for every clip"
    )
    if rate is None:
        print("time: no run has finished yet to measure the speed by; give --rate, or let one run first (--count 1)")
    else:
        unknown = "" if is_complete else ", without the trials whose clips or strategy are not known"
        at_a_time = f" with {workers} at a time" if workers > 1 else ""
        print(f"speed: {rate:.4g} GFLOPs a second, {source}")
        print(f"what is left: about {duration(left / workers)}{at_a_time}{unknown}")


def gflops_a_clip(config: dict[str, Any]) -> float | None:
    """Billions of multiply-adds of one clip's forward pass; None for a strategy that arithmetic does not know."""
    num_classes, _ = facts_of(config["data"]["manifest"], config["data"].get("media_root"))
    cost = cost_of_settings(config, num_classes)
    return None if cost is None else cost.as_run / 1e9


def training_gflops(config: dict[str, Any]) -> float | None:
    """Billions of multiply-adds of a whole training; None if its strategy, its clips or its end are not known."""
    _, num_clips = facts_of(config["data"]["manifest"], config["data"].get("media_root"))
    trainer, a_clip = config["trainer"], gflops_a_clip(config)
    steps = trainer["max_steps"] if (trainer["max_steps"] or -1) > 0 else None
    if a_clip is None or num_clips is None or (steps is None and not trainer["max_epochs"]):
        return None
    per_epoch = num_clips
    if isinstance(limit := trainer.get("limit_train_batches"), int):
        per_epoch = min(per_epoch, limit * config["data"]["batch_size"])
    elif isinstance(limit, float):
        per_epoch = round(per_epoch * limit)
    clips = per_epoch * (trainer["max_epochs"] or 0) if steps is None else steps * config["data"]["batch_size"]
    return TRAINING * a_clip * clips


@cache
def facts_of(manifest: str, media_root: str | None) -> tuple[int, int | None]:
    """Number of classes, and of training clips (None where there is no manifest yet)."""
    if manifest == "demo":
        from mbt_lightning.data.demo import CLASSES, DemoSize

        return len(CLASSES), DemoSize().train
    if not Path(manifest).is_file():
        return AUDIOSET_CLASSES, None
    from mbt_lightning.data.manifest.manifest import read_manifest  # takes torch along

    content = read_manifest(manifest, media_root)
    return len(content.classes), len(content.splits.get("train", ()))


def measured_rate(folder: Path) -> tuple[float | None, str]:
    """Speed of training, in billions of multiply-adds a second, of this sweep's finished runs, or else of all runs."""
    for place in (folder, folder.parent):
        runs = read_folders([place])[0] if place.is_dir() else []
        rates = [rate for run in runs if (rate := rate_of(run))]
        if rates:
            return median(rates), f"the median of {len(rates)} finished run{'s'[: len(rates) > 1]} in {place}"
    return None, ""


def rate_of(run: Run) -> float | None:
    """Billions of multiply-adds a second of a finished run's training."""
    fit, gflops = run.summary.get("fit") or {}, run.summary.get("gflops_per_clip")
    if not fit.get("finished") or not fit.get("clips_per_second") or not gflops:
        return None
    return TRAINING * fit["clips_per_second"] * gflops
