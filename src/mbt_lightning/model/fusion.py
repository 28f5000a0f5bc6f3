"""Where the modalities exchange information: every fusion strategy, side by side.

A strategy runs one fused layer, given that layer's blocks, one for each modality. `tokens` maps each modality to
(B, N_m, D); `shared` are tokens that belong to no modality (B, S, D), or None. The encoder does not know how a strategy
works, nor a strategy how a block does. To plug in another one, derive from `Fusion` and name it in the experiment file
by its dotted path.

In the last layer the encoder passes `keep`, the slice of each modality's tokens that the head reads: only these need to
be updated, and the shared tokens not at all. A head that reads the shared tokens gets them, and everything else, in
full: then there is no `keep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbt_lightning.errors import UserError

Tokens = Mapping[str, Tensor]
Blocks = Mapping[str, Callable[..., Tensor]]
Present = Mapping[str, Tensor]
"""For each modality a mask (B,): whether a clip has it."""


@dataclass(frozen=True)
class Geometry:
    """The encoder, as far as a strategy and a head may know it when they are built.

    Args:
        modalities: their names, in the order of the experiment file.
        dim: width D of the tokens.
        num_fused_layers: how many layers the strategy will run, 0 with late fusion.
        num_heads: attention heads of a block.
        mlp_ratio: width of a block's MLP over D.
        new_block: makes one more block like the encoder's, without stochastic depth.
    """

    modalities: tuple[str, ...]
    dim: int
    num_fused_layers: int
    num_heads: int
    mlp_ratio: float
    new_block: Callable[[], nn.Module]


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
        self,
        tokens: Tokens,
        shared: Tensor | None,
        blocks: Blocks,
        layer: int,
        keep: slice | None = None,
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer.

        A strategy that can leave out an absent modality takes one more argument, `present`: the modalities that each
        clip has, or None for all. The encoder gives clips with an absent modality to no other strategy.

        Args:
            tokens: of each modality, (B, N_m, D).
            shared: shared tokens (B, S, D), or None.
            blocks: the block of each modality: `block(x)`, or `block(x, context=..., mask=...)`.
            layer: number of the fused layer, 0 to num_fused_layers - 1.
            keep: the tokens of each modality that are wanted; None: all, and the shared ones.

        Returns:
            The updated tokens, only those of `keep` if it is given, and the shared tokens.
        """
        if keep is None:
            return {m: blocks[m](x) for m, x in tokens.items()}, shared
        return {m: blocks[m](x[:, keep], context=x) for m, x in tokens.items()}, shared


class JointSelfAttention(Fusion):
    """Vanilla fusion: one sequence of all tokens through one block with shared parameters (paper eq. 4)."""

    one_block_for_all = True

    def forward(
        self,
        tokens: Tokens,
        shared: Tensor | None,
        blocks: Blocks,
        layer: int,
        keep: slice | None = None,
        present: Present | None = None,
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        block = blocks[next(iter(tokens))]
        everything, mask = torch.cat(list(tokens.values()), dim=1), readable(tokens, present)
        if keep is None:
            kept, updated = tokens, block(everything, mask=mask)
        else:
            kept = {m: x[:, keep] for m, x in tokens.items()}
            updated = block(torch.cat(list(kept.values()), dim=1), context=everything, mask=mask)
        lengths = [x.shape[1] for x in kept.values()]
        return dict(zip(tokens, updated.split(lengths, dim=1), strict=True)), shared


class CrossAttention(Fusion):
    """Vanilla cross-attention: own blocks and own queries, keys and values from all tokens (paper eq. 5-6)."""

    def forward(
        self,
        tokens: Tokens,
        shared: Tensor | None,
        blocks: Blocks,
        layer: int,
        keep: slice | None = None,
        present: Present | None = None,
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        everything, mask = torch.cat(list(tokens.values()), dim=1), readable(tokens, present)
        wanted = slice(None) if keep is None else keep
        return {m: blocks[m](x[:, wanted], context=everything, mask=mask) for m, x in tokens.items()}, shared


class Bottleneck(Fusion):
    """Fusion through a few learned tokens that every modality reads and writes: MBT (paper eq. 7-11).

    Args:
        geometry: the encoder that the strategy is built for.
        num_bottlenecks: number B of bottleneck tokens, at least 1. It is the true number: the authors' code makes
            one more than its setting when the head reads a CLS token, so their B = 4 is 5 here.
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
        self,
        tokens: Tokens,
        shared: Tensor | None,
        blocks: Blocks,
        layer: int,
        keep: slice | None = None,
        present: Present | None = None,
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        assert shared is not None, "call start() before the first fused layer"
        rule = getattr(self, self.update)
        return rule(tokens, shared, blocks, keep, present)

    def sequential(
        self, tokens: Tokens, shared: Tensor, blocks: Blocks, keep: slice | None, present: Present | None
    ) -> tuple[Tokens, Tensor]:
        """Pass the bottleneck from one modality to the next, past an absent one."""
        updated = {}
        *_, last = tokens
        for m, x in tokens.items():
            if m == last and keep is not None:  # nobody reads the bottleneck after the last modality
                updated[m] = blocks[m](x[:, keep], context=torch.cat([x, shared], dim=1))
                break
            updated[m], written = self.exchange(blocks[m], x, shared, keep)
            shared = written if present is None else torch.where(present[m][:, None, None], written, shared)
        return updated, shared

    def symmetric(
        self, tokens: Tokens, shared: Tensor, blocks: Blocks, keep: slice | None, present: Present | None
    ) -> tuple[Tokens, Tensor]:
        """Let every modality read the same bottleneck; average what the present ones make of it."""
        if keep is not None:
            return {m: blocks[m](x[:, keep], context=torch.cat([x, shared], dim=1)) for m, x in tokens.items()}, shared
        pairs = {m: self.exchange(blocks[m], x, shared, None) for m, x in tokens.items()}
        written = {m: b for m, (_, b) in pairs.items()}
        return {m: x for m, (x, _) in pairs.items()}, mean_of_present(written, present)

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
        self,
        tokens: Tokens,
        shared: Tensor | None,
        blocks: Blocks,
        layer: int,
        keep: slice | None = None,
        present: Present | None = None,
    ) -> tuple[Tokens, Tensor | None]:
        """Run one layer; see `Fusion`."""
        if self.training:
            return super().forward(tokens, shared, blocks, layer, keep, present)
        return Fusion.forward(self, tokens, shared, blocks, layer, keep)


def readable(tokens: Tokens, present: Present | None) -> Tensor | None:
    """A mask (B, N) of all tokens in their order: whether their modality is present; None: all are."""
    if present is None:
        return None
    return torch.cat([present[m][:, None].expand(x.shape[:2]) for m, x in tokens.items()], dim=1)


def mean_of_present(values: Mapping[str, Tensor], present: Present | None) -> Tensor:
    """The mean over the modalities' values (B, ...), absent ones left out."""
    stacked = torch.stack(list(values.values()))
    if present is None:
        return stacked.mean(0)
    counts = torch.stack([present[m] for m in values]).view(*stacked.shape[:2], *[1] * (stacked.ndim - 2))
    return torch.where(counts, stacked, 0).sum(0) / counts.sum(0)
