"""Patches to tokens: the same numbers as torch's own convolutions, in the order that positions count on."""

import pytest
import torch
import torch.nn.functional as F

from mbt_lightning.errors import UserError
from mbt_lightning.model.tokens import PatchTokens


def build(input_shape, patch, **settings) -> PatchTokens:
    torch.manual_seed(0)
    return PatchTokens(input_shape, patch, 6, **settings).double()


def draw(shape) -> torch.Tensor:
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)


@pytest.mark.parametrize(
    ("input_shape", "patch", "grid"),
    [
        ((3, 4, 32, 48), (1, 16, 16), (4, 2, 3)),
        ((3, 4, 32, 48), (2, 16, 16), (2, 2, 3)),
        ((3, 5, 37, 50), (2, 16, 16), (2, 2, 3)),  # what does not fill a patch is left out
        ((3, 32, 48), (16, 8), (2, 6)),
        ((3, 40, 20), (16, 16), (2, 1)),
    ],
)
def test_equals_a_convolution(input_shape, patch, grid) -> None:
    tokens, x = build(input_shape, patch), draw(input_shape)
    convolution = {2: F.conv2d, 3: F.conv3d}[len(patch)]
    expected = convolution(x, tokens.weight, tokens.bias, stride=patch)  # (B, D, *grid)
    assert expected.shape[2:] == tokens.grid == grid
    ours = tokens(x)
    torch.testing.assert_close(ours[:, 1:], expected.flatten(2).transpose(1, 2) + tokens.positions[:, 1:])
    assert torch.equal(ours[:, 0], (tokens.cls + tokens.positions[:, :1])[:, 0].expand(2, -1))


def test_order_is_row_major_behind_cls() -> None:
    """Each token's first value says in which cell of the grid the only bright patch lay."""
    tokens = build((3, 2, 12, 8), (1, 4, 4))
    torch.nn.init.ones_(tokens.weight)
    for place, (t, row, column) in enumerate((t, r, c) for t in range(2) for r in range(3) for c in range(2)):
        x = torch.zeros(1, 3, 2, 12, 8, dtype=torch.double)
        x[:, :, t, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
        changed = (tokens(x) - tokens(torch.zeros_like(x))).abs().amax((0, 2)) > 0.1
        assert changed.nonzero().flatten().tolist() == [1 + place]


def test_one_channel_equals_it_repeated_three_times() -> None:
    shape = (20, 16)
    one, three = build((1, *shape), (4, 4)), build((3, *shape), (4, 4))
    assert {n: p.shape for n, p in one.named_parameters()} == {n: p.shape for n, p in three.named_parameters()}
    three.load_state_dict(one.state_dict())
    x = draw((1, *shape))
    torch.testing.assert_close(one(x), three(x.expand(-1, 3, -1, -1)))


def test_without_cls() -> None:
    tokens = build((3, 8, 8), (4, 4), num_cls=0)
    assert tokens(draw((3, 8, 8))).shape == (2, 4, 6)
    assert tokens.cls is None and {n for n, _ in tokens.named_parameters()} == {"weight", "bias", "positions"}


def test_a_patch_without_frames_is_one_of_a_single_frame() -> None:
    short, long = build((3, 4, 16, 12), (8, 4)), build((3, 4, 16, 12), (1, 8, 4))
    assert short.grid == long.grid == (4, 2, 3)
    short.load_state_dict(long.state_dict())
    x = draw((3, 4, 16, 12))
    torch.testing.assert_close(short(x), long(x))


def test_frames_that_patches_do_not_fill_lie_below_each_other() -> None:
    """Three frames of 10 rows are a picture of 30, in which patches of 8 rows run across the frames."""
    stacked, flat = build((3, 3, 10, 12), (8, 4)), build((3, 30, 12), (8, 4))
    assert stacked.grid == flat.grid == (3, 3)
    stacked.load_state_dict(flat.state_dict())
    x = draw((3, 3, 10, 12))
    torch.testing.assert_close(stacked(x), flat(x.flatten(2, 3)))


def test_start_values() -> None:
    torch.manual_seed(0)
    tokens = PatchTokens((3, 4, 64, 64), (1, 8, 8), 128, position_std=0.5)
    assert not tokens.cls.any() and not tokens.bias.any()
    assert tokens.positions.std().item() == pytest.approx(0.5, rel=0.05)
    assert tokens.weight.std().item() == pytest.approx((3 * 8 * 8) ** -0.5, rel=0.05)


@pytest.mark.parametrize(
    ("input_shape", "patch", "message"),
    [
        ((3, 32, 32), (1, 16, 16), r"patch \[1, 16, 16\] has 3 axes, but the input \[3, 32, 32\] has 2"),
        ((3, 32, 32), (0, 16), r"patch \[0, 16\]: give 1 or more along each axis"),
        ((3, 32, 32), (), r"patch \[\] has 0 axes"),
        ((2, 32, 32), (16, 16), "an input of 2 channels does not fit a filter of 3"),
        (
            (3, 8, 32, 12),
            (1, 16, 16),
            r"patch \[1, 16, 16\] is larger than the input \[8, 32, 12\]: use smaller patches",
        ),
    ],
)
def test_wrong_shapes_are_refused(input_shape, patch, message) -> None:
    with pytest.raises(UserError, match=message):
        PatchTokens(input_shape, patch, 6)
