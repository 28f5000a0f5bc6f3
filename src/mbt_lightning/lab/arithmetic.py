"""What a model costs by arithmetic, for every way to fuse, without building it.

The unit is one multiply-add of a matrix product, of one clip. It is an independent check of what `model/cost.py`
counts: they agree to the digit. Equations and Fig. 3 are those of Nagrani et al., "Attention Bottlenecks for Multimodal
Fusion" (arXiv:2107.00135v3); the authors' code is google-research/scenic, projects/mbt/model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from mbt_lightning.model.blocks import Block
from mbt_lightning.model.cost import blocks_of
from mbt_lightning.model.mbt import MBT

Reads = Callable[[Sequence[int], Sequence[int] | None], list[tuple[int, int]]]
"""A strategy in numbers: (tokens of each modality; those that are updated, None for all and the bottleneck) to
(queries N, keys and values M) of each block that a layer runs."""


def separate(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """No exchange (paper eq. 2-3), which is also every layer of late fusion; see `Reads`."""
    return list(zip(kept or tokens, tokens, strict=True))


def joint(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Joint self-attention (paper eq. 4): one block over all tokens; see `Reads`."""
    return [(sum(kept or tokens), sum(tokens))]


def cross(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Cross-attention (paper eq. 5-6): own queries, all keys and values; see `Reads`."""
    return [(n, sum(tokens)) for n in kept or tokens]


def cross_as_coded(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Cross-attention in the authors' code: each modality's block updates all tokens, and drops the other's.

    See `Encoder` in scenic's projects/mbt/model.py (`combine_context`). The result is that of eq. 5-6 for about twice
    the work, and the vanilla fusion in the paper's Fig. 3 (ablations of the fusion strategy) fits this count.
    """
    return [(sum(tokens), sum(tokens)) for _ in tokens]


def bottleneck(num_bottlenecks: int, update: str = "sequential") -> Reads:
    """Attention bottlenecks (paper eq. 8-9 symmetric, as in the authors' code; eq. 10-11 sequential).

    Args:
        num_bottlenecks: number B of bottleneck tokens.
        update: `sequential` or `symmetric`; they differ only where not all tokens are updated.
    """

    def reads(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
        if kept is None:
            return [(n + num_bottlenecks, n + num_bottlenecks) for n in tokens]
        *others, last = [(n, m + num_bottlenecks) for n, m in zip(kept, tokens, strict=True)]
        written = num_bottlenecks if update == "sequential" else 0  # by all but the last, behind which nobody reads
        return [*((n + written, m) for n, m in others), last]

    return reads


@dataclass(frozen=True)
class Shape:
    """The numbers that a network's cost follows from.

    Args:
        tokens: tokens of each modality, CLS included.
        kept: those of them that the head reads.
        dim: width d of the tokens.
        hidden_dim: width h of the MLPs.
        depth: number of layers.
        embedding: multiply-adds of the patch embedding.
        embedding_as_coded: the same in the authors' code, which repeats the one channel of a spectrogram to three.
        head: multiply-adds of the head.
    """

    tokens: tuple[int, ...]
    kept: tuple[int, ...]
    dim: int
    hidden_dim: int
    depth: int
    embedding: int
    embedding_as_coded: int
    head: int


def shape_of(network: MBT, inputs: dict[str, tuple[int, ...]]) -> Shape:
    """The numbers of a network.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    patches = [network.tokens_of(m) for m in network.modalities]
    tokens = [t.positions.shape[1] for t in patches]
    block: Block = next(iter(blocks_of(network, 0).values()))  # type: ignore[assignment]
    num_read = len(network.modalities) if network.head.per_modality else 1
    head_values = sum(linear.weight.numel() for linear in network.head.modules() if isinstance(linear, nn.Linear))
    channels = [inputs[m][0] for m in network.modalities]
    return Shape(
        tokens=tuple(tokens),
        kept=tuple(len(range(n)[network.head.keep]) for n in tokens),
        dim=block.mlp.fc1.in_features,
        hidden_dim=block.mlp.fc1.out_features,
        depth=len(network.layers),
        embedding=sum(prod(t.grid) * t.weight[:, 0].numel() * c for t, c in zip(patches, channels, strict=True)),
        embedding_as_coded=sum(prod(t.grid) * t.weight.numel() for t in patches),
        head=num_read * head_values,
    )


def block_multiply_adds(n: int, m: int, dim: int, hidden_dim: int) -> int:
    """Multiply-adds of a block (paper eq. 2-3): q and projection, k and v, attention, MLP.

    For n = m and h = 4 d these are the usual 12 n d^2 + 2 n^2 d.

    Args:
        n: number of queries N.
        m: number of keys and values M.
        dim: width d of the tokens.
        hidden_dim: width h of the MLP.
    """
    return 2 * n * dim**2 + 2 * m * dim**2 + 2 * n * m * dim + 2 * n * dim * hidden_dim


def layers_multiply_adds(shape: Shape, fused: Reads, fusion_layer: int, kept: Sequence[int] | None = None) -> int:
    """Multiply-adds of all layers for one clip, without patch embedding and head.

    Args:
        shape: the network's numbers.
        fused: the strategy from `fusion_layer` on.
        fusion_layer: the first fused layer.
        kept: tokens of each modality that the last layer updates; None: all of them, and the bottleneck.
    """
    total = 0
    for layer in range(shape.depth):
        reads = fused if layer >= fusion_layer else separate
        pairs = reads(shape.tokens, kept if layer == shape.depth - 1 else None)
        total += sum(block_multiply_adds(n, m, shape.dim, shape.hidden_dim) for n, m in pairs)
    return total
