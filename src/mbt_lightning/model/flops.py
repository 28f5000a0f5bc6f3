"""What a model costs, counted on the model itself: parameters, and multiply-adds of a forward pass.

Multiply-adds are those of matrix products, attention's included, each counted as one (not as two operations).
Element-wise work, about half a per cent, is left out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mbt_lightning.model.blocks import Block
from mbt_lightning.model.fusion import Fusion
from mbt_lightning.model.mbt import MBT

Inputs = dict[str, tuple[int, ...]]
"""Shape of one example of each modality, (C, *grid)."""


def gflops_per_clip(network: MBT, inputs: Inputs) -> float:
    """Billions of multiply-adds of one clip's forward pass, as this program runs it at evaluation.

    A multiply-add counts as one, as in the GFLOPs of the paper's Fig. 3 (arXiv:2107.00135): its late fusion fits that.

    Args:
        network: the encoder, of any strategy, head and modalities.
        inputs: shape of one example of each modality, (C, *grid).
    """
    return multiply_adds(network, inputs) / 1e9


def multiply_adds(network: MBT, inputs: Inputs, full: bool = False, fusion: Fusion | None = None) -> int:
    """Multiply-adds of one clip's forward pass at evaluation.

    Args:
        network: the encoder, which is not changed.
        inputs: shape of one example of each modality, (C, *grid).
        full: whether the last layer updates all its tokens, also those that the head does not read.
        fusion: a strategy in the place of the network's.
    """
    shadow, calls = on_meta(network), list[tuple[int, ...]]()
    if fusion is not None:
        shadow.fusion = fusion

    def counted_below(block: Block, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        clips, queries, keys = len(x), x.shape[1], (x if context is None else context).shape[1]
        calls.append((clips, block.mlp.fc1.in_features, block.mlp.fc1.out_features, queries, keys))
        return x

    for module in shadow.modules():
        if type(module) is Block:
            module.forward = partial(counted_below, module)  # type: ignore[method-assign]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if full:
            shadow.head(*shadow.encode(one_clip(inputs)))
        else:
            shadow(one_clip(inputs))
    return counter.get_total_flops() // 2 + sum(clips * of_block(*sizes) for clips, *sizes in calls)


@cache
def of_block(dim: int, hidden_dim: int, queries: int, keys: int) -> int:
    """Multiply-adds of a block; most networks have many that are alike, so each kind is counted once."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        block = Block(dim, 1, hidden_dim / dim).eval()
        block(torch.empty(1, queries, dim), torch.empty(1, keys, dim))
    return counter.get_total_flops() // 2


def by_module(network: MBT, inputs: Inputs) -> dict[str, int]:
    """Multiply-adds of one clip's forward pass in each module, all counted by torch's `FlopCounterMode`.

    Args:
        network: the encoder, which is not changed.
        inputs: shape of one example of each modality, (C, *grid).

    Returns:
        Multiply-adds by the module's name; `""` is the whole network.
    """
    shadow = on_meta(network)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(one_clip(inputs))
    root = type(shadow).__name__
    return {
        name.removeprefix(root).removeprefix("."): sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
    }


def on_meta(network: MBT) -> MBT:
    """A twin of a network that computes shapes alone, takes no memory, and is evaluated."""
    twins: dict[nn.Module, nn.Module] = {}

    def shape_of(x: Tensor) -> Tensor:
        return x.detach().to("meta")

    def twin_of(module: nn.Module) -> nn.Module:
        if module not in twins:
            twins[module] = twin = copy.copy(module)
            for kind, copied in (("_parameters", shape_of), ("_buffers", shape_of), ("_modules", twin_of)):
                own = getattr(module, kind)
                setattr(twin, kind, {name: x if x is None else copied(x) for name, x in own.items()})
        return twins[module]

    return cast(MBT, twin_of(network)).eval()


def one_clip(inputs: Inputs) -> dict[str, Tensor]:
    """The shapes of a batch of one clip."""
    return {m: torch.empty(1, *shape, device="meta") for m, shape in inputs.items()}


def count_parameters(network: nn.Module) -> int:
    """Number of trained values of a module, its children's included."""
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


def by_part(network: MBT, inputs: Inputs) -> list[Part]:
    """The parts that a clip passes through, in that order; together they are the whole network.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).

    Returns:
        Embedding and layers of each modality, fused layers, head, each with parameters and multiply-adds of one clip
        as this program runs it at evaluation.
    """
    counts = by_module(network, inputs)
    first, depth = network.fusion_layer, len(network.layers)
    parts = []
    for m, tokens in network.tokens.items():
        content = "patches, positions" + (", CLS" if network.head.num_cls else "")
        parts.append(Part(f"{m}: {content}", count_parameters(tokens), counts[f"tokens.{m}"]))
    blocks = [dict(network.block_of(layer, m) for m in network.modalities) for layer in range(first)]
    for name in blocks[0] if blocks else ():
        parameters = sum(count_parameters(layer[name]) for layer in blocks)
        multiply_adds = sum(counts[f"layers.{layer}.{name}"] for layer in range(first))
        parts.append(Part(f"{name}: {layers_between(0, first)}", parameters, multiply_adds))
    own = count_parameters(network.norm) + count_parameters(network.head)
    head = Part("final norm, head", own, counts.get("head", 0))
    if first < depth:
        parameters = count_parameters(network.layers[first:]) + count_parameters(network.fusion)
        multiply_adds = counts[""] - head.multiply_adds - sum(part.multiply_adds for part in parts)
        parts.append(Part(f"fused: {layers_between(first, depth)}", parameters, multiply_adds))
    return [*parts, head]


def layers_between(start: int, stop: int) -> str:
    """The layers from `start` to before `stop`, in words."""
    return f"layer {start}" if stop - start == 1 else f"layers {start}-{stop - 1}"
