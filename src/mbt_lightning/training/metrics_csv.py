"""The run's `metrics.csv`: every logged value by step."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mbt_lightning import disk


class MetricsCsv(Logger):
    """Writes every logged value to `metrics.csv`: one row per step, one column per name; a resumed run appends."""

    def __init__(self, folder: Path):
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.written = -math.inf
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    @property
    def name(self) -> str:
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration has its own file."""

    @rank_zero_only
    def rewind_to(self, step: int) -> None:
        """Drop the rows after `step`, and test scores: a resumed run logs them again."""
        kept = [row for row in self.rows if int(row["step"]) <= step]
        self.rows = [{k: v for k, v in row.items() if not k.startswith("test/")} for row in kept]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = int(step or 0)
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.rows.append({"step": step})
        self.rows[-1].update(metrics)

    def save(self) -> None:
        """Write the file, at most every few seconds (Lightning calls this at every step)."""
        if time.monotonic() - self.written > 5:
            self.write()

    @rank_zero_only
    def write(self) -> None:
        self.written = time.monotonic()
        columns = list(dict.fromkeys(["step", *sorted({name for row in self.rows for name in row})]))
        with disk.replacing(self.path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()
