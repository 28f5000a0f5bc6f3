"""What a model is trained for: the loss of a clip and the scores of a test set, side by side for every task.

Targets are float (B, num_classes), mixed or not. Scores are fractions from 0 to 1, except for the counts among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from mbt_lightning.data.records import DataSpec
from mbt_lightning.errors import UserError

LogMean = Callable[[Tensor], Tensor]


class Task:
    """The base of all tasks.

    Args:
        spec: the data's classes and their groups.
    """

    main_score = ""
    """The score that a run is judged by; larger is better."""

    def __init__(self, spec: DataSpec):
        self.classes = spec.classes
        self.groups = spec.groups

    def problem(self, labels: tuple[str, ...]) -> str | None:
        """What is wrong with the labels of a clip for this task; None if nothing is."""
        return None

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        """Label smoothing, y (1 - s) + s / C; after mixup, as the authors do."""
        return targets * (1 - amount) + amount / targets.shape[-1]

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each clip, (B,), from logits and targets (B, num_classes)."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, num_classes) of logits."""
        raise NotImplementedError

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
        """Logits (N, num_classes) whose probabilities are the mean of those of several rows of `logits`.

        Args:
            logits: (B, num_classes).
            log_mean: logarithms (B, num_classes) -> (N, num_classes), those of the mean over the rows of each clip.
        """
        raise NotImplementedError

    @final
    def scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Scores of a set of clips, from logits (N, num_classes) and their unmixed targets.

        A set with a logit that is not finite has no order, and every score of it is NaN.
        """
        if logits.isfinite().all():
            return self.finite_scores(logits, targets)
        return dict.fromkeys(self.finite_scores(torch.zeros_like(logits), targets), math.nan)

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Scores of a set of clips all of whose logits are finite; always of the same names."""
        raise NotImplementedError


class Multilabel(Task):
    """Any number of classes a clip: BCE summed over classes, mean average precision.

    The sum is the authors': torch's own mean over classes is smaller by their number, and the paper's learning rate
    belongs to the sum.
    """

    main_score = "mAP"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Binary cross entropy, summed over classes."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of every class by itself."""
        return logits.sigmoid()

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
        """The mean probability of each class against that of its absence; large ones do not all round to 1."""
        return log_mean(F.logsigmoid(logits)) - log_mean(F.logsigmoid(-logits))

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """`mAP` over the classes that have positives, how many had, and `mAP/<group>` for each group of classes."""
        precisions = average_precisions(logits, targets)
        known = ~precisions.isnan()
        result = {"mAP": nanmean(precisions), "classes_with_positives": float(known.sum())}
        for group in dict.fromkeys(self.groups):
            chosen = torch.tensor([g == group for g in self.groups])
            result[f"mAP/{group}"] = nanmean(precisions[chosen])
        return result


class Multiclass(Task):
    """One class a clip: cross entropy, top-1 and top-5 accuracy."""

    main_score = "top1"

    def problem(self, labels: tuple[str, ...]) -> str | None:
        """A clip has one label."""
        return None if len(labels) == 1 else f"task Multiclass wants one label, not {len(labels)}"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy with (mixed) targets."""
        return F.cross_entropy(logits, targets, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over the classes."""
        return logits.softmax(-1)

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
        """The logarithm of the mean probabilities."""
        return log_mean(logits.log_softmax(-1))

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """`top1` and `top5`, and `top1/<group>` over the clips of each group of classes."""
        true = targets.argmax(-1)
        result = {f"top{k}": topk_accuracy(logits, true, k) for k in (1, 5)}
        for group in dict.fromkeys(self.groups):
            members = torch.tensor([i for i, g in enumerate(self.groups) if g == group])
            chosen = torch.isin(true, members)
            result[f"top1/{group}"] = topk_accuracy(logits[chosen], true[chosen], 1)
        return result


