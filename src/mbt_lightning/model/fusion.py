"""Where the modalities exchange information: every fusion strategy, side by side.

A strategy runs one fused layer, given that layer's blocks (one a modality). `tokens` maps each modality to
(B, N_m, D); `shared` are tokens that belong to no modality (B, S, D), or None. The encoder knows nothing of how a
strategy works, and a strategy nothing of how a block does. To plug in another one, derive from `Fusion` and name it
in the experiment file by its dotted path.

In the last layer the encoder passes `keep`: the slice of each modality's tokens that the head reads. Then only these
need to be updated, and nobody reads the shared tokens any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbt_lightning.errors import UserError

Tokens = Mapping[str, Tensor]
Blocks = Mapping[str, Callable[..., Tensor]]


@dataclass(frozen=True)
class Geometry:
    """What a strategy may know when it is built.

    Args:
        modalities: their names, in the order of the experiment file.
        dim: width D of the tokens.
        num_fused_layers: how many layers the strategy will run, at least 1.
    """

    modalities: tuple[str, ...]
    dim: int
    num_fused_layers: int


class Fusion(nn.Module):
    """No exchange: every modality reads its own tokens. The base of all strategies, and what runs below them.

    Args:
        geometry: the encoder that the strategy is built for.
    """

    one_block_for_all = False
    """Whether all modalities of a fused layer go through the same block."""

    def __init__(self, geometry: Geometry):
        super().__init__()
        self.geometry = geometry

    def start(self, tokens: Tokens) -> tuple[Tokens, Tensor | None]:
        """Prepare the first fused layer: `tokens`, and the shared tokens if the strategy has any."""
        return tokens, None

    def forward(
        self, tokens: Tokens, shared: Tensor | None, blocks: Blocks, keep: slice | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer: returns the updated tokens (only those of `keep`, if given) and shared tokens."""
        if keep is None:
            return {m: blocks[m](x) for m, x in tokens.items()}, shared
        return {m: blocks[m](x[:, keep], context=x) for m, x in tokens.items()}, shared


class JointSelfAttention(Fusion):
    """Vanilla fusion: one sequence of all tokens through one block with shared parameters (paper eq. 4)."""

    one_block_for_all = True

    def forward(
        self, tokens: Tokens, shared: Tensor | None, blocks: Blocks, keep: slice | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        block = blocks[next(iter(tokens))]
        everything = torch.cat(list(tokens.values()), dim=1)
        if keep is None:
            kept, updated = tokens, block(everything)
        else:
            kept = {m: x[:, keep] for m, x in tokens.items()}
            updated = block(torch.cat(list(kept.values()), dim=1), context=everything)
        lengths = [x.shape[1] for x in kept.values()]
        return dict(zip(tokens, updated.split(lengths, dim=1), strict=True)), shared


class CrossAttention(Fusion):
    """Vanilla cross-attention: own blocks and own queries, keys and values from all tokens (paper eq. 5-6)."""

    def forward(
        self, tokens: Tokens, shared: Tensor | None, blocks: Blocks, keep: slice | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        everything = torch.cat(list(tokens.values()), dim=1)
        wanted = slice(None) if keep is None else keep
        return {m: blocks[m](x[:, wanted], context=everything) for m, x in tokens.items()}, shared


class Bottleneck(Fusion):
    """Fusion through a few learned tokens that every modality reads and writes: MBT (paper eq. 7-11).

    Args:
        geometry: the encoder that the strategy is built for.
        num_bottlenecks: number B of bottleneck tokens, at least 1. It is the true number: the authors' code makes
            one more than its setting says when the head is a CLS token, so their B = 4 is 5 here.
        update: `sequential`: the first modality updates the bottleneck, the next reads and rewrites it, in the order
            of the modalities (the equations as first published; eq. 10-11 of v3). `symmetric`: all modalities read
            the same bottleneck and the results are averaged (eq. 8-9 of v3; the authors' released code).

    Raises:
        UserError: for fewer than one token or an unknown rule.
    """

    rules = ("sequential", "symmetric")

    def __init__(self, geometry: Geometry, num_bottlenecks: int = 4, update: str = "sequential"):
        super().__init__(geometry)
        if num_bottlenecks < 1:
            raise UserError(
                f"num_bottlenecks is {num_bottlenecks}: give at least 1 (fusion_layer = depth turns fusion off)"
            )
        if update not in self.rules:
            raise UserError(f"update is {update!r}: choose one of {', '.join(self.rules)}")
        self.update = update
        self.bottleneck = nn.Parameter(torch.empty(1, num_bottlenecks, geometry.dim))
        nn.init.normal_(self.bottleneck, std=0.02)

    def start(self, tokens: Tokens) -> tuple[Tokens, Tensor | None]:
        """Prepare the first fused layer: the learned bottleneck, the same for every clip."""
        batch = len(next(iter(tokens.values())))
        return tokens, self.bottleneck.expand(batch, -1, -1)

    def forward(
        self, tokens: Tokens, shared: Tensor | None, blocks: Blocks, keep: slice | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        assert shared is not None, "call start() before the first fused layer"
        rule = getattr(self, self.update)
        return rule(tokens, shared, blocks, keep)

    def sequential(
        self, tokens: Tokens, shared: Tensor, blocks: Blocks, keep: slice | None
    ) -> tuple[Tokens, Tensor | None]:
        """Pass the bottleneck from one modality to the next."""
        updated = {}
        *_, last = tokens
        for m, x in tokens.items():
            if m == last and keep is not None:  # nobody reads the bottleneck behind the last modality of all
                updated[m] = blocks[m](x[:, keep], context=torch.cat([x, shared], dim=1))
            else:
                updated[m], shared = self.exchange(blocks[m], x, shared, keep)
        return updated, shared

    def symmetric(
        self, tokens: Tokens, shared: Tensor, blocks: Blocks, keep: slice | None
    ) -> tuple[Tokens, Tensor | None]:
        """Let every modality read the same bottleneck; average what they make of it."""
        if keep is not None:
            return {m: blocks[m](x[:, keep], context=torch.cat([x, shared], dim=1)) for m, x in tokens.items()}, shared
        pairs = {m: self.exchange(blocks[m], x, shared, None) for m, x in tokens.items()}
        return {m: x for m, (x, _) in pairs.items()}, torch.stack([b for _, b in pairs.values()]).mean(0)

    @staticmethod
    def exchange(block: Callable[..., Tensor], x: Tensor, shared: Tensor, keep: slice | None) -> tuple[Tensor, Tensor]:
        """Run one modality's block over [its tokens, the bottleneck]; returns both, updated."""
        both = torch.cat([x, shared], dim=1)
        updated = block(both) if keep is None else block(torch.cat([x[:, keep], shared], dim=1), context=both)
        own = updated.shape[1] - shared.shape[1]
        return updated[:, :own], updated[:, own:]


class TrainOnlyBottleneck(Bottleneck):
    """A bottleneck in training; at evaluation no exchange, as with the authors' `test_with_bottlenecks=False`."""

    def forward(
        self, tokens: Tokens, shared: Tensor | None, blocks: Blocks, keep: slice | None = None
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        exchange = Bottleneck.forward if self.training else Fusion.forward
        return exchange(self, tokens, shared, blocks, keep)
