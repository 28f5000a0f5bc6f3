"""The records that cross borders: a row of the manifest, how a window is cut, a decoded clip, a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

from torch import Tensor

UNNAMED = "class_"
"""What classes are called, with their number behind it, as long as nobody has named them."""


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
class WindowSetting:
    """How a window is cut out of a clip and at which size it travels.

    Args:
        seconds: length of the window of sound, and of pictures too unless `rgb_seconds` says otherwise.
        num_frames: pictures, uniform in time over their window.
        rgb_seconds: length of the window of pictures, if it differs.
        synchronous: whether pictures and sound are cut at the same proportion of the clip (the same second, if both
            windows are equally long) or each at its own.
        sample_rate: of the sound, in Hz.
        short_side: pictures larger than this on their shorter side are shrunk to it, in pixels.
        decoder: `auto`, `decord`, `torchcodec` or `pyav`.
        streams: which streams are read: `video`, `audio` or both. A clip that lacks one of them cannot be used.
        cache: whether clips that are not longer than the window, and so are always cut alike, are kept in memory.
    """

    seconds: float
    num_frames: int
    rgb_seconds: float | None
    synchronous: bool
    sample_rate: int
    short_side: int
    decoder: str
    streams: tuple[str, ...]
    cache: bool = False


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


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data that it is built for.

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
        reason: why, in a line.
    """

    clip_id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Draw:
    """What a sampler asks of the dataset: in which epoch, which clip, which of its views.

    In training `view` counts how often the epoch has drawn the clip before: each time it gives another window.
    """

    epoch: int
    index: int
    view: int = 0


@dataclass
class Batch:
    """Clips on their way to the model: what the workers send, and `inputs`, what is made of it on the device.

    Args:
        frames: uint8 (B, T, H, W, 3), padded at the bottom and right to the largest picture; or None.
        sizes: int64 (B, 2), height and width of each clip's pictures before that padding; or None.
        waveform: float32 (B, N) mono; or None.
        targets: float32 (B, num_classes), 1 for the classes of a clip.
        index: int64 (B,), each clip's place in its split.
        view: int64 (B,), which window of the clip this is.
        bad: the clips that could not be read: in training others stand in for them, in evaluation they are absent.
        inputs: {modality: (B, C, *grid)} float; empty until the transforms have run.
    """

    frames: Tensor | None
    sizes: Tensor | None
    waveform: Tensor | None
    targets: Tensor
    index: Tensor
    view: Tensor
    bad: tuple[BadClip, ...] = ()
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `function` applied to every tensor."""
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {name: function(x) if isinstance(x, Tensor) else x for name, x in changed.items()}
        return Batch(**{**changed, "inputs": {m: function(x) for m, x in self.inputs.items()}})

    def to(self, device, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self.map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (called by the DataLoader)."""
        return self.map(lambda x: x.pin_memory())
