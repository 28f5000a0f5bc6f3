"""The records that cross borders: a row of the manifest, a decoded clip, a batch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One row of a manifest: where a clip lies, what it shows.

    Args:
        clip_id: unique name of the clip.
        video: media file that holds the pictures, or None.
        audio: media file that holds the sound; often the same file as `video`; or None.
        start_seconds: begin of the labelled segment on the file's own time line.
        end_seconds: end of the segment; None: the end of the file.
        labels: class names.
    """

    clip_id: str
    video: str | None
    audio: str | None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A decoded window of a media file, pictures and sound on one time line.

    Time 0 is the first picture of the file (the first sound sample of a file without pictures). A stream that the
    file does not have, or that was not asked for, is None. Where the file ends before the window does, the last
    picture is held and the sound is zero; `num_real_frames` and `real_samples` say how much is not padding.

    Args:
        frames: uint8 (T, H, W, 3) RGB at the file's own size, upright; or None.
        frame_seconds: float64 (T,) presentation time of each picture in `frames`, in seconds; or None.
        num_real_frames: how many of the T wanted times lie inside the video stream, 0 to T.
        waveform: float32 (N,) mono at `sample_rate`, nominally in [-1, 1], never clipped; or None.
        real_samples: first and last + 1 index of the samples of `waveform` that the file really holds.
        sample_rate: samples of `waveform` a second.
    """

    frames: Tensor | None
    frame_seconds: Tensor | None
    num_real_frames: int
    waveform: Tensor | None
    real_samples: tuple[int, int]
    sample_rate: int
