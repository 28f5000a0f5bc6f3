"""What reads logits out of the final tokens: every head, side by side.

To plug in another one, derive from `Head` and name it in the experiment file by its dotted path.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbt_lightning.errors import UserError
from mbt_lightning.model.fusion import Geometry, Present, Tokens


class Head(nn.Module):
    """The base of all heads.

    Args:
        geometry: the encoder that the head is built for.
        num_classes: number of logits.
    """

    num_cls = 0
    """CLS tokens that it needs in front of each modality's tokens, 0 or 1."""
    keep = slice(None)
    """The tokens of each modality that it reads; the last layer leaves the others out."""
    reads_shared = False
    """Whether it reads the shared tokens. The last layer then updates all tokens, and `forward` is given them all."""
    per_modality = False
    """Whether it gives logits for each modality, or one entry, `fused`."""

    def __init__(self, geometry: Geometry, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(self, tokens: Tokens, shared: Tensor | None) -> dict[str, Tensor]:
        """Read tokens {modality: (B, N_m, D)} and `shared` (B, S, D), or None, out as {entry: (B, num_classes)}.

        A head that can leave out an absent modality takes one more argument, `present`, as a strategy does.
        """
        raise NotImplementedError


class ClsHead(Head):
    """Logits for each modality: one linear layer, shared by them, on each one's CLS token (paper 3.2.3).

    Args:
        geometry: the encoder that the head is built for.
        num_classes: number of logits.
        representation_size: width of another linear layer, with tanh, before the logits (ViT's `pre_logits`), shared
            by the modalities too; null: none.

    Raises:
        UserError: a width below 1.
    """

    num_cls = 1
    keep = slice(0, 1)
    per_modality = True

    def __init__(self, geometry: Geometry, num_classes: int, representation_size: int | None = None):
        super().__init__(geometry, num_classes)
        if representation_size is not None and representation_size < 1:
            raise UserError(f"representation_size is {representation_size}: give 1 or more, or null")
        self.linear = zero_linear(representation_size or geometry.dim, num_classes)
        self.pre_logits = nn.Linear(geometry.dim, representation_size) if representation_size else None

    def forward(self, tokens: Tokens, shared: Tensor | None, present: Present | None = None) -> dict[str, Tensor]:
        """Read {modality: (B, N_m, D)} out as {modality: (B, num_classes)}; an absent modality's mean nothing."""
        return {m: self.linear(self.represent(x[:, 0])) for m, x in tokens.items()}

    def represent(self, x: Tensor) -> Tensor:
        """What the logits are a linear function of: (B, D) -> (B, D or representation_size)."""
        return x if self.pre_logits is None else self.pre_logits(x).tanh()


class PoolHead(Head):
    """One entry of logits, `fused`: a linear layer on one pool over all tokens of all modalities.

    Args:
        geometry: the encoder that the head is built for.
        num_classes: number of logits.
    """

    def __init__(self, geometry: Geometry, num_classes: int):
        super().__init__(geometry, num_classes)
        self.linear = zero_linear(geometry.dim, num_classes)

    def forward(self, tokens: Tokens, shared: Tensor | None) -> dict[str, Tensor]:
        """Read {modality: (B, N_m, D)} out as {"fused": (B, num_classes)}."""
        return {"fused": self.linear(self.pool(torch.cat(list(tokens.values()), dim=1)))}

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool all tokens, (B, N, D) -> (B, D)."""
        raise NotImplementedError


class MeanPoolHead(PoolHead):
    """The mean of all tokens, so a modality counts by its number of tokens (the authors' `gap`)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool all tokens, (B, N, D) -> (B, D)."""
        return tokens.mean(1)


class MaxPoolHead(PoolHead):
    """The largest value of all tokens in each of the D places (the authors' `gmp`)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool all tokens, (B, N, D) -> (B, D)."""
        return tokens.amax(1)


class SumPoolHead(PoolHead):
    """The sum of all tokens (the authors' `gsp`)."""

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool all tokens, (B, N, D) -> (B, D)."""
        return tokens.sum(1)


def zero_linear(dim: int, num_classes: int) -> nn.Linear:
    """A linear layer that starts at zero, so that the first loss is that of a constant guess (as the authors do)."""
    linear = nn.Linear(dim, num_classes)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
