"""Clips that cannot be read are reported and counted; too many stop the run."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn

from mbt_lightning.data.records import BadClip, Batch
from mbt_lightning.errors import UserError

log = logging.getLogger(__name__)


class BadClipGuard(L.Callback):
    """Reports every unreadable file once, counts the clips, and stops the run if there are too many."""

    def __init__(self) -> None:
        self.bad: dict[str, dict[str, BadClip]] = {}
        self.reported: set[str] = set()

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        found = {name: [clip.path, clip.reason] for name, clip in self.bad.get("train", {}).items()}
        checkpoint["mbt_lightning"]["bad_clips"] = found

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            found = checkpoint["mbt_lightning"].get("bad_clips", {})
            self.bad["train"] = {name: BadClip(name, path, reason) for name, (path, reason) in found.items()}

    def note(self, trainer: L.Trainer, split: str, batch: Batch, batch_idx: int) -> None:
        """Record a batch's bad clips; check the limit at steps where all processes do."""
        for clip in batch.bad:
            self.bad.setdefault(split, {})[clip.clip_id] = clip
            if clip.path not in self.reported:
                self.reported.add(clip.path)
                log.warning("%s cannot be read and is skipped: %s", clip.path, clip.reason)
        if split != "predict" and (trainer.world_size == 1 or (batch_idx + 1) % 50 == 0):
            self.check(trainer, split)

    def check(self, trainer: L.Trainer, split: str) -> int:
        """Collect the bad clips of all processes; returns their number.

        Raises:
            UserError: it exceeds `data.max_bad_fraction` of the split.
        """
        bad = self.bad.setdefault(split, {})
        if trainer.world_size > 1:
            everywhere: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(everywhere, bad)
            for part in everywhere:
                bad.update(part)
        data = trainer.datamodule
        total, limit = len(data.manifest.splits.get(split, ())), data.max_bad_fraction
        if bad and len(bad) > limit * total:
            first = next(iter(bad.values()))
            raise UserError(
                f"{len(bad)} of the {total} clips of split {split!r} cannot be read, more than data.max_bad_fraction = "
                f"{limit:g}; e.g. {first.path}: {first.reason}; repair the files, drop their rows, or raise the limit"
            )
        return len(bad)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.note(trainer, "train", batch, batch_idx)
        if not len(batch):
            raise UserError(f"no clip of a batch could be read, e.g. {batch.bad[0].path}: {batch.bad[0].reason}")

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.note(trainer, trainer.datamodule.val_split, batch, batch_idx)

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.note(trainer, trainer.datamodule.test_split, batch, batch_idx)

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        self.note(trainer, "predict", batch, batch_idx)

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("train/bad_clips", float(self.check(trainer, "train")))

    def on_validation_epoch_end(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            pl_module.log("val/bad_clips", float(self.check(trainer, trainer.datamodule.val_split)))

    def on_test_epoch_end(self, trainer, pl_module) -> None:
        pl_module.log("test/bad_clips", float(self.check(trainer, trainer.datamodule.test_split)))
