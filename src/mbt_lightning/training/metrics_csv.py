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
    """Writes every logged value to `metrics.csv`: a row a step, a column a name, appended to when a run goes on.

    Args:
        folder: the run's folder.
    """

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
        """Name of the experiment."""
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        """The run's id."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration has a file of its own."""

    @rank_zero_only
    def go_back_to(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed run logs it again."""
        kept = [row for row in self.rows if int(row["step"]) <= step]
        self.rows = [{k: v for k, v in row.items() if not k.startswith("test/")} for row in kept]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step."""
        step = int(step or 0)
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.rows.append({"step": step})
        self.rows[-1].update(metrics)

    def save(self) -> None:
        """Write the file, at most every few seconds (Lightning asks at every step)."""
        if time.monotonic() - self.written > 5:
            self.write()

    @rank_zero_only
    def write(self) -> None:
        """Write the file; it is complete at every moment."""
        self.written = time.monotonic()
        columns = list(dict.fromkeys(["step", *sorted({name for row in self.rows for name in row})]))
        with disk.replacing(self.path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.write()
