"""How it is told that a model has diverged: from the numbers that its evaluation leaves, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NON_FINITE = "non_finite_clips"
"""Beside the scores of an evaluation, where it is not 0: the number of clips with a logit that is not finite."""


def divergence(scores: Mapping[str, Any]) -> str:
    """That an evaluation was of a model that had diverged, in a line; empty if it was not.

    Runs from before the clips were counted have scores that mean nothing beside a loss that is no number.

    Args:
        scores: of the evaluation by name, as logged or as in `summary.json`.
    """
    count, clips, loss = scores.get(NON_FINITE), scores.get("clips"), scores.get("loss", 0.0)
    if isinstance(count, int | float) and isinstance(clips, int | float) and count:
        return f"diverged: the logits of {count:.0f} of {clips:.0f} clips are not finite"
    if loss is None or (isinstance(loss, float) and not math.isfinite(loss)):
        return "diverged: the loss of the evaluation is not finite"
    return ""
