"""What the trials of a sweep cost before they are run: GFLOPs as counted, hours at the speed of finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbt_lightning.errors import UserError, duration
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.plan import Planner
from mbt_lightning.sweep.planned_runs import read_folders
from mbt_lightning.sweep.progress import ANY, short, title_of, values_of

TRAINING = 3
"""Multiply-adds of a training step over those of a forward pass: the backward pass makes two products of each one."""


def print_estimate(planner: Planner, workers: int, rate: float | None) -> None:
    """Print every trial of the plan with what it costs.

    Args:
        planner: the sweep's planner.
        workers: how many trials will run at a time.
        rate: billions of multiply-adds a second of a training; None: that of runs that have finished.
    """
    plan, statuses = planner.made, planner.statuses()
    source = "as given"
    if rate is None:
        rate, source = measured_rate(planner.ledger.folder)
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
        status = statuses[trial]
        clips = clips_trained(planner.config(trial), about["train_clips"])
        seconds = TRAINING * about["gflops_per_clip"] * clips / rate if clips and rate else None
        if status.name != "done":
            is_complete &= seconds is not None
            left += seconds or 0.0
        expected = "–" if seconds is None else f"~ {duration(seconds)}"
        before = status.name if status.name != "waiting" else ""
        table.add_row(
            *(escape(short(values[trial].get(name, ANY))) for name in plan["parameters"]),
            str(num_points[trial]),
            f"{about['gflops_per_clip']:.4g}",
            f"took {duration(status.seconds)}" if status.name == "done" else f"{before} {expected}".strip(),
        )
    Console().print(table)
    print(
        "points: number of sweep points that are this experiment\n"
        "GFLOPs: billions of multiply-adds of a clip's forward pass; training takes three times that for every clip"
    )
    if rate is None:
        print("time: no run has finished yet to measure the speed by; give --rate, or let one run first (--count 1)")
    else:
        unknown = "" if is_complete else ", without the trials whose number of clips is unknown"
        at_a_time = f" with {workers} at a time" if workers > 1 else ""
        print(f"speed: {rate:.4g} GFLOPs a second, {source}")
        print(f"time left: about {duration(left / workers)}{at_a_time}{unknown}")


def clips_trained(config: Mapping[str, Any], train_clips: int | None) -> int | None:
    """Number of clips that a whole training reads, repeated ones included; None if it is unknown."""
    trainer, batch_size = config["trainer"], config["data"]["batch_size"]
    if (trainer["max_steps"] or -1) > 0:
        return trainer["max_steps"] * batch_size
    if train_clips is None or not trainer["max_epochs"]:
        return None
    per_epoch = train_clips
    if isinstance(limit := trainer.get("limit_train_batches"), int):
        per_epoch = min(per_epoch, limit * batch_size)
    elif isinstance(limit, float):
        per_epoch = round(per_epoch * limit)
    return per_epoch * trainer["max_epochs"]


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
