"""Augmentation: every applying function against an independent reference, every draw against its law."""

import colorsys
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser

from mbt_lightning.data.augment import (
    CentralCrop,
    Colour,
    ColourJitter,
    JitteredCrop,
    RandomResizedCrop,
    RgbAugment,
    SpecAugment,
    apply_colour,
    apply_spec_masks,
    central_crop_boxes,
    crop_resize,
    draw_flips,
    draw_spec_masks,
    jittered_crop_boxes,
    normalise,
    random_crop_boxes,
)
from mbt_lightning.errors import UserError

SIZES = torch.tensor([[64, 85], [85, 64], [40, 120], [37, 37]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(sizes: torch.Tensor = SIZES, num_frames: int = 2, padding: int = 0) -> torch.Tensor:
    """Random frames of these sizes, padded to the largest with one value."""
    height, width = sizes.amax(dim=0).tolist()
    frames = torch.randint(256, (len(sizes), num_frames, height, width, 3), generator=seeded(), dtype=torch.uint8)
    for clip, (own_height, own_width) in zip(frames, sizes.tolist(), strict=True):
        clip[:, own_height:] = padding
        clip[:, :, own_width:] = padding
    return frames


def by_interpolate(frames: torch.Tensor, box: torch.Tensor, size: int) -> torch.Tensor:
    """The reference, one clip: uint8 (T, H, W, 3) -> (3, T, S, S)."""
    top, left, height, width = box.long().tolist()
    cut = frames[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float() / 255
    return F.interpolate(cut, size=(size, size), mode="bilinear", antialias=True).transpose(0, 1)


DRAWERS: dict[str, Callable[..., torch.Tensor]] = {
    "random": random_crop_boxes,
    "jittered": jittered_crop_boxes,
    "central": lambda sizes, generator=None: central_crop_boxes(sizes, 0.875),
}


class TestBoxes:
    @pytest.mark.parametrize("drawer", DRAWERS)
    @pytest.mark.parametrize("size", [(64, 85), (85, 64), (4, 300), (300, 4), (1, 1)])
    def test_whole_pixels_inside_the_picture(self, drawer: str, size: tuple[int, int]) -> None:
        boxes = DRAWERS[drawer](torch.tensor([size]).expand(500, 2), generator=seeded())
        assert boxes.shape == (500, 4) and boxes.dtype == torch.float32
        assert torch.equal(boxes, boxes.round())
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] >= 1).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor(size)).all()

    @pytest.mark.parametrize("drawer", ["random", "jittered"])
    def test_own_draw_a_clip_and_same_by_seed(self, drawer: str) -> None:
        sizes = torch.tensor([[256, 340]]).expand(16, 2)
        boxes = DRAWERS[drawer](sizes, generator=seeded(1))
        assert len(boxes.unique(dim=0)) > 12
        assert torch.equal(boxes, DRAWERS[drawer](sizes, generator=seeded(1)))
        assert not torch.equal(boxes, DRAWERS[drawer](sizes, generator=seeded(2)))

    def test_random_crop_keeps_area_and_shape(self) -> None:
        sizes = torch.tensor([[256, 340]]).expand(2000, 2)
        _, _, height, width = random_crop_boxes(sizes, scale=(0.2, 0.5), ratio=(0.8, 1.6), generator=seeded()).unbind(1)
        area, shape = height * width / (256 * 340), width / height
        assert 0.19 < area.min() < 0.21 and 0.49 < area.max() < 0.51
        assert 0.78 < shape.min() < 0.82 and 1.57 < shape.max() < 1.63
        # Every such box fits, so the draws keep their law: uniform in area, log-uniform in shape.
        assert area.mean() == pytest.approx(0.35, abs=0.01)
        assert shape.log().mean() == pytest.approx((math.log(0.8) + math.log(1.6)) / 2, abs=0.02)

    def test_random_crop_reaches_every_corner(self) -> None:
        sizes = torch.tensor([[10, 14]]).expand(3000, 2)
        top, left, height, width = random_crop_boxes(sizes, generator=seeded()).unbind(1)
        assert top.min() == 0 and left.min() == 0
        assert (top + height).max() == 10 and (left + width).max() == 14

    @pytest.mark.parametrize(
        ("size", "ratio", "box"),
        [
            ((100, 10), (3 / 4, 4 / 3), (44, 0, 13, 10)),
            ((12, 300), (3 / 4, 4 / 3), (0, 142, 12, 16)),
            ((90, 100), (1.1, 2.0), (0, 0, 90, 100)),
        ],
    )
    def test_random_crop_falls_back_to_the_centre(
        self, size: tuple[int, int], ratio: tuple[float, float], box: tuple[int, ...]
    ) -> None:
        # A box of the whole area fits only by the picture's own shape, which no try meets.
        boxes = random_crop_boxes(torch.tensor([size]), scale=(1.0, 1.0), ratio=ratio, generator=seeded())
        assert boxes[0].tolist() == list(box)

    def test_jittered_crop_is_the_released_recipe(self) -> None:
        sizes = torch.tensor([[256, 340]]).expand(4000, 2)
        _, _, height, width = jittered_crop_boxes(sizes, generator=seeded()).unbind(1)
        for side in (height, width):
            assert side.min() == round(224 / 1.33) and side.max() == round(224 / 0.9)
            assert (224 / side).mean() == pytest.approx((0.9 + 1.33) / 2, abs=0.01)
        assert torch.corrcoef(torch.stack([height, width]))[0, 1].abs() < 0.05  # an axis each

    def test_central_crop(self) -> None:
        boxes = central_crop_boxes(torch.tensor([[256, 340], [360, 256], [5, 4]]), 224 / 256)
        assert boxes.tolist() == [[16, 58, 224, 224], [68, 16, 224, 224], [1, 0, 4, 4]]
        assert central_crop_boxes(torch.tensor([[10, 21]])).tolist() == [[0, 6, 10, 10]]

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: random_crop_boxes(SIZES, scale=(0.0, 1.0)), r"scale is \(0, 1\); .* above 0 and at most 1"),
            (lambda: random_crop_boxes(SIZES, scale=(0.5, 1.5)), r"scale is \(0.5, 1.5\)"),
            (lambda: random_crop_boxes(SIZES, ratio=(2.0, 1.0)), "ratio .* least value, then the greatest"),
            (lambda: jittered_crop_boxes(SIZES, jitter=(1.5, 1.0)), "jitter is"),
            (lambda: jittered_crop_boxes(SIZES, crop_fraction=0.95), "crop_fraction is 0.95 and the least jitter 0.9"),
            (lambda: central_crop_boxes(SIZES, 0.0), r"fraction is 0; it must be in \(0, 1\]"),
            (lambda: central_crop_boxes(SIZES, 1.01), "fraction is 1.01"),
            (lambda: draw_flips(2, 1.5), r"probability is 1.5; it must be in \[0, 1\]"),
        ],
    )
    def test_refuses(self, call: Callable[[], object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            call()


class TestCropResize:
    @pytest.mark.parametrize("size", [8, 23, 40, 64, 150])  # far down, down, same as one side, up
    @pytest.mark.parametrize("drawer", DRAWERS)
    def test_equals_interpolate(self, drawer: str, size: int) -> None:
        frames = pictures()
        boxes = DRAWERS[drawer](SIZES, generator=seeded())
        result = crop_resize(frames, boxes, size)
        assert result.shape == (4, 3, 2, size, size) and result.dtype == torch.float32 and result.is_contiguous()
        for clip, box, actual in zip(frames, boxes, result, strict=True):
            torch.testing.assert_close(actual, by_interpolate(clip, box, size), rtol=0, atol=1e-5)

    def test_same_size_is_a_plain_cut(self) -> None:
        frames = pictures()
        result = crop_resize(frames, torch.tensor([[3.0, 5.0, 16.0, 16.0]]).expand(4, 4), 16)
        torch.testing.assert_close(result, frames[:, :, 3:19, 5:21].permute(0, 4, 1, 2, 3) / 255, rtol=0, atol=1e-6)

    def test_box_between_pixels_moves_the_picture(self) -> None:
        # A ramp stays a ramp wherever it is sampled, away from the ends of the box.
        frames = torch.arange(0, 200, 2, dtype=torch.uint8)[None, None, None, :, None].expand(1, 1, 100, 100, 3)
        result = crop_resize(frames, torch.tensor([[10.25, 20.5, 30.0, 30.0]]), 30)
        expected = 2 * (20.5 + torch.arange(30) + 0.5 - 0.5) / 255
        torch.testing.assert_close(result[0, 0, 0, 15, 1:-1], expected[1:-1])

    @pytest.mark.parametrize("drawer", DRAWERS)
    @pytest.mark.parametrize("shift", [0.0, 1e-4])  # a box computed in float32 may end a rounding error too far
    def test_padding_never_leaks(self, drawer: str, shift: float) -> None:
        boxes = DRAWERS[drawer](SIZES, generator=seeded())
        boxes = torch.cat([boxes, torch.cat([torch.zeros(4, 2), SIZES], dim=1)])  # the whole picture too
        boxes[:, :2] += shift
        black, white = (pictures(padding=padding).repeat(2, 1, 1, 1, 1) for padding in (0, 255))
        assert not torch.equal(black, white)
        assert torch.equal(crop_resize(black, boxes, 24), crop_resize(white, boxes, 24))

    def test_flip_mirrors_the_chosen_clips(self) -> None:
        frames, boxes = pictures(), central_crop_boxes(SIZES)
        flip = torch.tensor([True, False, False, True])
        plain, flipped = crop_resize(frames, boxes, 24), crop_resize(frames, boxes, 24, flip)
        torch.testing.assert_close(flipped[flip], plain[flip].flip(-1))
        assert torch.equal(flipped[~flip], plain[~flip])

    def test_stays_in_range_and_in_float32_under_autocast(self) -> None:
        frames, boxes = torch.full_like(pictures(), 255), central_crop_boxes(SIZES)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = crop_resize(frames, boxes, 50)
        assert result.dtype == torch.float32 and result.max() <= 1
        torch.testing.assert_close(result, torch.ones_like(result), rtol=0, atol=1e-6)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: crop_resize(pictures(), central_crop_boxes(SIZES), 0), "size is 0"),
            (lambda: crop_resize(pictures().float(), central_crop_boxes(SIZES), 8), r"float32 .* must be uint8 \(B, T"),
            (lambda: crop_resize(pictures()[0], central_crop_boxes(SIZES), 8), "must be uint8"),
            (lambda: crop_resize(pictures(), central_crop_boxes(SIZES[:2]), 8), r"for 4 clips it must be \(4, 4\)"),
        ],
    )
    def test_refuses(self, call: Callable[[], object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            call()


def colour(brightness: float = 0.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0) -> Colour:
    return Colour(*(torch.tensor([value]) for value in (brightness, contrast, saturation, hue)))


class TestColour:
    frames = torch.rand(1, 3, 2, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4  # far from the clamp

    def test_nothing_drawn_changes_nothing(self) -> None:
        torch.testing.assert_close(apply_colour(self.frames, colour()), self.frames)

    def test_brightness_is_added(self) -> None:
        torch.testing.assert_close(apply_colour(self.frames, colour(brightness=-0.1)), self.frames - 0.1)

    def test_contrast_is_about_the_mean_of_each_frame_and_channel(self) -> None:
        mean = self.frames.mean(dim=(3, 4), keepdim=True)
        expected = mean + 1.4 * (self.frames - mean)
        torch.testing.assert_close(apply_colour(self.frames, colour(contrast=1.4)), expected)

    def test_saturation_keeps_the_luma(self) -> None:
        luma = torch.einsum("c,bcthw->bthw", torch.tensor([0.299, 0.587, 0.114]), self.frames).unsqueeze(1)
        expected = luma + 0.6 * (self.frames - luma)
        torch.testing.assert_close(apply_colour(self.frames, colour(saturation=0.6)), expected)
        torch.testing.assert_close(apply_colour(self.frames, colour(saturation=0.0)), luma.expand_as(self.frames))

    def test_order_is_brightness_contrast_saturation(self) -> None:
        step = apply_colour(self.frames, colour(brightness=0.05))
        step = apply_colour(step, colour(contrast=0.7))
        step = apply_colour(step, colour(saturation=1.3))
        step = apply_colour(step, colour(hue=0.1))
        together = apply_colour(self.frames, colour(brightness=0.05, contrast=0.7, saturation=1.3, hue=0.1))
        torch.testing.assert_close(together, step)

    def test_hue_turns_the_circle(self) -> None:
        torch.testing.assert_close(apply_colour(self.frames, colour(hue=1.0)), self.frames)
        half = apply_colour(self.frames, colour(hue=0.5))
        torch.testing.assert_close(apply_colour(half, colour(hue=-0.5)), self.frames)
        # A grey has no hue, and a colour turns the way that the HSV circle does, by about as much.
        grey = torch.full((1, 3, 1, 2, 2), 0.3)
        torch.testing.assert_close(apply_colour(grey, colour(hue=0.2)), grey)
        muted = torch.tensor([0.5, 0.4, 0.4])
        for turn in (-0.2, -0.1, 0.1, 0.2):
            turned = apply_colour(muted.view(1, 3, 1, 1, 1), colour(hue=turn)).flatten().tolist()
            distance = (colorsys.rgb_to_hsv(*turned)[0] - turn) % 1
            assert min(distance, 1 - distance) < 0.08

    def test_clamped(self) -> None:
        for brightness, bound in ((2.0, 1.0), (-2.0, 0.0)):
            assert (apply_colour(self.frames, colour(brightness=brightness)) == bound).all()

    def test_a_clip_its_own_change_and_its_frames_the_same(self) -> None:
        frames = self.frames[:, :, :1].expand(3, 3, 4, 6, 6)
        result = apply_colour(frames, ColourJitter(probability=1.0).draw(3, seeded()))
        assert not torch.equal(result[0], result[1]) and not torch.equal(result[1], result[2])
        torch.testing.assert_close(result, result[:, :, :1].expand_as(result))

    def test_draws_keep_to_the_ranges(self) -> None:
        drawn = ColourJitter().draw(20000, seeded())
        changed = drawn.hue != 0
        assert changed.float().mean() == pytest.approx(0.8, abs=0.02)
        assert torch.equal(changed, drawn.contrast != 1) and torch.equal(changed, drawn.brightness != 0)
        grey = drawn.saturation == 0
        assert grey.float().mean() == pytest.approx(0.1, abs=0.01)
        for values, low, high in (
            (drawn.brightness, -32 / 255, 32 / 255),
            (drawn.contrast, 0.6, 1.4),
            (drawn.saturation[~grey], 0.6, 1.4),
            (drawn.hue, -0.2, 0.2),
        ):
            assert low <= values.min() < low + 0.01 and high - 0.01 < values.max() <= high + 1e-6
        unchanged = ColourJitter(probability=0.0, grey_probability=0.0).draw(50, seeded())
        assert (unchanged.saturation == 1).all() and (unchanged.hue == 0).all()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"probability": 1.1}, r"probability is 1.1; it must be in \[0, 1\]"),
            ({"grey_probability": -0.1}, "grey_probability is -0.1"),
            ({"brightness": 2.0}, "brightness is 2"),
            ({"hue": 0.6}, r"hue is 0.6; it must be in \[0, 0.5\]"),
            ({"contrast": (1.4, 0.6)}, r"contrast is \(1.4, 0.6\); give the least value, then the greatest, from 0"),
            ({"saturation": (-1.0, 1.0)}, "saturation is"),
        ],
    )
    def test_refuses(self, settings: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            ColourJitter(**settings)


def test_normalise() -> None:
    assert normalise(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1.0, 0.0, 1.0]


AUGMENTS: dict[str, Callable[[], RgbAugment]] = {
    "central": CentralCrop,
    "jittered": JitteredCrop,
    "resized": RandomResizedCrop,
}


class TestRgbAugment:
    @pytest.mark.parametrize("name", AUGMENTS)
    def test_one_contract(self, name: str) -> None:
        frames, sizes = pictures(), SIZES.clone()
        before = frames.clone()
        result = AUGMENTS[name]()(frames, sizes, 16, seeded())
        assert result.shape == (4, 3, 2, 16, 16) and result.dtype == torch.float32
        assert result.min() >= -1 and result.max() <= 1
        assert torch.equal(frames, before) and torch.equal(sizes, SIZES)
        assert torch.equal(result, AUGMENTS[name]()(frames, sizes, 16, seeded()))

    @pytest.mark.parametrize("name", ["jittered", "resized"])
    def test_a_clip_its_own_draw_and_its_frames_the_same(self, name: str) -> None:
        frames = pictures(SIZES[:1], num_frames=1).expand(6, 3, -1, -1, -1)
        result = AUGMENTS[name]()(frames, SIZES[:1].expand(6, 2), 16, seeded())
        torch.testing.assert_close(result, result[:, :, :1].expand_as(result))
        assert len(result.flatten(1).unique(dim=0)) == 6
        assert not torch.equal(result, AUGMENTS[name]()(frames, SIZES[:1].expand(6, 2), 16, seeded(1)))

    def test_the_global_generator_serves_where_none_is_given(self) -> None:
        torch.manual_seed(5)
        first = JitteredCrop()(pictures(), SIZES, 16)
        torch.manual_seed(5)
        assert torch.equal(first, JitteredCrop()(pictures(), SIZES, 16))

    @pytest.mark.gpu
    @pytest.mark.parametrize("name", AUGMENTS)
    @pytest.mark.parametrize("where", ["cpu", "cuda"])  # of the sizes
    def test_a_gpu_gives_the_same(self, name: str, where: str) -> None:
        augment = AUGMENTS[name]()
        on_cpu = augment(pictures(), SIZES, 16, seeded())
        on_gpu = augment(pictures().cuda(), SIZES.to(where), 16, seeded())
        assert on_gpu.device.type == "cuda"
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=5e-3)  # TF32 may be on

    def test_building_draws_nothing_from_the_global_generator(self) -> None:
        before = torch.get_rng_state()
        JitteredCrop(), RandomResizedCrop(), CentralCrop(), SpecAugment()
        assert torch.equal(before, torch.get_rng_state())

    def test_a_configuration_names_them_by_class_path(self) -> None:
        parser = ArgumentParser()
        parser.add_argument("--rgb_augment", type=RgbAugment)
        parser.add_argument("--spec_augment", type=SpecAugment)
        config = parser.parse_object(
            {
                "rgb_augment": {
                    "class_path": "mbt_lightning.data.augment.RandomResizedCrop",
                    "init_args": {"scale": [0.5, 1.0], "colour": {"hue": 0.1}},
                },
                "spec_augment": {"class_path": "mbt_lightning.data.augment.SpecAugment", "init_args": {"max_time": 48}},
            }
        )
        built = parser.instantiate_classes(config)
        assert isinstance(built.rgb_augment, RandomResizedCrop)
        assert built.rgb_augment.scale == (0.5, 1.0) and built.rgb_augment.colour == ColourJitter(hue=0.1)
        assert built.spec_augment.max_time == 48

    def test_settings_reach_the_picture(self) -> None:
        still = ColourJitter(probability=0.0, grey_probability=0.0)
        square = SIZES[3:]
        frames = pictures(square)
        whole = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip_probability=1.0, colour=still)
        expected = normalise(by_interpolate(frames[0], torch.tensor([0, 0, 37, 37]), 20).flip(-1))
        torch.testing.assert_close(whole(frames, square, 20)[0], expected)
        central = JitteredCrop(crop_fraction=1.0, jitter=(1.0, 1.0), flip_probability=0.0, colour=still)
        torch.testing.assert_close(central(frames, square, 20), CentralCrop(fraction=1.0)(frames, square, 20))

    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: CentralCrop(fraction=2.0), "fraction is 2"),
            (lambda: JitteredCrop(crop_fraction=1.0), "crop_fraction is 1"),
            (lambda: RandomResizedCrop(scale=(0.0, 1.0)), "scale is"),
            (lambda: RandomResizedCrop(flip_probability=-1), "flip_probability is -1"),
        ],
    )
    def test_refuses_when_built(self, build: Callable[[], object], message: str) -> None:
        with pytest.raises(UserError, match=message):
            build()


