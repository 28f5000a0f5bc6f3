"""The records that cross borders: a row of the manifest, a decoded clip, a batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

UNNAMED = "class_"
"""What classes without names are called, followed by their number."""


@dataclass(frozen=True)
class Example:
    """One row of a manifest: where a clip is and what it shows.

    Args:
        clip_id: unique name of the clip.
        video: media file with the frames, or None.
        audio: media file with the audio; often the same file as `video`; or None.
        start_seconds: start of the labelled segment on the file's own time line.
        end_seconds: end of the segment; None: the end of the file.
        labels: class names.
        extra: cells of the further columns that a modality reads; None where a cell is empty.
        root: folder that relative paths in `extra` start from.
    """

    clip_id: str
    video: str | None
    audio: str | None
    start_seconds: float = 0.0
    end_seconds: float | None = None
    labels: tuple[str, ...] = ()
    extra: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    root: str = field(default="", compare=False)

    def file(self, column: str) -> str | None:
        """The path that a further column names; None if it names none."""
        cell = self.extra.get(column)
        return os.path.join(self.root, cell) if cell else None


@dataclass(frozen=True)
class Clip:
    """A decoded window of a media file, frames and audio on one time line.

    Time 0 is the first frame of the file (the first audio sample of a file without frames). A stream that the file does
    not have, or that was not asked for, is None. Where the file ends before the window does, the last frame is repeated
    and the audio is zero; `num_real_frames` and `real_samples` give what is not padding.

    Args:
        frames: uint8 (T, H, W, 3) RGB at the file's own size, upright; or None.
        frame_seconds: float64 (T,) presentation time of each of the `frames`, in seconds; or None.
        num_real_frames: how many of the T wanted times lie inside the video stream, 0 to T.
        waveform: float32 (N,) mono at `sample_rate`, nominally in [-1, 1], never clipped; or None.
        real_samples: first and last + 1 index of the samples of `waveform` that are in the file.
        sample_rate: samples of `waveform` a second.
    """

    frames: Tensor | None
    frame_seconds: Tensor | None
    num_real_frames: int
    waveform: Tensor | None
    real_samples: tuple[int, int]
    sample_rate: int


@dataclass(frozen=True)
class DataSpec:
    """What a model must know about the data that it is built for.

    Args:
        inputs: shape of one example of each modality, (C, *grid), in the run's order of modalities.
        classes: class names in index order.
        groups: one group name a class (scores are also given for each group), or empty.
    """

    inputs: dict[str, tuple[int, ...]]
    classes: tuple[str, ...]
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class BadClip:
    """A clip that could not be read.

    Args:
        clip_id: its name in the manifest.
        path: the file that failed.
        reason: why, in one line.
    """

    clip_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Draw:
    """What a sampler asks the dataset for: the epoch, which clip, which of its views.

    In training `view` counts how often the clip was drawn before in this epoch: each time its window is another one.
    """

    epoch: int
    index: int
    view: int = 0


@dataclass
class Batch:
    """Clips on their way to the model: `content`, which the workers read, and `inputs`, made from it on the device.

    Args:
        targets: float32 (B, num_classes), 1 for the classes of a clip.
        index: int64 (B,), each clip's place in its split.
        view: int64 (B,), which window of the clip this is.
        bad: the clips that could not be read: in training others are read instead, in evaluation they are absent.
        inputs: {modality: (B, C, *grid)} float; empty until they are made.
        content: {stream: a tensor or a tuple of tensors, B first}, see `mbt_lightning.data.streams`; empty when the
            inputs are made.
    """

    targets: Tensor
    index: Tensor
    view: Tensor
    bad: tuple[BadClip, ...] = ()
    inputs: dict[str, Tensor] = field(default_factory=dict)
    content: dict[Hashable, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `function` applied to every tensor."""

        def changed(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: changed(x) for key, x in value.items()}
            if isinstance(value, tuple):
                return tuple(map(changed, value))
            return function(value) if isinstance(value, Tensor) else value

        return Batch(**{f.name: changed(getattr(self, f.name)) for f in fields(self)})

    def to(self, device, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self.map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (called by the DataLoader)."""
        return self.map(lambda x: x.pin_memory())
