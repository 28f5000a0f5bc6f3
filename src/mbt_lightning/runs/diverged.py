"""Recognises a diverged model from the numbers of its evaluation, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NON_FINITE = "non_finite_clips"
"""Key of the number of clips with a logit that is not finite, next to the scores of an evaluation; absent if 0."""


def divergence(scores: Mapping[str, Any]) -> str:
    """A line on why an evaluation was of a diverged model; empty if it was not.

    In old runs, which did not count such clips, scores are meaningless if the loss is not finite.
    """
    count, clips, loss = scores.get(NON_FINITE), scores.get("clips"), scores.get("loss", 0.0)
    if isinstance(count, int | float) and isinstance(clips, int | float) and count:
        return f"diverged: the logits of {count:.0f} of {clips:.0f} clips are not finite"
    if loss is None or (isinstance(loss, float) and not math.isfinite(loss)):
        return "diverged: the loss of the evaluation is not finite"
    return ""