class Multihead(Task):
    """One class of each head a clip, as EPIC-KITCHENS' verb and noun; the action is the pair of both.

    The heads are told by the class names: what stands before the first colon, as in `verb:3` and `noun:17`.

    Args:
        spec: the data's classes.

    Raises:
        UserError: class names without head, or a head whose classes do not stand together.
    """

    main_score = "action_top1"

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        names = [name.split(":")[0] for name in spec.classes]
        for name in spec.classes:
            if ":" not in name:
                raise UserError(f"class {name!r} names no head: task Multihead wants names like verb:3 and noun:17")
        self.heads = {head: slice(names.index(head), names.index(head) + names.count(head)) for head in names}
        if any(set(names[where]) != {head} for head, where in self.heads.items()):
            raise UserError(
                f"the classes of a head must stand together in the class list; heads: {', '.join(self.heads)}"
            )

    def problem(self, labels: tuple[str, ...]) -> str | None:
        """A clip has one label of each head."""
        heads = sorted(label.split(":")[0] for label in labels)
        return (
            None if heads == sorted(self.heads) else f"task Multihead wants one label of each: {', '.join(self.heads)}"
        )

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        """Label smoothing within each head."""
        return torch.cat([super(Multihead, self).smooth(targets[:, w], amount) for w in self.heads.values()], dim=-1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the heads of their cross entropies."""
        losses = [F.cross_entropy(logits[:, w], targets[:, w], reduction="none") for w in self.heads.values()]
        return torch.stack(losses).mean(0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax within each head."""
        return torch.cat([logits[:, w].softmax(-1) for w in self.heads.values()], dim=-1)

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
        """The logarithm of the mean probabilities of each head."""
        return torch.cat([log_mean(logits[:, w].log_softmax(-1)) for w in self.heads.values()], dim=-1)

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """`<head>_top1`, `<head>_top5`, and the same for `action`, ranked by the product of the heads' softmaxes."""
        result: dict[str, float] = {}
        for head, where in self.heads.items():
            true = targets[:, where].argmax(-1)
            result |= {f"{head}_top{k}": topk_accuracy(logits[:, where], true, k) for k in (1, 5)}
        return result | self.action_scores(logits, targets)

    def action_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Top-1 and top-5 accuracy of the combination of all heads, in parts of the set (the pairs are many)."""
        hits: dict[str, list[Tensor]] = {"action_top1": [], "action_top5": []}
        for rows, truth in zip(logits.double().split(256), targets.split(256), strict=True):
            product, true = torch.ones(len(rows), 1, dtype=torch.double), torch.zeros(len(rows), dtype=torch.long)
            for where in self.heads.values():
                product = (product[:, :, None] * rows[:, where].softmax(-1)[:, None]).flatten(1)
                true = true * (where.stop - where.start) + truth[:, where].argmax(-1)
            for k, name in zip((1, 5), hits, strict=True):
                hits[name].append(topk_hits(product, true, k))
        return {name: torch.cat(parts).mean().item() for name, parts in hits.items()}


def average_precisions(logits: Tensor, targets: Tensor) -> Tensor:
    """Average precision of every class, float64 (num_classes,); nan where a class has no positive.

    Only the order of the scores matters, so their ranks are given to torchmetrics: probabilities of large logits
    would all round to 1 and tie.
    """
    result = torch.full((logits.shape[1],), torch.nan, dtype=torch.double)
    for c in range(logits.shape[1]):
        if targets[:, c].any():
            ranks = torch.unique(logits[:, c], return_inverse=True)[1].double()
            result[c] = binary_average_precision(ranks / len(ranks), targets[:, c].long())
    return result


def topk_accuracy(logits: Tensor, true: Tensor, k: int) -> float:
    """Part of the rows whose true class is among the k largest logits; nan without rows."""
    return topk_hits(logits, true, k).mean().item()


def topk_hits(logits: Tensor, true: Tensor, k: int) -> Tensor:
    """Whether the true class of each row (N,) is among the k largest of its logits (N, num_classes), 0 or 1 in float64.

    Where it ties with others across that border: the probability that it is if all of them are put in any order.
    """
    own = logits.gather(1, true[:, None])
    greater, tied = (logits > own).sum(1), (logits == own).sum(1)
    return ((k - greater).double() / tied).clamp(0, 1)


def nanmean(values: Tensor) -> float:
    """Mean of what is not nan; nan if nothing is."""
    return values.nanmean().item()
