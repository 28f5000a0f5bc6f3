"""Numbers that are not finite stop the training, and such weights are never saved."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.utils import get_total_norm

from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.runs.diverged import NON_FINITE, divergence
from mbt_lightning.training.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

REMEDY = "lower the learning rate, clip the gradients, or check these clips"


class FiniteGuard(L.Callback):
    """Stops a training whose loss, gradients or weights are not finite; all processes do so at the same step.

    Loss and gradients are checked before the optimiser makes a step and before gradients are clipped, while the weights
    are still good. This transfers one number per step from the device. Infinite scaled gradients (`16-mixed`) are left
    to the scaler, which skips such steps.
    """

    def __init__(self) -> None:
        self.batches: list[Tensor] = []
        """Indices of the clips of every batch since the last step."""
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Remember the clips of the next step."""
        self.batches.append(batch.index)

    def on_before_backward(self, trainer, pl_module, loss) -> None:
        """Remember the loss; the argument may be scaled."""
        self.losses.append(pl_module.batch_loss)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        """Check losses and gradients, summed over all processes."""
        batches, self.batches = self.batches, []
        losses, self.losses = self.losses, []
        gradients = {} if is_scaled(trainer) else gradients_of(pl_module)
        largest = [get_total_norm(gradients.values(), float("inf"))] if gradients else []
        wrong = (~torch.stack([*losses, *largest]).isfinite()).sum()
        if trainer.strategy.reduce(wrong, reduce_op="sum").item():
            stop(trainer, batches, losses, first_not_finite(gradients.items()))

    def on_validation_end(self, trainer, pl_module) -> None:
        """Report a validation without a score; stop before saving if no clip has finite logits."""
        lost = pl_module.non_finite_clips
        if not lost or trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING:
            return
        clips = float(trainer.callback_metrics["val/clips"])
        problem = divergence({NON_FINITE: lost, "clips": clips})
        if lost == clips:
            raise UserError(
                f"training has {problem} in the validation after step {trainer.global_step}; {last_good(trainer)}; "
                "lower the learning rate, or clip the gradients"
            )
        if trainer.is_global_zero:
            log.warning("%s in the validation after step %d, which has no score", problem, trainer.global_step)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Never write weights that are not finite."""
        weights = dict(pl_module.named_parameters())
        if not get_total_norm([x.detach() for x in weights.values()], float("inf")).isfinite():
            raise UserError(
                f"training has diverged: after step {trainer.global_step} the weights of "
                f"{first_not_finite(weights.items())} are not finite, and are not saved; {last_good(trainer)}; "
                "lower the learning rate, or clip the gradients"
            )


def is_scaled(trainer: L.Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def gradients_of(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: x.grad for name, x in module.named_parameters() if x.grad is not None}


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The name of the first tensor with a value that is not finite; empty if there is none."""
    return next((name for name, x in tensors if not x.detach().isfinite().all()), "")


def stop(trainer: L.Trainer, batches: Sequence[Tensor], losses: Sequence[Tensor], parameter: str) -> NoReturn:
    """Stop the training with the same message on every process; `parameter`: the first with such gradients, if any."""
    mine = [(x.item(), where.tolist()) for x, where in zip(losses, batches, strict=True)]
    everywhere: list[Any] = [mine]
    if trainer.world_size > 1:
        everywhere = [None] * trainer.world_size
        dist.all_gather_object(everywhere, mine)
    found = [pair for part in everywhere for pair in part]
    wrong = [(loss, where) for loss, where in found if not torch.tensor(loss).isfinite()]
    what = f"the loss is {wrong[0][0]:g}" if wrong else f"the gradients of {parameter} are not finite"
    clips = trainer.datamodule.clips("fit")[0]  # type: ignore[attr-defined]
    places = dict.fromkeys(place for _, where in wrong or found for place in where)
    raise UserError(
        f"training has diverged: at step {trainer.global_step + 1} {what} (clips of the batch: "
        f"{abbreviate([clips[place].clip_id for place in places])}); {last_good(trainer)}; {REMEDY}"
    )


def last_good(trainer: L.Trainer) -> str:
    """The newest checkpoint of the run with finite weights, in words."""
    places = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    folders = {Path(place) for place in places if place}
    found = {path for folder in folders for path in folder.glob("*.ckpt")}
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_good(path):
            return f"the last good checkpoint is {path}"
    return "no checkpoint with finite weights was saved"


def is_good(path: Path) -> bool:
    try:
        return not first_not_finite(read_checkpoint(path)["state_dict"].items())
    except (UserError, KeyError):
        return False
