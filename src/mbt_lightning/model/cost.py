"""What a forward pass costs, counted, not estimated."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mbt_lightning.model.mbt import MBT


def gflops_per_clip(network: MBT, inputs: dict[str, tuple[int, ...]]) -> float:
    """Billions of multiply-adds of one clip's forward pass, as the paper counts GFLOPs (one multiply-add is one).

    Matrix products, those of attention included; element-wise work (about half a per cent) is not counted.

    Args:
        network: the encoder.
        inputs: shape of one example of each modality, (C, *grid).
    """
    shadow = copy.deepcopy(network).to("meta").eval().requires_grad_(False)  # shapes only, nothing is computed
    example = {m: torch.empty(1, *shape, device="meta") for m, shape in inputs.items()}
    counter = FlopCounterMode(display=False)
    with counter:
        shadow.forward(example)
    return counter.get_total_flops() / 2 / 1e9


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in network.parameters())
