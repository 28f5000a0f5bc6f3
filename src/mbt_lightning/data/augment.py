"""Input transforms on the device: crop and resize, colour, SpecAugment, mixup; batched, one draw a clip.

Drawing is separate from applying. A `draw` or `..._boxes` function takes the random generator and returns small
tensors; the function that applies them is pure, works on any device, and loops over no clip. Generators are CPU
generators, whatever the device of the data, so one seed gives the same draws everywhere. All frames of a clip share
its draw.

Letters: B clips, T frames, H and W the padded frame's sides, S the side of the output.

A box is a row of a (B, 4) float tensor, `(top, left, height, width)`, in pixels of that clip's own frame. Frames of
different size share a batch by padding at the bottom and right; `sizes`, (B, 2) long, holds the true (height, width).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mbt_lightning.errors import UserError

# ---------------------------------------------------------------------------------------------------------------------
# Shared arithmetic and checks
# ---------------------------------------------------------------------------------------------------------------------


def _uniform(
    shape: tuple[int, ...],
    low: float,
    high: float,
    generator: Generator | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform draws on the CPU, then moved, so that they are the same on every device."""
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(device)


def _place(sizes: Tensor, box_sizes: Tensor, place: Tensor) -> Tensor:
    """Boxes of whole pixels; `place` in [0, 1) is where in the room left over: (B, 2) three times -> (B, 4)."""
    start = (place * (sizes - box_sizes + 1)).floor()
    return torch.cat([start, box_sizes], dim=1)


def _check_range(name: str, bounds: tuple[float, float], high: float = math.inf, *, zero: bool = False) -> None:
    """Refuse a (least, greatest) out of order, above `high`, below 0, or at 0 unless `zero` is true."""
    first, last = bounds
    if not 0 <= first <= last <= high or (first == 0 and not zero):
        allowed = f"{'from' if zero else 'above'} 0" + (f" and at most {high:g}" if high < math.inf else "")
        raise UserError(f"{name} is ({first:g}, {last:g}); give the least value, then the greatest, {allowed}.")


def _check_between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UserError(f"{name} is {value:g}; it must be in [{low:g}, {high:g}].")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 0:
            raise UserError(f"{name} is {count}; it must be 0 or more (0: no such mask).")


# ---------------------------------------------------------------------------------------------------------------------
# Boxes: where to cut
# ---------------------------------------------------------------------------------------------------------------------


