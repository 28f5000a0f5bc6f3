"""Saving of checkpoints: files that are never incomplete, and one that a run can always resume from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mbt_lightning.disk import replacing
from mbt_lightning.training.lightning_internals import mark_validation_started


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file next to its place, syncs it to the disk, and then renames it.

    Lightning writes to the folder of temporary files and moves, which between file systems is a copy that can be
    interrupted; and without a sync a power failure can leave a file of zeros.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; to remote paths as Lightning does."""
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # To a file of Python's: torch's own writer does not say why it fails, as on a full disk.
        with replacing(path, sync=True) as unfinished, open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
            file.close()  # before it is synced and renamed

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda x, _: x, weights_only: Any = None
    ) -> dict[str, Any]:
        """Read tensors and plain data only; from an address, which a checkpoint may name, Lightning would run more."""
        return super().load_checkpoint(path, map_location, weights_only=True)


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`: the state at the end of the last complete epoch, or where a run was stopped.

    Lightning's `save_last` writes it only together with the best checkpoint.
    """

    def __init__(self) -> None:
        self.dirpath: str | None = None
        self.saved_step = -1
        self.is_in_validation = False

    def save(self, trainer: L.Trainer) -> None:
        if trainer.global_step != self.saved_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            assert self.dirpath
            self.saved_step = trainer.global_step
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt", weights_only=False)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.save(trainer)

    def on_exception(self, trainer, pl_module, exception) -> None:
        """Save where a training was stopped, by all processes at the same step."""
        if isinstance(exception, SIGTERMException) and trainer.state.fn == TrainerFn.FITTING:
            self.is_in_validation = trainer.validating
            self.save(trainer)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Resume at the interrupted validation."""
        if self.is_in_validation:
            mark_validation_started(checkpoint)
