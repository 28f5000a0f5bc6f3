"""Every door into Lightning that its documentation does not promise; `tests/training/test_lightning_internals.py` names
what has moved when a new version closes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from subprocess import Popen
from typing import Any

import lightning as L
from lightning.pytorch.loops.progress import _BatchProgress

VALIDATION_PROGRESS = "epoch_loop.val_loop.batch_progress"
"""Key of the validation's progress among the states of the fit loop in a checkpoint."""


def silence_sigterm_handler(trainer: L.Trainer) -> None:
    """Keep Lightning's SIGTERM handler from starting a collective operation, which hangs where ranks differ."""
    trainer._signal_connector._sigterm_notifier_fn = lambda number, frame: None  # type: ignore[assignment, method-assign]


def request_stop(trainer: L.Trainer) -> None:
    """Let Lightning raise `SIGTERMException` as soon as the current step is logged."""
    trainer._signal_connector.received_sigterm = True


def is_accumulating(trainer: L.Trainer) -> bool:
    """Whether the current batch ends without an optimiser step."""
    return trainer.fit_loop._should_accumulate()


def rank_processes(trainer: L.Trainer) -> Sequence[Popen]:
    """The processes that Lightning has started for the other ranks."""
    return getattr(trainer.strategy.launcher, "procs", [])


def mark_validation_started(checkpoint: dict[str, Any]) -> None:
    """Let a training that is resumed from a checkpoint start with the validation that was interrupted."""
    progress = _BatchProgress()
    progress.increment_ready()
    progress.increment_started()
    checkpoint["loops"]["fit_loop"][VALIDATION_PROGRESS] = progress.state_dict()


def restore_fit_progress(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Set the counters of a training that has ended, so that a test's scores belong to its last step."""
    loop = trainer.fit_loop
    loop.load_state_dict(checkpoint["loops"]["fit_loop"])
    loop.epoch_progress.current.completed = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
