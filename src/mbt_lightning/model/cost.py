"""What a model costs: counted on the model itself, and by arithmetic for every way to fuse.

Multiply-adds are those of matrix products, attention's included; one is what the paper counts as one FLOP. Element-wise
work, about half a per cent, is left out. The arithmetic is an independent check of the count: they agree to the digit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mbt_lightning.model.blocks import Block
from mbt_lightning.model.mbt import MBT
from mbt_lightning.model.tokens import PatchTokens

# ---------------------------------------------------------------------------------------------------------------------
# Counted
# ---------------------------------------------------------------------------------------------------------------------


def gflops_per_clip(network: MBT, inputs: dict[str, tuple[int, ...]]) -> float:
    """Billions of multiply-adds of one clip's forward pass, as the paper counts GFLOPs (one multiply-add is one).

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    return by_module(network, inputs)[""] / 1e9


def by_module(network: MBT, inputs: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Multiply-adds of one clip's forward pass in each module, by its name; `""` is the whole network."""
    shadow = copy.deepcopy(network).to("meta").eval().requires_grad_(False)  # shapes only, nothing is computed
    example = {m: torch.empty(1, *shape, device="meta") for m, shape in inputs.items()}
    counter = FlopCounterMode(display=False)
    with counter:
        shadow(example)
    root = type(shadow).__name__
    return {
        name.removeprefix(root).removeprefix("."): sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
    }


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())


@dataclass(frozen=True)
class Part:
    """What one part of a network costs.

    Args:
        name: the part.
        parameters: its trained values.
        multiply_adds: of one clip, as the model is run.
    """

    name: str
    parameters: int
    multiply_adds: int


def by_part(network: MBT, inputs: dict[str, tuple[int, ...]]) -> list[Part]:
    """The parts that a clip passes through, in that order; together they are the whole network."""
    counts = by_module(network, inputs)
    first, depth = network.fusion_layer, len(network.layers)
    parts = []
    for m, tokens in network.tokens.items():
        content = "patches, positions" + (", CLS" if network.head.num_cls else "")
        parts.append(Part(f"{m}: {content}", count_parameters(tokens), counts[f"tokens.{m}"]))
    for name in blocks_of(network, 0) if first else ():
        parameters = sum(count_parameters(blocks_of(network, layer)[name]) for layer in range(first))
        multiply_adds = sum(counts[f"layers.{layer}.{name}"] for layer in range(first))
        parts.append(Part(f"{name}: {layers_between(0, first)}", parameters, multiply_adds))
    head = Part("final norm, head", count_parameters(network.norm) + count_parameters(network.head), counts["head"])
    if first < depth:
        parameters = count_parameters(network.layers[first:]) + count_parameters(network.fusion)
        multiply_adds = counts[""] - head.multiply_adds - sum(part.multiply_adds for part in parts)
        parts.append(Part(f"fused: {layers_between(first, depth)}", parameters, multiply_adds))
    return [*parts, head]


def blocks_of(network: MBT, layer: int) -> nn.ModuleDict:
    """The blocks of a layer by modality, or the one that all modalities share."""
    blocks = network.layers[layer]
    assert isinstance(blocks, nn.ModuleDict)
    return blocks


def layers_between(start: int, stop: int) -> str:
    """The layers from `start` to before `stop`, in words."""
    return f"layer {start}" if stop - start == 1 else f"layers {start}-{stop - 1}"


# ---------------------------------------------------------------------------------------------------------------------
# By arithmetic
# ---------------------------------------------------------------------------------------------------------------------

Reads = Callable[[Sequence[int], Sequence[int] | None], list[tuple[int, int]]]
"""A strategy in numbers: (tokens of each modality; those that are updated, None for all and the bottleneck) to
(queries N, keys and values M) of each block that a layer runs."""


def separate(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """No exchange, which is also every layer of late fusion."""
    return list(zip(kept or tokens, tokens, strict=True))


def joint(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Joint self-attention."""
    return [(sum(kept or tokens), sum(tokens))]


def cross(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Cross-attention: own queries, all keys and values."""
    return [(n, sum(tokens)) for n in kept or tokens]


def cross_as_coded(tokens: Sequence[int], kept: Sequence[int] | None) -> list[tuple[int, int]]:
    """Cross-attention in the authors' code: each modality's block updates all tokens, and drops the other's."""
    return [(sum(tokens), sum(tokens)) for _ in tokens]


def bottleneck(num_bottlenecks: int, update: str = "sequential") -> Reads:
    """Attention bottlenecks, of either rule."""

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
    """The numbers of a network for inputs of these shapes (C, *grid)."""
    patches: list[PatchTokens] = [network.tokens[m] for m in network.modalities]  # type: ignore[misc]
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
    """Of a block with N queries, M keys and values: q and projection, k and v, attention, MLP."""
    return 2 * n * dim**2 + 2 * m * dim**2 + 2 * n * m * dim + 2 * n * dim * hidden_dim


def layers_multiply_adds(shape: Shape, fused: Reads, fusion_layer: int, kept: Sequence[int] | None = None) -> int:
    """Of all layers.

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
