"""Mixup: each clip mixed with a partner, with one weight for all modalities or one a modality.

The partner is the batch in reverse order, as in the authors' code, and the targets are mixed by the same weights; so
every modality has targets of its own, which are the same for all only under plain mixup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from torch import Generator, Tensor, randint

from mbt_lightning.errors import UserError


class Mixup:
    """One weight a batch for all modalities (the paper's standard mixup).

    Args:
        alpha: the weight is drawn from Beta(alpha, alpha); above 0. The paper's is 0.3, the released setting's 0.5.

    Raises:
        UserError: `alpha` not above 0.
    """

    per_modality = False
    """Whether modalities get different targets, so that only a head with logits a modality can be trained."""

    def __init__(self, alpha: float = 0.3):
        draw_mix(alpha)  # refuses a wrong setting when built, not in the first batch
        self.alpha = alpha

    def draw(self, modalities: tuple[str, ...], generator: Generator | None = None) -> dict[str, float]:
        """The weight of each modality."""
        return dict.fromkeys(modalities, draw_mix(self.alpha, generator))

    def __call__(
        self, inputs: Mapping[str, Tensor], targets: Tensor, generator: Generator | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mix a batch.

        Args:
            inputs: {modality: (B, C, *grid)}.
            targets: (B, num_classes).
            generator: source of the draws; None: torch's global one.

        Returns:
            The mixed inputs, and the targets {modality: (B, num_classes)}.
        """
        weights = self.draw(tuple(inputs), generator)
        return (
            {m: mix(x, weights[m]) for m, x in inputs.items()},
            {m: mix(targets, weight) for m, weight in weights.items()},
        )


class ModalityMixup(Mixup):
    """A weight of its own for each modality, which then has targets of its own (paper 3.3, modality mixup)."""

    per_modality = True

    def draw(self, modalities: tuple[str, ...], generator: Generator | None = None) -> dict[str, float]:
        """The weight of each modality."""
        return {m: draw_mix(self.alpha, generator) for m in modalities}


def draw_mix(alpha: float, generator: Generator | None = None) -> float:
    """A mixing weight of mixup, Beta(alpha, alpha) in [0, 1]. The paper's alpha is 0.3, the released one 0.5.

    Args:
        alpha: both parameters of the Beta distribution, above 0; small values keep the weight near 0 or 1.
        generator: source of the draw; None: torch's global one.

    Raises:
        UserError: `alpha` not above 0.
    """
    if not 0 < alpha < math.inf:
        raise UserError(
            f"alpha is {alpha}; it must be above 0. The paper's is 0.3; to train without mixup, set mixup to null."
        )
    # torch draws no Beta from a generator of one's own: it seeds numpy's.
    seed = int(randint(2**63 - 1, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def mix(x: Tensor, weight: float) -> Tensor:
    """Every example mixed with its partner, the batch in reverse order (as the authors): (B, ...) -> (B, ...).

    Args:
        x: inputs or labels of a batch, B first.
        weight: the example's own part, in [0, 1]; the partner's is the rest.

    Raises:
        UserError: `weight` outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise UserError(f"weight is {weight}; it must be in [0, 1], as from draw_mix.")
    return weight * x + (1 - weight) * x.flip(0)
