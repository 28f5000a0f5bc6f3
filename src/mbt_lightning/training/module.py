"""The LightningModule around the encoder: losses, steps, scores, optimiser and schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mbt_lightning.data.mixup import Mixup
from mbt_lightning.data.records import Batch, DataSpec
from mbt_lightning.data.sampling import chance
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.model.mbt import MBT, fuse
from mbt_lightning.model.pretrained.init import Init, Report
from mbt_lightning.model.tokens import PatchTokens
from mbt_lightning.runs.diverged import NON_FINITE
from mbt_lightning.training.tasks import Multilabel, Task


def sgd(parameters: Iterable) -> Optimizer:
    """The paper's optimiser: SGD with momentum 0.9 and a learning rate of 0.5."""
    return torch.optim.SGD(parameters, lr=0.5, momentum=0.9)


class AudioVisualClassifier(L.LightningModule):
    """Trains and scores an `MBT` for a task.

    The loss is the mean of the modalities' losses (authors' code); at test, logits are averaged over the modalities
    and, by default, over the views of a clip (paper 3.2.3, 4.2). Scores are logged as
    `<stage>/<modality or fused>/<score>`, the fused main score of the task also as `<stage>/score`.

    Args:
        spec: classes and shapes of the data; set by the program from `data`.
        task: `Multilabel`, `Multiclass`, `Multihead`, or your own `mbt_lightning.training.tasks.Task` by class path.
        modalities: which modalities are used, in the order in which a sequential bottleneck visits them.
        optimizer: a `torch.optim` class and its settings. Biases, norms, positions and tokens get no weight decay.
        warmup_fraction: part of all training steps in which the learning rate grows linearly from 0, 0 to below 1;
            the rest follows half a cosine down to 0. The paper's 2.5 of 50 epochs are 0.05.
        label_smoothing: s in y (1 - s) + s / C, from 0 to below 1.
        mixup: `Mixup` or `ModalityMixup`; null: none.
        init: starting weights of a training, e.g. `GoogleViT`, `TimmViT`, `AST`, `Scenic`, `Checkpoint` or
            `PerModality`; null: random ones. A training that resumes from its checkpoint does not read them.
        average_views: what the views of a clip are averaged as, `logits` (the paper's) or `probabilities` (CAV-MAE's).
        compile: whether `torch.compile` speeds up the encoder; checkpoints are the same with and without.
        **network: the settings of `mbt_lightning.model.mbt.MBT`.

    Raises:
        UserError: for a value out of range, or settings that do not go together.
    """

    def __init__(
        self,
        spec: DataSpec,
        task: Callable[[DataSpec], Task] = Multilabel,
        modalities: list[str] = ["rgb", "spectrogram"],  # noqa: B006
        optimizer: Callable[[Iterable], Optimizer] = sgd,
        warmup_fraction: float = 0.05,
        label_smoothing: float = 0.0,
        mixup: Mixup | None = None,
        init: Init | None = None,
        average_views: Literal["logits", "probabilities"] = "logits",
        compile: bool = False,
        **network: Any,
    ):
        super().__init__()
        for name, value in {"warmup_fraction": warmup_fraction, "label_smoothing": label_smoothing}.items():
            if not 0 <= value < 1:
                raise UserError(f"{name} is {value}: give a part from 0 to below 1")
        if average_views not in ("logits", "probabilities"):
            raise UserError(f"average_views is {average_views!r}: choose logits or probabilities")
        for m in modalities:
            if m not in spec.inputs:
                raise UserError(f"modality {m!r} is not in the data, which has {', '.join(spec.inputs)}")
        inputs = {m: spec.inputs[m] for m in modalities}
        self.spec = spec
        self.task = task(spec)
        self.network = MBT(inputs, len(spec.classes), **network)
        if mixup and mixup.per_modality and not self.network.head.per_modality:
            raise UserError("ModalityMixup needs logits for each modality: use ClsHead, or Mixup")
        self.optimizer, self.warmup_fraction = optimizer, warmup_fraction
        self.label_smoothing, self.mixup = label_smoothing, mixup
        self.average_views = average_views
        self.init = init
        self.init_report: Report | None = None
        if compile:
            self.network.compile()  # in place: names of parameters stay as they are
        self.batch_loss: Tensor | None = None
        self.non_finite_clips = 0
        self._outputs: list[dict[str, Any]] = []

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits {modality: (B, num_classes)} in float32."""
        return {m: x.float() for m, x in self.network(inputs).items()}

    def loss(self, logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Loss of each clip, (B,): the mean over the modalities' losses."""
        return torch.stack([self.task.loss(x, targets[m]) for m, x in logits.items()]).mean(0)

    def setup(self, stage: str) -> None:
        """Refuse labels that do not fit the task."""
        data = getattr(self.trainer, "datamodule", None)
        for clips in [] if data is None or stage == "predict" else data.clips(stage):
            for place, labels in clips.unique_label_sets():
                if problem := self.task.problem(labels):
                    raise UserError(f"clip {clips[place].clip_id!r} has the labels {list(labels)}: {problem}")

    def on_fit_start(self) -> None:
        """Load the starting weights of a new training, not of a resumed one."""
        if not self.trainer.ckpt_path:
            self.load_init()

    def load_init(self) -> None:
        """Load the starting weights, once; `init_report` records what was done with them."""
        if self.init and not self.init_report:
            self.init_report = self.init(self.network)

    def on_train_start(self) -> None:
        """Let this run's optimiser settings override those of the checkpoint."""
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        for group, setting in zip(optimizer.param_groups, self._settings, strict=True):
            factor = schedule.lr_lambdas[0](schedule.last_epoch)
            group |= setting | {"lr": setting["initial_lr"] * factor}
        schedule.base_lrs = [setting["initial_lr"] for setting in self._settings]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model with a one-line error."""
        theirs, ours = checkpoint["state_dict"], self.state_dict()
        missing, unknown = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        other = [
            f"{name} is {list(theirs[name].shape)} there and {list(ours[name].shape)} here"
            for name in ours.keys() & theirs.keys()
            if theirs[name].shape != ours[name].shape
        ]
        if missing or unknown or other:
            problems = [
                *sorted(other),
                *(f"{n} is missing there" for n in missing),
                *(f"{n} is not known here" for n in unknown),
            ]
            raise UserError(
                f"the checkpoint does not fit this model: {'; '.join(problems[:3])}"
                f"{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}; "
                "give the settings that it was trained with, or none"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed by seed, epoch, batch and rank, so that a resumed run draws the same as an uninterrupted one."""
        source = chance("step", self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(source.getrandbits(63))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mix inputs, smooth labels, and compute the loss."""
        inputs, targets = batch.inputs, dict.fromkeys(batch.inputs, batch.targets)
        if self.mixup:
            inputs, targets = self.mixup(inputs, batch.targets)
        logits = self(inputs)
        targets = {
            m: self.task.smooth(targets[m] if m in targets else next(iter(targets.values())), self.label_smoothing)
            for m in logits
        }
        loss = self.loss(logits, targets).mean()
        self.batch_loss = loss.detach()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of the batch."""
        self.keep_outputs(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of the batch."""
        self.keep_outputs(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits of the batch."""
        self.keep_outputs(batch)

    def keep_outputs(self, batch: Batch) -> None:
        """Run the encoder on a batch, which may be empty if no clip of it could be read."""
        if len(batch):
            logits = {m: x.double().cpu() for m, x in self(batch.inputs).items()}
            rest = {"index": batch.index, "view": batch.view, "targets": batch.targets}
            self._outputs.append({"logits": logits} | {name: x.cpu() for name, x in rest.items()})

    def on_validation_epoch_end(self) -> None:
        """Score the validation set."""
        self.log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Score the test set."""
        self.log_scores("test")

    def on_predict_epoch_end(self) -> None:
        """Store the predictions in `self.predictions`."""
        self.predictions = self.gather()

    def gather(self) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Collect every clip from every process, once, and average its views.

        Returns:
            Index of the clips (N,) in rising order; logits {modality: (N, num_classes)} in float64, `fused` last
            (those of the mean probability if probabilities are averaged); targets (N, num_classes).
        """
        parts, self._outputs = self._outputs, []
        if self.trainer.world_size > 1:
            everywhere: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(everywhere, parts)
            parts = [part for rank in everywhere for part in rank]
        if not parts:
            raise UserError("no clip could be read; see the warnings above")
        index, view, targets = (torch.cat([part[name] for part in parts]) for name in ("index", "view", "targets"))
        logits = {m: torch.cat([part["logits"][m] for part in parts]) for m in parts[0]["logits"]}

        # Ranks get duplicates to fill their last batch: keep one of each (index, view), in sorted order.
        views = int(view.max()) + 1
        _, place = first_of_each(index * views + view)
        logits = {m: x[place] for m, x in logits.items()}
        logits["fused"] = fuse(logits)
        clips, clip_of_row = index[place].unique(return_inverse=True)
        _, first = first_of_each(clip_of_row)
        return clips, {m: self.mean_of_views(x, clip_of_row) for m, x in logits.items()}, targets[place][first]

    def mean_of_views(self, logits: Tensor, clip: Tensor) -> Tensor:
        """Logits (N, num_classes) of clips from those of their views (B, num_classes), view i of clip `clip[i]`."""
        if self.average_views == "logits":
            return mean_by(logits, clip)
        return self.task.mean_probabilities(logits, lambda x: log_mean_by(x, clip))

    def log_scores(self, stage: str) -> None:
        """Log loss and scores of all clips since the last call.

        `non_finite_clips` is the number of clips whose logits are not finite; it is logged if there are any.
        """
        if self.trainer.sanity_checking:
            self._outputs = []
            return
        clips, logits, targets = self.gather()
        own = {m: x for m, x in logits.items() if m != "fused"} or logits
        values = {f"{stage}/loss": self.loss(own, dict.fromkeys(own, targets)).mean().item()}
        for m, x in logits.items():
            values |= {f"{stage}/{m}/{name}": score for name, score in self.task.scores(x, targets).items()}
        values[f"{stage}/score"] = values[f"{stage}/fused/{self.task.main_score}"]
        values[f"{stage}/clips"] = float(len(clips))
        is_finite = torch.stack([x.isfinite().all(-1) for x in logits.values()]).all(0)
        self.non_finite_clips = int((~is_finite).sum())
        if self.non_finite_clips:
            values[f"{stage}/{NON_FINITE}"] = float(self.non_finite_clips)
        self.log_dict(values, rank_zero_only=False)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and the schedule in steps of the trainer."""
        decayed = {id(m.weight) for m in self.network.modules() if isinstance(m, nn.Linear | PatchTokens)}
        groups = [
            {"params": [p for p in self.network.parameters() if id(p) in decayed]},
            {"params": [p for p in self.network.parameters() if id(p) not in decayed], "weight_decay": 0.0},
        ]
        try:
            optimizer = self.optimizer(groups)
        except (ValueError, TypeError) as error:
            raise UserError(f"model.optimizer: {one_line(error)}") from error
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise UserError("the schedule needs an end: set trainer.max_epochs or trainer.max_steps")
        warmup = int(self.warmup_fraction * total)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, int(total), warmup))
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.trainer.datamodule.seed if getattr(self.trainer, "datamodule", None) else 0


def warmup_cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the learning rate: linear from 0 over `warmup` steps, times half a cosine over the rest.

    The same numbers as the authors' schedule (their compound of linear warm-up and cosine decay).
    """
    warm = min(1.0, step / warmup) if warmup else 1.0
    progress = max(0, step - warmup) / max(1, total - warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def mean_by(x: Tensor, group: Tensor) -> Tensor:
    """Mean over the rows of each group: x (B, C) and the group of each row (B,), 0 to N - 1 -> (N, C)."""
    count = torch.bincount(group).to(x.dtype)[:, None]
    return torch.zeros(len(count), x.shape[1], dtype=x.dtype).index_add(0, group, x) / count


def log_mean_by(x: Tensor, group: Tensor) -> Tensor:
    """Logarithm of the mean of exp(x) over the rows of each group, as `mean_by`."""
    top = torch.full((int(group.max()) + 1, x.shape[1]), -math.inf, dtype=x.dtype)
    top = top.scatter_reduce(0, group[:, None].expand_as(x), x, "amax")
    return top + mean_by((x - top[group]).exp(), group).log()


def first_of_each(keys: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct values of `keys` (N,) in rising order, and the first place of each."""
    order = torch.argsort(keys, stable=True)
    values, counts = keys[order].unique_consecutive(return_counts=True)
    return values, order[counts.cumsum(0) - counts]