def random_crop_boxes(
    sizes: Tensor,
    *,
    scale: tuple[float, float] = (0.33, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: Generator | None = None,
) -> Tensor:
    """Boxes of a random area and shape at a random place, (B, 2) -> (B, 4): the random resized crop of Inception.

    As torchvision's: ten tries of an area and a log-uniform aspect ratio a clip, of which the first that fits counts;
    else the largest central box within `ratio`. Whole pixels.

    Args:
        sizes: (B, 2) true (height, width) of the frames.
        scale: least and greatest area of the box, as a part of the frame's, in (0, 1].
        ratio: least and greatest width / height of the box.
        generator: source of the draws; None: torch's global one.

    Raises:
        UserError: a range that is empty or out of bounds.
    """
    _check_range("scale", scale, high=1.0)
    _check_range("ratio", ratio)
    num_tries = 10
    height, width = sizes.float().unbind(1)  # (B,)
    tries = (len(sizes), num_tries)
    area = _uniform(tries, *scale, generator, sizes.device) * (height * width).unsqueeze(1)
    shape = _uniform(tries, math.log(ratio[0]), math.log(ratio[1]), generator, sizes.device).exp()
    heights, widths = (area / shape).sqrt().round(), (area * shape).sqrt().round()  # (B, tries)
    fits = (heights >= 1) & (widths >= 1) & (heights <= height.unsqueeze(1)) & (widths <= width.unsqueeze(1))
    first = fits.int().argmax(dim=1, keepdim=True)  # argmax gives the first of equals
    box_height, box_width = heights.gather(1, first).squeeze(1), widths.gather(1, first).squeeze(1)

    fallback_height = torch.minimum(height, (width / ratio[0]).round()).clamp_min(1)
    fallback_width = torch.minimum(width, (height * ratio[1]).round()).clamp_min(1)
    found = fits.any(dim=1)
    box_height = torch.where(found, box_height, fallback_height)
    box_width = torch.where(found, box_width, fallback_width)

    place = torch.where(found.unsqueeze(1), _uniform((len(sizes), 2), 0.0, 1.0, generator, sizes.device), 0.5)
    return _place(sizes, torch.stack([box_height, box_width], dim=1), place)


def jittered_crop_boxes(
    sizes: Tensor,
    *,
    crop_fraction: float = 224 / 256,
    jitter: tuple[float, float] = (0.9, 1.33),
    generator: Generator | None = None,
) -> Tensor:
    """Boxes of the authors' released recipe, (B, 2) -> (B, 4): scale jitter, then a random crop.

    They scale the shorter side to 256, scale height and width by independent factors of 0.9 to 1.33, and cut a square
    of 224 at random. In pixels of the frame that is a box of `crop_fraction` * shorter side / factor. Whole pixels.

    Args:
        sizes: (B, 2) true (height, width) of the frames.
        crop_fraction: the crop's side as a part of the shorter side, in (0, jitter[0]].
        jitter: least and greatest scale factor.
        generator: source of the draws; None: torch's global one.

    Raises:
        UserError: a range that is empty or out of bounds, or a crop that a scaled frame could not hold.
    """
    _check_range("jitter", jitter)
    if not 0 < crop_fraction <= jitter[0]:
        raise UserError(
            f"crop_fraction is {crop_fraction:g} and the least jitter {jitter[0]:g}: the crop must be in (0, least "
            "jitter], or it may not fit into the scaled frame. Lower crop_fraction or raise the jitter."
        )
    factor = _uniform((len(sizes), 2), *jitter, generator, sizes.device)
    shorter = sizes.amin(dim=1, keepdim=True)
    box_sizes = (crop_fraction * shorter / factor).round().clamp_min(1)
    return _place(
        sizes, torch.minimum(box_sizes, shorter), _uniform((len(sizes), 2), 0.0, 1.0, generator, sizes.device)
    )


def central_crop_boxes(sizes: Tensor, fraction: float = 1.0) -> Tensor:
    """The largest central squares times a fraction, (B, 2) -> (B, 4). Whole pixels.

    Args:
        sizes: (B, 2) true (height, width) of the frames.
        fraction: the box's side as a part of the shorter side, in (0, 1]; 224 / 256 is the usual test crop.

    Raises:
        UserError: `fraction` outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"fraction is {fraction:g}; it must be in (0, 1]. 0.875 is a crop of 224 from 256.")
    side = (fraction * sizes.amin(dim=1, keepdim=True)).round().clamp_min(1)
    return _place(sizes, side.expand(-1, 2), torch.full((len(sizes), 2), 0.5, device=sizes.device))


def draw_flips(batch: int, probability: float = 0.5, generator: Generator | None = None) -> Tensor:
    """Which clips to mirror left to right: (B,) bool on the CPU.

    Args:
        batch: number of clips, B.
        probability: of a clip to be mirrored, in [0, 1].
        generator: source of the draws; None: torch's global one.

    Raises:
        UserError: `probability` outside [0, 1].
    """
    _check_between("probability", probability, 0, 1)
    return torch.rand(batch, generator=generator) < probability


def crop_resize(frames: Tensor, boxes: Tensor, size: int, flip: Tensor | None = None) -> Tensor:
    """Every clip's box of every frame as a square: uint8 (B, T, H, W, 3) -> float32 (B, 3, T, S, S) in [0, 1].

    Bilinear with antialiasing, as `F.interpolate(..., mode="bilinear", antialias=True)` of the cut-out box: resampling
    an axis is linear, so every clip gets a matrix for its rows and one for its columns, and the whole batch is two
    matrix products. A box whose edges fall between pixels counts every pixel that it touches. A pixel outside the box
    has the weight zero exactly, so padding never enters.

    Peak memory beside the input is about 1.0 GB for B=64, T=8 of 256 x 340 to 224: the product with the columns
    (352 MB) beside the frames in float32 (535 MB), then beside the rows' matrices a frame and the result (660 MB).

    Args:
        frames: uint8 (B, T, H, W, 3) RGB, padded at the bottom and right.
        boxes: (B, 4) (top, left, height, width), each inside its clip's own frame.
        size: side S of the result in pixels.
        flip: (B,) bool, which clips to mirror left to right; None: none.

    Raises:
        UserError: `size` below 1, or shapes that do not belong together.
    """
    if size < 1:
        raise UserError(f"size is {size}; it must be 1 pixel or more.")
    if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise UserError(f"frames are {frames.dtype} {tuple(frames.shape)}; they must be uint8 (B, T, H, W, 3).")
    batch, num_frames, height, width, _ = frames.shape
    if boxes.shape != (batch, 4):
        raise UserError(f"boxes have the shape {tuple(boxes.shape)}; for {batch} clips it must be ({batch}, 4).")
    top, left, box_height, box_width = boxes.to(frames.device, torch.float32).unbind(1)
    rows = _resampling_matrix(top, box_height, height, size)  # (B, S, H)
    columns = _resampling_matrix(left, box_width, width, size)  # (B, S, W)
    if flip is not None:
        columns = torch.where(flip.to(frames.device)[:, None, None], columns.flip(1), columns)
    pixels = frames.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)  # (B, 3, T, H, W)
    with torch.autocast(frames.device.type, enabled=False):  # bfloat16 would round the frames to 8 bits twice
        # Columns first: one long product a clip, without a copy, and it leaves less to do for the rows.
        pixels = pixels.view(batch, -1, width) @ columns.transpose(1, 2)  # (B, 3*T*H, S)
        pixels = (rows / 255).unsqueeze(1) @ pixels.view(batch, -1, height, size)  # (B, 3*T, S, S)
    return pixels.view(batch, 3, num_frames, size, size).clamp_(0, 1)  # sums of rounded weights overshoot by 1e-7


def _resampling_matrix(start: Tensor, extent: Tensor, length: int, size: int) -> Tensor:
    """Weights that resample [start, start + extent) of an axis of `length` pixels: (B,), (B,) -> (B, size, length).

    A triangle of half-width max(1, scale) around every output pixel's centre, normalised: PIL's and torch's antialiased
    bilinear.
    """
    scale = (extent / size)[:, None, None]  # (B, 1, 1)
    start, extent = start[:, None, None], extent[:, None, None]
    output = torch.arange(size, device=start.device, dtype=torch.float32)[None, :, None] + 0.5
    pixel = torch.arange(length, device=start.device, dtype=torch.float32)[None, None, :]
    weights = 1 - (pixel + 0.5 - start - output * scale).abs() / scale.clamp_min(1)
    # The slack keeps rounding in start + extent from reaching a pixel too far, which may be padding.
    inside = (pixel + 1 > start + 1e-3) & (pixel < start + extent - 1e-3)
    weights = weights.clamp_min(0) * inside
    return weights / weights.sum(dim=2, keepdim=True)


# ---------------------------------------------------------------------------------------------------------------------
# Colour
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Colour:
    """Drawn colour changes, one value a clip; `apply_colour` applies them.

    Args:
        brightness: (B,) added to every value; 0: unchanged.
        contrast: (B,) factor on the distance from the frame's mean; 1: unchanged.
        saturation: (B,) factor on the chroma; 1: unchanged, 0: grey.
        hue: (B,) turn of the chroma, as a part of the full circle; 0: unchanged.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor


@dataclass(frozen=True)
class ColourJitter:
    """The ranges from which colour changes are drawn; the defaults are the authors' released configuration.

    With `probability`, a clip's brightness, contrast, saturation and hue change together; then, with
    `grey_probability`, it loses its colour.

    Args:
        probability: of a clip's colours to change, in [0, 1].
        brightness: greatest change of brightness, of a range [0, 1] of values.
        contrast: least and greatest factor.
        saturation: least and greatest factor.
        hue: greatest turn either way, as a part of the full circle, in [0, 0.5].
        grey_probability: of a clip to become grey, in [0, 1].

    Raises:
        UserError: a range that is empty or out of bounds.
    """

    probability: float = 0.8
    brightness: float = 32 / 255
    contrast: tuple[float, float] = (0.6, 1.4)
    saturation: tuple[float, float] = (0.6, 1.4)
    hue: float = 0.2
    grey_probability: float = 0.1

    def __post_init__(self) -> None:
        _check_between("probability", self.probability, 0, 1)
        _check_between("brightness", self.brightness, 0, 1)
        _check_range("contrast", self.contrast, zero=True)
        _check_range("saturation", self.saturation, zero=True)
        _check_between("hue", self.hue, 0, 0.5)
        _check_between("grey_probability", self.grey_probability, 0, 1)

    def draw(self, batch: int, generator: Generator | None = None) -> Colour:
        """Colour changes for a batch of clips, on the CPU.

        Args:
            batch: number of clips, B.
            generator: source of the draws; None: torch's global one.
        """
        changed = torch.rand(batch, generator=generator) < self.probability
        brightness = _uniform((batch,), -self.brightness, self.brightness, generator)
        contrast = _uniform((batch,), *self.contrast, generator)
        saturation = _uniform((batch,), *self.saturation, generator)
        hue = _uniform((batch,), -self.hue, self.hue, generator)
        grey = torch.rand(batch, generator=generator) < self.grey_probability
        return Colour(
            brightness=torch.where(changed, brightness, 0.0),
            contrast=torch.where(changed, contrast, 1.0),
            saturation=torch.where(grey, 0.0, torch.where(changed, saturation, 1.0)),
            hue=torch.where(changed, hue, 0.0),
        )


# NTSC: luma Y over the two chroma axes I and Q. Saturation scales the chroma, hue turns it, grey is saturation 0.
_YIQ_FROM_RGB = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB_FROM_YIQ = torch.linalg.inv(_YIQ_FROM_RGB)


def apply_colour(frames: Tensor, colour: Colour) -> Tensor:
    """Change the colours, (B, 3, T, S, S) in [0, 1] -> the same.

    Brightness is added, contrast scales the distance from the mean of each frame and channel (as TensorFlow's
    adjust_contrast in the authors' pipeline), saturation and hue scale and turn the chroma in YIQ. All that is one
    affine map of the colours, so it costs one 3 x 3 product a clip; the result is clamped to [0, 1]. The authors'
    pipeline changes saturation and hue in HSV and clamps before it greys, which differs for strong colours only.

    Args:
        frames: (B, 3, T, S, S) RGB in [0, 1].
        colour: the drawn changes of the B clips.
    """
    batch, _, num_frames, *_ = frames.shape
    brightness = colour.brightness.to(frames.device)[:, None, None]  # (B, 1, 1)
    contrast = colour.contrast.to(frames.device)[:, None, None]
    mean = frames.mean(dim=(3, 4))  # (B, 3, T)
    with torch.autocast(frames.device.type, enabled=False):
        turn = _chroma_matrix(colour.saturation, colour.hue).to(frames.device)  # (B, 3, 3)
        # turn @ (contrast * (x - mean) + mean + brightness), its constant part apart
        constant = turn @ ((1 - contrast) * mean + brightness)  # (B, 3, T)
        changed = (contrast * turn) @ frames.reshape(batch, 3, -1)  # (B, 3, T*S*S)
    changed = changed.view(batch, 3, num_frames, -1).add_(constant.unsqueeze(-1)).clamp_(0, 1)
    return changed.view_as(frames)


def _chroma_matrix(saturation: Tensor, hue: Tensor) -> Tensor:
    """RGB -> RGB matrices that scale and turn the chroma and keep the luma: (B,), (B,) -> (B, 3, 3)."""
    angle = 2 * math.pi * hue
    cosine, sine = saturation * angle.cos(), saturation * angle.sin()
    in_yiq = torch.zeros(len(hue), 3, 3, device=hue.device)
    in_yiq[:, 0, 0] = 1
    in_yiq[:, 1, 1] = in_yiq[:, 2, 2] = cosine
    in_yiq[:, 1, 2], in_yiq[:, 2, 1] = sine, -sine  # red turns to yellow, as in HSV
    return _RGB_FROM_YIQ.to(hue.device) @ in_yiq @ _YIQ_FROM_RGB.to(hue.device)


def normalise(frames: Tensor) -> Tensor:
    """Values in [0, 1] -> [-1, 1], the authors' normalisation of frames (released configuration).

    Args:
        frames: values in [0, 1], any shape.
    """
    return frames * 2 - 1


# ---------------------------------------------------------------------------------------------------------------------
# RGB augmentations: objects that a configuration names by class path
# ---------------------------------------------------------------------------------------------------------------------


class RgbAugment:
    """Decoded frames of a batch -> the model's input.

    Calling it: `(frames, sizes, size, generator=None)`, uint8 (B, T, H, W, 3) -> float32 (B, 3, T, S, S) in [-1, 1].
    """

    def __call__(self, frames: Tensor, sizes: Tensor, size: int, generator: Generator | None = None) -> Tensor:
        """Cut, resize and normalise the frames of a batch.

        Args:
            frames: uint8 (B, T, H, W, 3) RGB, padded at the bottom and right.
            sizes: (B, 2) true (height, width) of the frames.
            size: side S of the result in pixels.
            generator: source of the draws; None: torch's global one.
        """
        raise NotImplementedError


class CentralCrop(RgbAugment):
    """No augmentation: the central square, resized; for validation and test.

    Args:
        fraction: the square's side as a part of the shorter side, in (0, 1]; 0.875 is 224 from 256.
    """

    def __init__(self, fraction: float = 224 / 256) -> None:
        central_crop_boxes(torch.ones(1, 2), fraction)  # refuses a wrong setting when built, not in the first batch
        self.fraction = fraction

    def __call__(self, frames: Tensor, sizes: Tensor, size: int, generator: Generator | None = None) -> Tensor:
        """The central square of every frame, normalised; draws nothing."""
        return normalise(crop_resize(frames, central_crop_boxes(sizes, self.fraction), size))


class RandomCrop(RgbAugment):
    """A random crop, a flip and colour jitter; subclasses draw the box.

    Args:
        flip_probability: of a clip to be mirrored, in [0, 1].
        colour: ranges of the colour jitter.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(self, flip_probability: float, colour: ColourJitter) -> None:
        _check_between("flip_probability", flip_probability, 0, 1)
        self.flip_probability = flip_probability
        self.colour = colour
        self.draw_boxes(torch.ones(1, 2), torch.Generator())  # as above

    def draw_boxes(self, sizes: Tensor, generator: Generator | None) -> Tensor:
        """A box a clip, (B, 2) -> (B, 4).

        Args:
            sizes: (B, 2) true (height, width) of the frames.
            generator: source of the draws; None: torch's global one.
        """
        raise NotImplementedError

    def __call__(self, frames: Tensor, sizes: Tensor, size: int, generator: Generator | None = None) -> Tensor:
        """A random crop of every clip, mirrored or not, its colours changed, normalised."""
        boxes = self.draw_boxes(sizes, generator)
        flips = draw_flips(len(frames), self.flip_probability, generator)
        colour = self.colour.draw(len(frames), generator)
        return normalise(apply_colour(crop_resize(frames, boxes, size, flips), colour))


class JitteredCrop(RandomCrop):
    """The authors' released recipe: scale jitter an axis, random crop, flip, colour jitter.

    Args:
        crop_fraction: the crop's side as a part of the shorter side, in (0, jitter[0]].
        jitter: least and greatest scale factor of an axis.
        flip_probability: of a clip to be mirrored, in [0, 1].
        colour: ranges of the colour jitter.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        crop_fraction: float = 224 / 256,
        jitter: tuple[float, float] = (0.9, 1.33),
        flip_probability: float = 0.5,
        colour: ColourJitter = ColourJitter(),
    ) -> None:
        self.crop_fraction = crop_fraction
        self.jitter = jitter
        super().__init__(flip_probability, colour)

    def draw_boxes(self, sizes: Tensor, generator: Generator | None) -> Tensor:
        """A box a clip by `jittered_crop_boxes`."""
        return jittered_crop_boxes(sizes, crop_fraction=self.crop_fraction, jitter=self.jitter, generator=generator)


