"""The modalities: what the model gets, made on the device from what a `Stream` has read.

A modality of your own derives from one of these, in a file of your own: `data.inputs` names it by its class path. One
made from frames or audio that are read already changes `make` (and `shape`):

    class FrameDifference(Rgb):
        def shape(self, window_seconds):
            channels, time, *grid = super().shape(window_seconds)
            return channels, time - 1, *grid

        def make(self, batch, generator):
            return super().make(batch, generator).diff(dim=2)

One with media of its own (features, optical flow, text) is a `ColumnModality`.
"""

from __future__ import annotations

from typing import Any
from zipfile import BadZipFile

from torch import Generator, Tensor

from mbt_lightning.data.augment import CentralCrop, RandomResizedCrop, RgbAugment, SpecAugment
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import Batch
from mbt_lightning.data.spectrogram import UNMEASURED, LogMel, MelTransform
from mbt_lightning.data.streams import AudioStream, Stream, VideoStream, Window
from mbt_lightning.errors import UserError, one_line


class Modality:
    """One input of the model: what it is made from, its shape, and how it is made.

    `model.patches` must give the size of its patches, a number for each dimension of the grid.
    """

    stream: Stream
    """What is read of each clip; modalities with equal streams share it."""

    def shape(self, window_seconds: float) -> tuple[int, ...]:
        """Shape of one example, (C, *grid).

        Args:
            window_seconds: length of the run's window.
        """
        raise NotImplementedError

    def make(self, batch: Batch, generator: Generator | None) -> Tensor:
        """The input of a batch, float (B, C, *grid).

        Args:
            batch: `batch.content[self.stream]` holds what the stream has read, on the device.
            generator: source of the draws that augment in training (on the CPU); None: evaluation, nothing is drawn.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Refuse, before training starts, what does not work on this machine or lacks a number."""
        self.stream.check()


class Rgb(Modality):
    """Frames, (3, time, height, width) in [-1, 1].

    Args:
        num_frames: frames, evenly spaced over the window.
        window_seconds: length of the window of frames; null: `data.window_seconds`.
        frame_size: side of the square that the model sees, in pixels.
        short_side: larger frames are shrunk to this shorter side before they leave the worker, in pixels.
        decoder: `auto` (decord for files it decodes correctly, else PyAV), `decord`, `torchcodec` (needs the extra of
            that name and the system's FFmpeg; PyAV for files it does not decode correctly) or `pyav`.
        augment: what training does to frames.
        crop: what evaluation does to frames.

    Raises:
        UserError: a value out of range.
    """

    def __init__(
        self,
        num_frames: int = 8,
        window_seconds: float | None = None,
        frame_size: int = 224,
        short_side: int = 256,
        decoder: str = "auto",
        augment: RgbAugment = RandomResizedCrop(),  # noqa: B008
        crop: RgbAugment = CentralCrop(),  # noqa: B008
    ):
        if frame_size < 1:
            raise UserError(f"frame_size is {frame_size}: give 1 or more")
        self.stream: VideoStream = VideoStream(num_frames, window_seconds, short_side, decoder)
        self.frame_size, self.augment, self.crop = frame_size, augment, crop

    def shape(self, window_seconds: float) -> tuple[int, ...]:
        """Channels, frames, height, width."""
        return (3, self.stream.num_frames, self.frame_size, self.frame_size)

    def make(self, batch: Batch, generator: Generator | None) -> Tensor:
        """Crop, resize and normalise; in training as `augment` does it, else as `crop`."""
        frames, sizes = batch.content[self.stream]
        transform = self.augment if generator else self.crop
        return transform(frames, sizes, self.frame_size, generator)


class Spectrogram(Modality):
    """Standardised log-mel spectrograms, (1, time, mel).

    Args:
        transform: waveform to log-mel: `LogMel`, `KaldiFbank`, or your own.
        augment: what training does to spectrograms; null: nothing.
    """

    def __init__(
        self,
        transform: MelTransform = LogMel(),  # noqa: B008
        augment: SpecAugment | None = SpecAugment(),  # noqa: B008
    ):
        self.stream = AudioStream(transform.sample_rate)
        self.transform, self.augment = transform, augment

    def shape(self, window_seconds: float) -> tuple[int, ...]:
        """One channel, time steps, mel bins."""
        return (1, self.transform.num_frames(window_seconds), self.transform.num_mels)

    def make(self, batch: Batch, generator: Generator | None) -> Tensor:
        """Transform and standardise; in training masked by `augment`."""
        waveform = batch.content[self.stream]
        x = self.transform.to(waveform.device)(waveform)
        return self.augment(x, generator) if generator and self.augment else x

    def check(self) -> None:
        """Refuse a transform whose mean or standard deviation is null."""
        super().check()
        if not self.transform.is_measured:
            raise UserError(UNMEASURED)


class ColumnModality(Modality, Stream):
    """A modality with media of its own: each clip's file (or text) is named in a column of the manifest.

    A subclass gives `shape`, and in `load` reads that shape for a window of a clip; it is its own stream. Clips whose
    cell is empty or whose file cannot be read count as unreadable, like broken video files.

    Args:
        column: of the manifest; relative paths in it start from `media_root`, as those of `video`.
    """

    def __init__(self, column: str):
        self.column = column
        self.columns = (column,)

    @property
    def stream(self) -> Stream:  # type: ignore[override]
        """Itself."""
        return self

    def load(self, path: str, window: Window) -> Any:
        """Read a window of one clip: a tensor, or what `collate` can put into a batch.

        Args:
            path: the clip's file; `window.example.extra[self.column]` is the cell of the manifest itself.
            window: where the window starts on the time line of the clip's video (or audio) file, and its length.

        Raises:
            ClipError, OSError, ValueError, KeyError: it cannot be read.
        """
        raise NotImplementedError

    def read(self, window: Window) -> Any:
        """What `load` returns; its errors count against the clip."""
        path = window.example.file(self.column)
        if path is None:
            raise ClipError(window.example.clip_id, f"column {self.column} of the manifest is empty for this clip")
        try:
            return self.load(path, window)
        except (ClipError, UserError):
            raise
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            reason = getattr(error, "strerror", None) or one_line(f"{type(error).__name__}: {error}")
            raise ClipError(path, f"cannot be read ({reason})") from error

    def make(self, batch: Batch, generator: Generator | None) -> Tensor:
        """What was read, as it is."""
        return batch.content[self.stream]

    def check(self) -> None:
        """Nothing is needed."""
