"""A Flax Linen transformer's parameters under our names, which are timm's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def block_state(take: Callable[[str], Tensor], name: str) -> dict[str, Tensor]:
    """One encoder block's parameters with the names of `model.blocks.Block` and torch's shapes.

    Linen's kernels are (in, out); those of attention are (in, heads, out / heads) and (heads, in / heads, out).

    Args:
        take: returns a parameter by its full name.
        name: the block's name, e.g. Transformer/encoderblock_3.
    """
    attention = f"{name}/MultiHeadDotProductAttention_0"
    parts = ("query", "key", "value")
    return {
        "norm1.weight": take(f"{name}/LayerNorm_0/scale"),
        "norm1.bias": take(f"{name}/LayerNorm_0/bias"),
        "attn.qkv.weight": torch.cat([take(f"{attention}/{part}/kernel").flatten(1).T for part in parts]),
        "attn.qkv.bias": torch.cat([take(f"{attention}/{part}/bias").flatten() for part in parts]),
        "attn.proj.weight": take(f"{attention}/out/kernel").flatten(0, -2).T,
        "attn.proj.bias": take(f"{attention}/out/bias"),
        "norm2.weight": take(f"{name}/LayerNorm_1/scale"),
        "norm2.bias": take(f"{name}/LayerNorm_1/bias"),
        "mlp.fc1.weight": take(f"{name}/MlpBlock_0/Dense_0/kernel").T,
        "mlp.fc1.bias": take(f"{name}/MlpBlock_0/Dense_0/bias"),
        "mlp.fc2.weight": take(f"{name}/MlpBlock_0/Dense_1/kernel").T,
        "mlp.fc2.bias": take(f"{name}/MlpBlock_0/Dense_1/bias"),
    }


def tensor(array: Any) -> Tensor:
    """A float32 tensor that owns its memory."""
    return torch.from_numpy(np.array(array, dtype=np.float32))