class RandomResizedCrop(RandomCrop):
    """Inception's recipe: a crop of random area and shape, flip, colour jitter.

    Args:
        scale: least and greatest area of the crop, as a part of the frame's, in (0, 1].
        ratio: least and greatest width / height of the crop.
        flip_probability: of a clip to be mirrored, in [0, 1].
        colour: ranges of the colour jitter.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.33, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: float = 0.5,
        colour: ColourJitter = ColourJitter(),
    ) -> None:
        self.scale = scale
        self.ratio = ratio
        super().__init__(flip_probability, colour)

    def draw_boxes(self, sizes: Tensor, generator: Generator | None) -> Tensor:
        """A box a clip by `random_crop_boxes`."""
        return random_crop_boxes(sizes, scale=self.scale, ratio=self.ratio, generator=generator)


# ---------------------------------------------------------------------------------------------------------------------
# SpecAugment
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpecMasks:
    """Drawn SpecAugment masks; `apply_spec_masks` applies them.

    Args:
        time: (B, masks, 2) long (first time step, number of steps).
        freq: (B, masks, 2) long (first mel bin, number of bins).
    """

    time: Tensor
    freq: Tensor


def draw_spec_masks(
    batch: int,
    time: int,
    mel: int,
    *,
    num_time_masks: int,
    max_time: int,
    num_freq_masks: int,
    max_freq: int,
    generator: Generator | None = None,
) -> SpecMasks:
    """SpecAugment masks for a batch of spectrograms, each clip its own, on the CPU.

    A mask's width is uniform over 0 to the maximum (or the axis, if that is shorter), both included; its place is
    uniform over all places where it fits. Masks of a clip may overlap.

    Args:
        batch: number of clips, B.
        time: time steps of the spectrogram.
        mel: its mel bins.
        num_time_masks: masks over time a clip, 0 or more.
        max_time: widest of them, in time steps.
        num_freq_masks: masks over frequency a clip, 0 or more.
        max_freq: widest of them, in mel bins.
        generator: source of the draws; None: torch's global one.

    Raises:
        UserError: a negative number.
    """
    _check_counts(num_time_masks=num_time_masks, max_time=max_time, num_freq_masks=num_freq_masks, max_freq=max_freq)
    return SpecMasks(
        time=_draw_spans(batch, num_time_masks, max_time, time, generator),
        freq=_draw_spans(batch, num_freq_masks, max_freq, mel, generator),
    )


def _draw_spans(batch: int, num_masks: int, widest: int, length: int, generator: Generator | None) -> Tensor:
    """(B, masks, 2) long: first index and width of spans inside an axis of `length`."""
    width = torch.randint(min(widest, length) + 1, (batch, num_masks), generator=generator)
    start = (torch.rand(batch, num_masks, generator=generator) * (length - width + 1)).long()
    return torch.stack([start, width], dim=2)


def apply_spec_masks(spectrogram: Tensor, masks: SpecMasks, value: float = 0.0) -> Tensor:
    """Blank out the masked time steps and mel bins, (B, 1, time, mel) -> the same.

    Args:
        spectrogram: (B, 1, time, mel) standardised log-mel.
        masks: the drawn masks of the B clips.
        value: put into the masked places; 0 is the mean of a standardised spectrogram.
    """
    steps = _covered(masks.time.to(spectrogram.device), spectrogram.shape[2])  # (B, time)
    bins = _covered(masks.freq.to(spectrogram.device), spectrogram.shape[3])  # (B, mel)
    return spectrogram.masked_fill(steps[:, None, :, None] | bins[:, None, None, :], value)


def _covered(spans: Tensor, length: int) -> Tensor:
    """Which places of an axis any of a clip's spans covers: (B, masks, 2) -> bool (B, length)."""
    place = torch.arange(length, device=spans.device)
    start, width = spans[..., :1], spans[..., 1:]
    return ((place >= start) & (place < start + width)).any(dim=1)