class TestSpecAugment:
    def masks(self, batch: int = 4000, time: int = 800, mel: int = 128, **settings: int):
        counts = {"num_time_masks": 1, "max_time": 192, "num_freq_masks": 1, "max_freq": 48} | settings
        return draw_spec_masks(batch, time, mel, **counts, generator=seeded())

    def test_widths_and_places_follow_their_law(self) -> None:
        masks = self.masks()
        for spans, widest, length in ((masks.time, 192, 800), (masks.freq, 48, 128)):
            start, width = spans[:, 0].unbind(1)
            assert spans.shape == (4000, 1, 2) and spans.dtype == torch.long
            assert width.min() == 0 and width.max() == widest
            assert width.float().mean() == pytest.approx(widest / 2, rel=0.03)
            assert start.min() == 0 and (start + width).max() == length
            assert (start + width / 2).mean() == pytest.approx(length / 2, rel=0.03)

    def test_applied_area_is_what_was_drawn(self) -> None:
        spectrogram = torch.ones(4000, 1, 80, 16)
        masks = self.masks(time=80, mel=16, max_time=19, max_freq=5)
        kept = apply_spec_masks(spectrogram, masks).mean(dim=(1, 2, 3))
        rows, columns = (1 - masks.time[:, 0, 1] / 80), (1 - masks.freq[:, 0, 1] / 16)
        torch.testing.assert_close(kept, rows * columns)
        assert kept.mean() == pytest.approx((1 - 9.5 / 80) * (1 - 2.5 / 16), abs=0.005)

    def test_equals_a_plain_loop(self) -> None:
        spectrogram = torch.randn(5, 1, 60, 20, generator=seeded())
        masks = self.masks(batch=5, time=60, mel=20, num_time_masks=4, max_time=15, num_freq_masks=2, max_freq=6)
        expected = spectrogram.clone()
        for clip in range(5):
            for start, width in masks.time[clip].tolist():
                expected[clip, :, start : start + width] = 7.0
            for start, width in masks.freq[clip].tolist():
                expected[clip, :, :, start : start + width] = 7.0
        assert torch.equal(apply_spec_masks(spectrogram, masks, value=7.0), expected)

    def test_masks_are_capped_at_the_axis(self) -> None:
        masks = self.masks(time=50, mel=10)
        assert masks.time[..., 1].max() == 50 and masks.freq[..., 1].max() == 10
        assert (masks.time.sum(dim=2) <= 50).all() and (masks.freq.sum(dim=2) <= 10).all()
        assert masks.time[..., 1].float().mean() == pytest.approx(25, rel=0.05)  # not heaped at the cap

    def test_object(self) -> None:
        spectrogram = torch.ones(6, 1, 800, 128)
        result = SpecAugment(num_time_masks=4, max_time=48)(spectrogram, seeded())
        assert torch.equal(spectrogram, torch.ones_like(spectrogram))
        assert len(result.flatten(1).unique(dim=0)) == 6
        assert torch.equal(result, SpecAugment(num_time_masks=4, max_time=48)(spectrogram, seeded()))
        assert not torch.equal(result, SpecAugment(num_time_masks=4, max_time=48)(spectrogram, seeded(1)))
        masked_rows = (result == 0).all(dim=3).sum(dim=2)
        assert masked_rows.max() <= 4 * 48 and masked_rows.float().mean() > 48
        assert (result == 0).all(dim=2).sum(dim=2).max() <= 48

    @pytest.mark.gpu
    def test_a_gpu_gives_the_same(self) -> None:
        spectrogram = torch.randn(3, 1, 400, 128)
        on_gpu = SpecAugment()(spectrogram.cuda(), seeded())
        assert torch.equal(on_gpu.cpu(), SpecAugment()(spectrogram, seeded()))

    def test_no_masks(self) -> None:
        spectrogram = torch.randn(2, 1, 30, 8)
        assert torch.equal(SpecAugment(num_time_masks=0, num_freq_masks=0)(spectrogram), spectrogram)

    @pytest.mark.parametrize("setting", ["num_time_masks", "max_time", "num_freq_masks", "max_freq"])
    def test_refuses(self, setting: str) -> None:
        with pytest.raises(UserError, match=f"{setting} is -1; it must be 0 or more"):
            SpecAugment(**{setting: -1})
        with pytest.raises(UserError, match=setting):
            self.masks(**{setting: -1})
