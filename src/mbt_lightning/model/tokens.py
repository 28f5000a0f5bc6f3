"""From a modality's input to tokens: patches or tubelets, learned positions, CLS."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbt_lightning.errors import UserError


class PatchTokens(nn.Module):
    """Non-overlapping patches of an input of any rank, projected linearly, with learned positions (paper eq. 1, 3.1).

    One class serves frames (grid of time, rows, columns; a patch of one frame is a ViT's patch, of two a tubelet)
    and spectrograms (grid of time, mel). An incomplete patch at the far end is left out, as in a convolution
    without padding. Tokens are in row-major order of the grid, after the CLS tokens.

    Args:
        input_shape: (C, *grid) of one example, e.g. (3, 8, 224, 224) or (1, 800, 128).
        patch: size of a patch along each axis of the grid, e.g. (1, 16, 16) or (16, 16). With fewer axes than
            the grid, patches are of one frame; if they do not fill the frame's height, frames are first stacked
            vertically, so that patches extend across them (as in the authors' `temporal_sampling`).
        dim: width D of the tokens.
        num_cls: number of CLS tokens in front (0 or 1).
        filter_channels: channels of the filter. Three for every modality, so that filters trained on images fit;
            an input of one channel is treated as if it were repeated.
        position_std: standard deviation of the initial positions.

    `covered` is the size of what the patches cover. Where the input is no multiple of them (`is_cut`), the rest at the
    end of an axis is not read, as in the authors' code.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        patch: Sequence[int],
        dim: int,
        num_cls: int = 1,
        filter_channels: int = 3,
        position_std: float = 0.02,
    ):
        super().__init__()
        channels, *size = input_shape
        missing = len(size) - len(patch)
        if any(side < 1 for side in patch):
            raise UserError(f"patch {list(patch)}: give 1 or more along each axis")
        if missing < 0 or not patch:
            raise UserError(
                f"patch {list(patch)} has {len(patch)} axes, but the input {list(input_shape)} has {len(size)}"
            )
        self.num_stacked = missing if missing and size[missing] % patch[0] else 0
        if not self.num_stacked:
            patch = (*[1] * missing, *patch)
        if channels not in (1, filter_channels):
            raise UserError(f"an input of {channels} channels does not fit a filter of {filter_channels}")
        self.size = tuple(size)
        self.patch = tuple(patch)
        stacked = [prod(size[: self.num_stacked + 1]), *size[self.num_stacked + 1 :]]
        self.grid = tuple(s // p for s, p in zip(stacked, patch, strict=True))
        self.covered = tuple(count * side for count, side in zip(self.grid, patch, strict=True))
        self.is_cut = list(self.covered) != stacked
        if not all(self.grid):
            raise UserError(
                f"patch {list(patch)} is larger than the input {size}: use smaller patches or a larger input"
            )
        self.weight = nn.Parameter(torch.empty(dim, filter_channels, *patch))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.cls = nn.Parameter(torch.zeros(1, num_cls, dim)) if num_cls else None
        self.positions = nn.Parameter(torch.empty(1, num_cls + prod(self.grid), dim))
        fan_in = filter_channels * prod(patch)
        nn.init.trunc_normal_(self.weight, std=fan_in**-0.5)
        nn.init.normal_(self.positions, std=position_std)

    def forward(self, x: Tensor) -> Tensor:
        """Turn `x` (B, C, *grid) into tokens (B, num_cls + N, D)."""
        patches = self.split(x)
        weight: Tensor = self.weight
        if x.shape[1] == 1:
            weight = weight.sum(1, keepdim=True)  # the same as repeating the input, at a third of the cost
        tokens = F.linear(patches, weight.flatten(1), self.bias)
        if self.cls is not None:
            tokens = torch.cat([self.cls.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)
        return tokens + self.positions

    def split(self, x: Tensor) -> Tensor:
        """Cut `x` (B, C, *grid) into patches (B, N, C * prod(patch))."""
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"the input is {list(x.shape[2:])}, but the tokeniser was built for {list(self.size)}")
        x = x.flatten(2, 2 + self.num_stacked)
        rank = len(self.grid)
        for axis, (count, size) in enumerate(zip(self.grid, self.patch, strict=True), start=2):
            x = x.narrow(axis, 0, count * size)
        shape = [n for pair in zip(self.grid, self.patch, strict=True) for n in pair]  # g1, p1, g2, p2, ...
        x = x.reshape(*x.shape[:2], *shape)
        grid_axes = [2 + 2 * i for i in range(rank)]
        patch_axes = [3 + 2 * i for i in range(rank)]
        return x.permute(0, *grid_axes, 1, *patch_axes).flatten(1 + rank).flatten(1, rank)
