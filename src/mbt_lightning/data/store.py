"""Where the windows of a manifest's clips come from: media files, or what `mbt shard` has made of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from mbt_lightning.data.manifest.manifest import Manifest
from mbt_lightning.data.media.decode import read_clip
from mbt_lightning.data.media.probe import ClipError, MediaInfo, probe_once
from mbt_lightning.data.media.shard_records import JpegShards
from mbt_lightning.data.records import Clip, Example, WindowSetting
from mbt_lightning.errors import UserError


class Media(Protocol):
    """The media of one clip, opened: whole, not only the labelled segment."""

    path: str
    """What messages call it."""

    seconds: float
    """Its length: where the longer of its streams ends."""

    def pictures(self) -> tuple[int, int, float] | None:
        """Width and height of its pictures as they are stored, and how many there are a second; None: it has none."""

    def read(self, start_seconds: float, audio_start_seconds: float, setting: WindowSetting) -> Clip:
        """Decode the windows of the streams of `setting`; a stream that is not there is None.

        Args:
            start_seconds: start of the window of pictures on the media's time line.
            audio_start_seconds: start of the window of sound on the same time line.
            setting: lengths of the windows, number of pictures, sample rate; its `short_side` is not looked at.

        Raises:
            ClipError: the media cannot be read.
        """


class Store(Protocol):
    """Where clips are read from. It travels to the workers of a DataLoader: it holds no open file."""

    def open(self, example: Example, streams: Sequence[str]) -> Media:
        """Open the media of a row.

        Args:
            example: the row.
            streams: which of `video` and `audio` will be read.

        Raises:
            ClipError: there is no such media, or it cannot be read.
        """


class Files:
    """A media file for each clip, and perhaps another one for its sound."""

    def open(self, example: Example, streams: Sequence[str]) -> MediaFile:
        """Probe the file with the pictures, or with the sound where no pictures are wanted."""
        main = example.video if "video" in streams else example.audio
        if main is None:
            content = "pictures" if "video" in streams else "sound"
            other = example.video or example.audio or example.clip_id
            raise ClipError(other, f"the manifest names no file with {content} for this clip")
        return MediaFile(probe_once(main), example.audio)


class MediaFile:
    """A probed media file.

    Args:
        info: what `probe` found in it.
        audio: the file with the sound; None: the same.
    """

    def __init__(self, info: MediaInfo, audio: str | None = None):
        self.info, self.audio = info, audio
        self.path, self.seconds = info.path, info.duration_seconds

    def pictures(self) -> tuple[int, int, float] | None:
        """What its packets tell of its pictures."""
        video = self.info.video
        if video is None or video.problem or not video.end_seconds:
            return None
        return video.width, video.height, len(video.seconds) / video.end_seconds

    def read(self, start_seconds: float, audio_start_seconds: float, setting: WindowSetting) -> Clip:
        """Decode a window of each stream."""
        return read_clip(
            self.path,
            start_seconds=start_seconds,
            window_seconds=setting.rgb_seconds or setting.seconds,
            num_frames=setting.num_frames,
            sample_rate=setting.sample_rate,
            decoder=setting.decoder,
            audio_path=self.audio,
            audio_start_seconds=audio_start_seconds,
            audio_window_seconds=setting.seconds,
            streams=setting.streams,
            info=self.info,
        )


def readable_seconds(media: Media, example: Example) -> float:
    """Length of a clip's labelled segment, as far as its media go; 0 or less: they end before it starts."""
    return min(media.seconds, math.inf if example.end_seconds is None else example.end_seconds) - example.start_seconds


def read_sound(media: Media, start_seconds: float, seconds: float, sample_rate: int) -> tuple[Tensor, tuple[int, int]]:
    """The sound of a stretch of media, and nothing else of it.

    Args:
        media: the media.
        start_seconds: where the stretch begins on their time line.
        seconds: its length.
        sample_rate: of the result, in Hz.

    Returns:
        The waveform, float32 (N,), and its first and last + 1 sample that the media really hold.

    Raises:
        ClipError: they have no sound, or cannot be read.
    """
    setting = WindowSetting(seconds, 1, None, True, sample_rate, 1, "auto", ("audio",))
    clip = media.read(start_seconds, start_seconds, setting)
    if clip.waveform is None:
        raise ClipError(media.path, "no audio stream")
    return clip.waveform, clip.real_samples


STORES: dict[str, Callable[[], Store]] = {"files": Files, "jpeg-shards": JpegShards}
"""The kinds of stores, as `store` in a manifest's metadata names them."""


def store_of(manifest: Manifest) -> Store:
    """The store that a manifest's clips lie in, as its metadata say; media files if they say nothing."""
    kind = manifest.metadata.get("store", "files")
    if kind not in STORES:
        raise UserError(
            f"{os.fspath(manifest.path)}: its clips lie in a store {kind!r}, which this version does not know; "
            f"it knows {', '.join(STORES)}"
        )
    return STORES[kind]()
