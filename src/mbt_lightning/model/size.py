"""Sizes of an encoder, without torch: tools that only read configurations know them too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderSize:
    """Width and depth of each modality's encoder.

    Args:
        dim: width D of the tokens.
        depth: number of layers.
        num_heads: attention heads, a divisor of D.
        mlp_ratio: width of the MLP over D.
    """

    dim: int
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0


SIZES = {
    "ti": EncoderSize(192, 12, 3),
    "s": EncoderSize(384, 12, 6),
    "b": EncoderSize(768, 12, 12),
    "l": EncoderSize(1024, 24, 16),
}
"""The ViT family by its usual names; the paper uses `b`."""