class SpecAugment:
    """SpecAugment: blanks random spans of time and of frequency of a standardised spectrogram.

    The defaults are the paper's (section 4.2, as AST): one time mask of at most 192 steps, one frequency mask of at
    most 48 bins. The authors' released configuration has 4 time masks of at most 48 steps and 1 frequency mask of at
    most 48 bins; its time warp of at most 1 step (10 ms) is left out here, as too small to matter.

    Calling it: `(spectrogram, generator=None)`, (B, 1, time, mel) -> the same.

    Args:
        num_time_masks: masks over time a clip; 0: none.
        max_time: widest of them, in time steps of 10 ms.
        num_freq_masks: masks over frequency a clip; 0: none.
        max_freq: widest of them, in mel bins.

    Raises:
        UserError: a negative number.
    """

    def __init__(
        self, num_time_masks: int = 1, max_time: int = 192, num_freq_masks: int = 1, max_freq: int = 48
    ) -> None:
        _check_counts(
            num_time_masks=num_time_masks, max_time=max_time, num_freq_masks=num_freq_masks, max_freq=max_freq
        )
        self.num_time_masks = num_time_masks
        self.max_time = max_time
        self.num_freq_masks = num_freq_masks
        self.max_freq = max_freq

    def __call__(self, spectrogram: Tensor, generator: Generator | None = None) -> Tensor:
        """Mask a batch of spectrograms, each clip by its own draw.

        Args:
            spectrogram: (B, 1, time, mel) standardised log-mel.
            generator: source of the draws; None: torch's global one.
        """
        batch, _, time, mel = spectrogram.shape
        masks = draw_spec_masks(
            batch,
            time,
            mel,
            num_time_masks=self.num_time_masks,
            max_time=self.max_time,
            num_freq_masks=self.num_freq_masks,
            max_freq=self.max_freq,
            generator=generator,
        )
        return apply_spec_masks(spectrogram, masks)
