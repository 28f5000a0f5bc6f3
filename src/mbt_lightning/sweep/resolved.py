"""An experiment as the program resolves it, and what it costs: what a plan holds of each trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Resolved:
    """One experiment, complete with defaults.

    Args:
        config: the resolved configuration, as in a run's `config.yaml`.
        gflops_per_clip: billions of multiply-adds of one clip's forward pass, as this program runs it.
        gflops_as_coded: the same in the authors' code; None: it has no such model.
        parameters: number of trained values.
        train_clips: number of training clips; None where there is no manifest yet.
    """

    config: dict[str, Any]
    gflops_per_clip: float
    gflops_as_coded: float | None
    parameters: int
    train_clips: int | None = None
