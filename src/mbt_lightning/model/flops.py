"""What a model costs, counted on the model itself: parameters, and multiply-adds of a forward pass.

Multiply-adds are those of matrix products, attention's included, each counted as one (not as two operations).
Element-wise work, about half a per cent, is left out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mbt_lightning.model.mbt import MBT


def gflops_per_clip(network: MBT, inputs: dict[str, tuple[int, ...]]) -> float:
    """Billions of multiply-adds of one clip's forward pass, as this program runs it at evaluation.

    A multiply-add counts as one, as in the GFLOPs of the paper's Fig. 3 (arXiv:2107.00135): its late fusion fits that.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    return by_module(network, inputs)[""] / 1e9


def by_module(network: MBT, inputs: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Multiply-adds of one clip's forward pass in each module, counted by torch's `FlopCounterMode` on shapes alone.

    Args:
        network: the encoder, which is not changed.
        inputs: shape of one example of each modality, (C, *grid).

    Returns:
        Multiply-adds by the module's name; `""` is the whole network.
    """
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


def by_part(network: MBT, inputs: dict[str, tuple[int, ...]]) -> list[Part]:
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
