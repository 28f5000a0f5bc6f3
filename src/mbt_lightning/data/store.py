"""Where the windows of a manifest's clips are read from: media files, or what `mbt shard` made of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from mbt_lightning.data.manifest.manifest import Manifest
from mbt_lightning.data.media.decode import read_audio, read_video
from mbt_lightning.data.media.probe import ClipError, MediaInfo, probe_once
from mbt_lightning.data.media.shard_records import JpegShards
from mbt_lightning.data.records import Example
from mbt_lightning.errors import UserError


class Media(Protocol):
    """The media of one clip, opened: whole, not only the labelled segment."""

    path: str
    """Its name in messages."""

    seconds: float
    """Its length: where the longer of its streams ends."""

    def frame_format(self) -> tuple[int, int, float] | None:
        """Width and height of its frames as they are stored, and the frames a second; None: it has none."""

    def read_frames(
        self, start_seconds: float, seconds: float, num_frames: int, decoder: str = "auto"
    ) -> tuple[Tensor, Tensor, int]:
        """Decode frames at evenly spaced times of a window.

        Args:
            start_seconds: start of the window on the media's time line.
            seconds: its length.
            num_frames: how many frames, T.
            decoder: who decodes them, see `read_clip`.

        Returns:
            The frames, uint8 (T, H, W, 3); when each is first shown, float64 (T,) in seconds; how many of the times lie
            inside the video stream.

        Raises:
            ClipError: there is no video stream, or it cannot be read.
        """

    def read_audio(self, start_seconds: float, seconds: float, sample_rate: int) -> tuple[Tensor, tuple[int, int]]:
        """Decode a window of audio.

        Args:
            start_seconds: start of the window on the media's time line.
            seconds: its length.
            sample_rate: of the result, in Hz.

        Returns:
            The waveform, float32 (N,), and the first and last + 1 sample that are in the media.

        Raises:
            ClipError: there is no audio stream, or it cannot be read.
        """


class Store(Protocol):
    """Where clips are read from. It is sent to the workers of a DataLoader, so it holds no open file."""

    def open(self, example: Example, kinds: Sequence[str]) -> Media:
        """Open the media of a row.

        Args:
            example: the row.
            kinds: which of `video` and `audio` will be read.

        Raises:
            ClipError: there are no such media, or they cannot be read.
        """


class Files:
    """A media file for each clip, and perhaps another one for its audio."""

    def open(self, example: Example, kinds: Sequence[str]) -> MediaFile:
        """Probe the file with the frames, or the one with the audio if no frames are wanted."""
        kind = "video" if "video" in kinds else "audio"
        main = example.video if kind == "video" else example.audio
        if main is None:
            other = example.video or example.audio or example.clip_id
            raise ClipError(other, f"the manifest names no {kind} file for this clip")
        return MediaFile(probe_once(main), example.audio)


class MediaFile:
    """A probed media file.

    Args:
        info: what `probe` found in it.
        audio: the file with the audio; None: the same.
    """

    def __init__(self, info: MediaInfo, audio: str | None = None):
        self.info, self.audio = info, audio
        self.path, self.seconds = info.path, info.duration_seconds

    def frame_format(self) -> tuple[int, int, float] | None:
        """Size and rate of its frames, as its packets give them."""
        video = self.info.video
        if video is None or video.problem or not video.end_seconds:
            return None
        return video.width, video.height, len(video.seconds) / video.end_seconds

    def read_frames(
        self, start_seconds: float, seconds: float, num_frames: int, decoder: str = "auto"
    ) -> tuple[Tensor, Tensor, int]:
        """Decode frames."""
        return read_video(self.info, start_seconds, seconds, num_frames, decoder)

    def read_audio(self, start_seconds: float, seconds: float, sample_rate: int) -> tuple[Tensor, tuple[int, int]]:
        """Decode audio, of the other file if there is one."""
        info = self.info if self.audio in (None, self.path) else probe_once(str(self.audio))
        return read_audio(info, start_seconds, seconds, sample_rate)


def readable_seconds(media: Media | None, example: Example) -> float:
    """Length of a clip's labelled segment, as far as its media go; 0 or less: they end before it starts."""
    ends = [media.seconds] if media else []
    ends += [] if example.end_seconds is None else [example.end_seconds]
    return min(ends) - example.start_seconds


STORES: dict[str, Callable[[], Store]] = {"files": Files, "jpeg-shards": JpegShards}
"""The kinds of stores by their name in a manifest's metadata (`store`)."""


def store_of(manifest: Manifest) -> Store:
    """The store with a manifest's clips, which its metadata name; media files if they name none."""
    kind = manifest.metadata.get("store", "files")
    if kind not in STORES:
        raise UserError(
            f"{os.fspath(manifest.path)}: its clips are in a store {kind!r}, which this version cannot read; "
            f"it reads {', '.join(STORES)}"
        )
    return STORES[kind]()
