"""Mixup: the law of the weight, the partner, and targets that follow each modality."""

import math

import pytest
import torch

from mbt_lightning.data.mixup import Mixup, ModalityMixup, draw_mix, mix
from mbt_lightning.errors import UserError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestMixup:
    @pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
    def test_weight_is_beta(self, alpha: float) -> None:
        generator = seeded()
        weights = torch.tensor([draw_mix(alpha, generator) for _ in range(3000)])
        assert weights.min() >= 0 and weights.max() <= 1
        assert weights.mean() == pytest.approx(0.5, abs=0.03)
        assert weights.std() == pytest.approx(math.sqrt(1 / (4 * (2 * alpha + 1))), abs=0.02)

    def test_weight_by_seed(self) -> None:
        assert draw_mix(0.3, seeded(1)) == draw_mix(0.3, seeded(1)) != draw_mix(0.3, seeded(2))
        generator = seeded()
        assert draw_mix(0.3, generator) != draw_mix(0.3, generator)

    def test_partner_is_the_reversed_batch(self) -> None:
        x = torch.randn(5, 2, 3, generator=seeded())
        mixed = mix(x, 0.75)
        for clip in range(5):
            torch.testing.assert_close(mixed[clip], 0.75 * x[clip] + 0.25 * x[4 - clip])
        assert torch.equal(x, torch.randn(5, 2, 3, generator=seeded()))
        assert torch.equal(mix(x, 1.0), x) and torch.equal(mix(x, 0.0), x.flip(0))

    def test_labels_mix_likewise(self) -> None:
        labels = torch.eye(3)
        assert mix(labels, 0.75).tolist() == [[0.75, 0.0, 0.25], [0.0, 1.0, 0.0], [0.25, 0.0, 0.75]]

    def test_refuses(self) -> None:
        for alpha in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(UserError, match=f"alpha is {alpha}; it must be above 0"):
                draw_mix(alpha)
        with pytest.raises(UserError, match=r"weight is 1\.5; it must be in \[0, 1\]"):
            mix(torch.zeros(2), 1.5)


def batch() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    inputs = {"rgb": torch.randn(4, 3, 2, 8, 8), "spectrogram": torch.randn(4, 1, 10, 8)}
    return inputs, torch.eye(4)


def test_mixup_shares_one_weight() -> None:
    inputs, targets = batch()
    mixed, soft = Mixup(0.5)(inputs, targets, seeded())
    assert torch.equal(soft["rgb"], soft["spectrogram"])
    weight = soft["rgb"][0, 0].item()
    for m, x in inputs.items():
        torch.testing.assert_close(mixed[m], weight * x + (1 - weight) * x.flip(0))


def test_modality_mixup_has_a_weight_and_targets_for_each() -> None:
    inputs, targets = batch()
    mixed, soft = ModalityMixup(0.5)(inputs, targets, seeded())
    weights = {m: soft[m][0, 0].item() for m in inputs}
    assert weights["rgb"] != weights["spectrogram"]
    for m, x in inputs.items():
        torch.testing.assert_close(mixed[m], weights[m] * x + (1 - weights[m]) * x.flip(0))
