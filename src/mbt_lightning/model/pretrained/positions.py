"""Positions and filters of one geometry fitted to another."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor

from mbt_lightning.errors import UserError


def sample(grid: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Values of a grid at fractional indices of each axis, linear between neighbours, held at the ends.

    Args:
        grid: (*sides, D).
        places: for each axis the indices that are wanted, from 0 to the side less one.

    Returns:
        (*lengths of `places`, D).
    """
    for axis, at in enumerate(places):
        last = grid.shape[axis] - 1
        at = at.double().clamp(0, last)
        low = at.long()
        part = (at - low).to(grid.dtype).view(-1, *[1] * (grid.ndim - axis - 1))
        grid = torch.lerp(grid.index_select(axis, low), grid.index_select(axis, (low + 1).clamp(max=last)), part)
    return grid


def resample(grid: Tensor, sides: Sequence[int]) -> Tensor:
    """A grid with other sides: linear, first and last of each side staying where they are.

    The authors' resampling (scenic's order-1 spline zoom); a side of 1 takes the first.

    Args:
        grid: (*grid, D).
        sides: the wanted grid, of as many axes.

    Returns:
        (*sides, D).
    """
    spans = zip(grid.shape, sides, strict=False)
    return sample(grid, [torch.linspace(0, n - 1, m, dtype=torch.double) for n, m in spans])


def spread(grid: Tensor, sides: Sequence[int]) -> Tensor:
    """Positions of a grid (*, D) for another one, (prod(sides), D): resampled, repeated along new leading axes.

    So an image's positions are repeated for every frame and those of a spectrogram are resized, as the authors do
    (`resize_tile`).

    Raises:
        UserError: the grid has more axes than wanted.
    """
    rank = grid.ndim - 1
    if rank > len(sides):
        raise UserError(f"positions of a grid of {rank} axes do not fit a grid {list(sides)}")
    fitted = resample(grid, sides[len(sides) - rank :])
    return fitted.expand(*sides[: len(sides) - rank], *fitted.shape).flatten(0, len(sides) - 1)


def near_square(count: int) -> tuple[int, int]:
    """The sides, the first not longer, of the rectangle of `count` places that is nearest to a square."""
    rows = next(n for n in range(isqrt(count), 0, -1) if count % n == 0)
    return rows, count // rows


INFLATIONS = ("central", "average")
"""How a filter of one frame becomes one of several."""


def fit_filter(weight: Tensor, shape: Sequence[int], inflate: str = "central") -> tuple[Tensor, str]:
    """A patch filter in another shape: a new leading axis of frames, one fewer, or more channels.

    Args:
        weight: (D, C, *patch).
        shape: the wanted (D, C, *patch).
        inflate: `central`: the filter is put in frame t // 2 of t, the rest is zero (released configuration).
            `average`: every frame has 1 / t of it. A lost axis of frames is averaged, as the authors do.

    Returns:
        The filter, (D, C, *patch), and what was done to it, in words.

    Raises:
        UserError: patches of another size; they are not resampled.
    """
    _, channels, *patch = shape
    trained, words = "x".join(map(str, patch_of(weight))), []
    if weight.shape[1] == 1 and channels > 1:
        weight = weight.expand(-1, channels, *patch_of(weight)) / channels  # an input repeated gives the same
        words.append(f"its one channel over {channels}")
    if weight.ndim - 2 == len(patch) == 3 and weight.shape[2] == 1 < patch[0]:
        weight = weight[:, :, 0]  # of single frames
    if len(patch) == weight.ndim - 3:
        words.append(f"mean of {weight.shape[2]} frames")
        weight = weight.mean(2)
    elif len(patch) == weight.ndim - 1:
        frames, flat = patch[0], weight
        weight = flat.new_zeros(*flat.shape[:2], frames, *patch_of(flat))
        if inflate == "average":
            weight += flat[:, :, None] / frames
        else:
            weight[:, :, frames // 2] = flat
        words += [f"{'spread over' if inflate == 'average' else 'in the central frame of'} {frames}"] * (frames > 1)
    if tuple(weight.shape[1:]) != tuple(shape[1:]):
        here = "x".join(map(str, patch))
        raise UserError(f"patches are {trained} there and {here} here: set model.patches to those that were trained")
    return weight, ", ".join(words)


def patch_of(weight: Tensor) -> tuple[int, ...]:
    """The patch that a filter (D, C, *patch) sees."""
    return tuple(weight.shape[2:])
