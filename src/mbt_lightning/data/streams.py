"""What is read of a clip: a `Stream` reads a window of it, and modalities with equal streams share what was read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import default_collate

from mbt_lightning.data.media.frames import DECODERS, check_decoder
from mbt_lightning.data.records import Example
from mbt_lightning.data.store import Media
from mbt_lightning.errors import UserError


class Window(NamedTuple):
    """The part of a clip that a stream reads.

    Args:
        example: the clip's row of the manifest.
        media: the clip's media, opened; None if no stream of the run reads any and the row gives the segment's end.
        start_seconds: start of the window on the time line of the media file; `example.start_seconds` is that of the
            labelled segment.
        seconds: length of the window.
    """

    example: Example
    media: Media | None
    start_seconds: float
    seconds: float


class Stream:
    """What modalities are made from: derive it to read media of your own.

    Streams of the same class with equal attributes are equal. They are read once a clip, in a worker process.
    """

    kind = ""
    """The media of the clip that are read: `video`, `audio`, or "" for none of them."""

    columns: tuple[str, ...] = ()
    """Columns of the manifest, besides the standard ones, that `Example.extra` must hold."""

    window_seconds: float | None = None
    """Length of the window; None: that of the run."""

    draw = 0
    """Number of the random draw that places the window when `synchronous` is false; equal ones share their place."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def check(self) -> None:
        """Refuse, before training starts, what does not work on this machine."""

    def read(self, window: Window) -> Any:
        """Read a window of one clip: a tensor.

        Args:
            window: which clip, and which part of it.

        Raises:
            ClipError: it cannot be read; training then reads another clip instead.
        """
        raise NotImplementedError

    def collate(self, contents: list[Any]) -> Any:
        """Put what was read of several clips into a batch: a tensor, or a tuple of tensors.

        Args:
            contents: what `read` returned, one a clip.
        """
        return default_collate(contents)


@dataclass(frozen=True)
class VideoStream(Stream):
    """Frames at evenly spaced times: (uint8 (B, T, H, W, 3) padded at the bottom and right, (B, 2) heights and widths).

    After the end of the labelled segment the last frame is repeated.

    Args:
        num_frames: frames in the window, T.
        window_seconds: length of the window; None: that of the run.
        short_side: larger frames are shrunk to this shorter side before they leave the worker, in pixels.
        decoder: `auto`, `decord`, `torchcodec` or `pyav`.

    Raises:
        UserError: a value out of range.
    """

    kind = "video"

    num_frames: int = 8
    window_seconds: float | None = None
    short_side: int = 256
    decoder: str = "auto"

    def __post_init__(self) -> None:
        for name in ("num_frames", "short_side"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give 1 or more")
        check_length("window_seconds", self.window_seconds)
        if self.decoder not in DECODERS:
            raise UserError(f"decoder is {self.decoder!r}: choose one of {', '.join(DECODERS)}")

    def check(self) -> None:
        """Refuse a decoder that does not work on this machine."""
        check_decoder(self.decoder)

    def read(self, window: Window) -> Tensor:
        """Frames uint8 (T, H, W, 3)."""
        assert window.media is not None
        frames, seconds, _ = window.media.read_frames(
            window.start_seconds, window.seconds, self.num_frames, self.decoder
        )
        return shrink(repeat_after(window.example.end_seconds, frames, seconds), self.short_side)

    def collate(self, contents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Frames padded to the largest, and the sizes that they had."""
        sizes = torch.tensor([frames.shape[1:3] for frames in contents])
        height, width = sizes.amax(0).tolist()
        padded = [
            x if x.shape[1:3] == (height, width) else F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
            for x in contents
        ]
        return default_collate(padded), sizes


@dataclass(frozen=True)
class AudioStream(Stream):
    """The waveform, float32 mono (B, N); silence after the end of the labelled segment.

    Args:
        sample_rate: samples a second.
    """

    kind = "audio"
    draw = 1

    sample_rate: int = 16000

    def read(self, window: Window) -> Tensor:
        """The waveform, float32 (N,)."""
        assert window.media is not None
        waveform, _ = window.media.read_audio(window.start_seconds, window.seconds, self.sample_rate)
        return silence_after(window.example.end_seconds, waveform, window.start_seconds, self.sample_rate)


def check_length(name: str, seconds: float | None) -> None:
    """Refuse a length of a window that is not above 0."""
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(f"{name} is {seconds}: give a length above 0")


def repeat_after(end_seconds: float | None, frames: Tensor, seconds: Tensor) -> Tensor:
    """Frames (T, H, W, 3) shown at `seconds` (T,), with the last one before the end in the place of the later ones."""
    inside = len(frames) if end_seconds is None else max(1, int((seconds < end_seconds).sum()))
    if inside == len(frames):
        return frames
    return torch.cat([frames[:inside], frames[inside - 1 : inside].expand_as(frames[inside:])])


def silence_after(end_seconds: float | None, waveform: Tensor, start_seconds: float, sample_rate: int) -> Tensor:
    """A waveform (N,) that starts at `start_seconds`, silent from the end on."""
    if end_seconds is None:
        return waveform
    waveform = waveform.clone()
    waveform[max(0, round((end_seconds - start_seconds) * sample_rate)) :] = 0
    return waveform


def shrink(frames: Tensor, short_side: int) -> Tensor:
    """Shrink frames uint8 (T, H, W, 3) to a shorter side of at most `short_side`, before they leave the worker.

    Of frames longer than 2:1 the middle is taken.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    if max(height, width) > 2 * short:
        top, left = (height - min(height, 2 * short)) // 2, (width - min(width, 2 * short)) // 2
        frames = frames[:, top : top + 2 * short, left : left + 2 * short]
        height, width = frames.shape[1:3]
    if short <= short_side:
        return frames
    size = (round(height * short_side / short), round(width * short_side / short))
    channels_first = frames.permute(0, 3, 1, 2)  # a view; the kernel for uint8 likes the channels last in memory
    return F.interpolate(channels_first, size=size, mode="bilinear", antialias=True).permute(0, 2, 3, 1).contiguous()
