"""Training tasks: the loss of a clip and the scores of a test set.

Targets are float (B, num_classes), mixed or not. Scores are fractions from 0 to 1, except for counts.
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
    """The base class of all tasks; `spec` gives the data's classes and their groups."""

    main_score = ""
    """The score by which runs are compared; larger is better."""

    def __init__(self, spec: DataSpec):
        self.classes = spec.classes
        self.groups = spec.groups

    def problem(self, labels: tuple[str, ...]) -> str | None:
        """What is wrong with the labels of a clip for this task; None if nothing."""
        return None

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        """Label smoothing, y (1 - s) + s / C; applied after mixup, as in the authors' code."""
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
            log_mean: log probabilities (B, num_classes) -> (N, num_classes), of the mean over the rows of each clip.
        """
        raise NotImplementedError

    @final
    def scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Scores of a set of clips, from logits (N, num_classes) and their unmixed targets.

        If any logit is not finite, the clips have no order, and every score is NaN.
        """
        if logits.isfinite().all():
            return self.finite_scores(logits, targets)
        return dict.fromkeys(self.finite_scores(torch.zeros_like(logits), targets), math.nan)

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """The scores if all logits are finite; always with the same names."""
        raise NotImplementedError


class Multilabel(Task):
    """Any number of classes per clip: binary cross entropy summed over classes, mean average precision.

    The sum is the authors' choice: torch's mean over classes is smaller by their number, and the paper's learning rate
    belongs to the sum.
    """

    main_score = "mAP"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
        """The log odds of each class's mean probability, without rounding large ones to 1."""
        return log_mean(F.logsigmoid(logits)) - log_mean(F.logsigmoid(-logits))

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """`mAP` over the classes with positives, their number, `AUC`, and both for each group as `mAP/<group>`."""
        precisions = average_precisions(logits, targets)
        result = {"mAP": nanmean(precisions), "classes_with_positives": float((~precisions.isnan()).sum())}
        for name, values in {"mAP": precisions, "AUC": roc_areas(logits, targets)}.items():
            result[name] = nanmean(values)
            for group in dict.fromkeys(self.groups):
                result[f"{name}/{group}"] = nanmean(values[torch.tensor([g == group for g in self.groups])])
        return result


class Multiclass(Task):
    """One class per clip: cross entropy, top-1 and top-5 accuracy."""

    main_score = "top1"

    def problem(self, labels: tuple[str, ...]) -> str | None:
        return None if len(labels) == 1 else f"task Multiclass needs one label, not {len(labels)}"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, reduction="none")

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
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
    """One class of each head per clip, such as EPIC-KITCHENS' verb and noun; the action is the pair of both.

    The head of a class is its name up to the first colon, as in `verb:3` and `noun:17`.

    Raises:
        UserError: class names without a head, or a head whose classes are not consecutive.
    """

    main_score = "action_top1"

    def __init__(self, spec: DataSpec):
        super().__init__(spec)
        names = [name.split(":")[0] for name in spec.classes]
        for name in spec.classes:
            if ":" not in name:
                raise UserError(f"class {name!r} has no head: task Multihead needs names like verb:3 and noun:17")
        self.heads = {head: slice(names.index(head), names.index(head) + names.count(head)) for head in names}
        if any(set(names[where]) != {head} for head, where in self.heads.items()):
            raise UserError(f"the classes of a head must be consecutive in the class list: {', '.join(self.heads)}")

    def problem(self, labels: tuple[str, ...]) -> str | None:
        heads = sorted(label.split(":")[0] for label in labels)
        known = sorted(self.heads)
        return None if heads == known else f"task Multihead needs one label of each head: {', '.join(self.heads)}"

    def smooth(self, targets: Tensor, amount: float) -> Tensor:
        return torch.cat([super(Multihead, self).smooth(targets[:, w], amount) for w in self.heads.values()], dim=-1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = [F.cross_entropy(logits[:, w], targets[:, w], reduction="none") for w in self.heads.values()]
        return torch.stack(losses).mean(0)

    def probabilities(self, logits: Tensor) -> Tensor:
        return torch.cat([logits[:, w].softmax(-1) for w in self.heads.values()], dim=-1)

    def mean_probabilities(self, logits: Tensor, log_mean: LogMean) -> Tensor:
        return torch.cat([log_mean(logits[:, w].log_softmax(-1)) for w in self.heads.values()], dim=-1)

    def finite_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """`<head>_top1`, `<head>_top5`, and the same for `action`, ranked by the product of the heads' softmaxes."""
        result: dict[str, float] = {}
        for head, where in self.heads.items():
            true = targets[:, where].argmax(-1)
            result |= {f"{head}_top{k}": topk_accuracy(logits[:, where], true, k) for k in (1, 5)}
        return result | self.action_scores(logits, targets)

    def action_scores(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Top-1 and top-5 accuracy of the combination of all heads, in parts of the set: there are many pairs."""
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

    Only the order of the scores matters, so torchmetrics gets their ranks: probabilities of large logits would all
    round to 1 and tie.
    """
    result = torch.full((logits.shape[1],), torch.nan, dtype=torch.double)
    for c in range(logits.shape[1]):
        if targets[:, c].any():
            ranks = torch.unique(logits[:, c], return_inverse=True)[1].double()
            result[c] = binary_average_precision(ranks / len(ranks), targets[:, c].long())
    return result


def roc_areas(logits: Tensor, targets: Tensor) -> Tensor:
    """Area under the ROC curve of every class, float64 (num_classes,); nan for a class of all clips or of none.

    It is the probability that a clip of the class has a larger logit than another clip, a tie counting half. Chance is
    0.5 whatever the share of positives, as it is not for average precision.
    """
    result = torch.full((logits.shape[1],), torch.nan, dtype=torch.double)
    for c in range(logits.shape[1]):
        positive = targets[:, c] > 0.5
        count, others = int(positive.sum()), int((~positive).sum())
        if count and others:
            _, place, sizes = torch.unique(logits[:, c], return_inverse=True, return_counts=True)
            ranks = (sizes.cumsum(0) - (sizes - 1) / 2)[place]  # from 1, equal ones share the mean
            result[c] = (ranks[positive].double().sum() - count * (count + 1) / 2) / (count * others)
    return result


def topk_accuracy(logits: Tensor, true: Tensor, k: int) -> float:
    """Fraction of the rows whose true class is among the k largest logits; nan without rows."""
    return topk_hits(logits, true, k).mean().item()


def topk_hits(logits: Tensor, true: Tensor, k: int) -> Tensor:
    """Whether the true class of each row (N,) is among the k largest of its logits (N, num_classes), 0 or 1 in float64.

    Where it ties with others across that border: the probability that it is if all of them are put in any order.
    """
    own = logits.gather(1, true[:, None])
    greater, tied = (logits > own).sum(1), (logits == own).sum(1)
    return ((k - greater).double() / tied).clamp(0, 1)


def nanmean(values: Tensor) -> float:
    return values.nanmean().item()
