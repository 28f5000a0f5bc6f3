"""From a row of the manifest to a sample: choose a window, decode it, and what happens when that fails."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from mbt_lightning.data.decode import ClipError, probe, read_clip
from mbt_lightning.data.records import BadClip, Batch, Clip, Example
from mbt_lightning.data.sampling import chance, random_start, view_starts

MAX_STAND_INS = 10
"""So many other clips are tried in the place of one that cannot be read."""


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
        decoder: `auto`, `decord` or `pyav`.
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
class Draw:
    """What a sampler asks of the dataset: a clip, which of its views, in which epoch."""

    epoch: int
    index: int
    view: int = 0


@dataclass(frozen=True)
class Sample:
    """A decoded window with its target, or None in both streams if the clip could not be read."""

    frames: Tensor | None
    waveform: Tensor | None
    target: Tensor
    index: int
    view: int
    bad: tuple[BadClip, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing could be read."""
        return self.frames is None and self.waveform is None


class ClipDataset(Dataset):
    """The clips of one split; indexed by a `Draw`.

    The windows of training are drawn from seed, epoch and index only, whatever worker or rank reads the clip. A clip
    that cannot be read is named in the sample's `bad`; in training another one, drawn from the same numbers, stands in
    for it; in evaluation (and where no stand-in can be read either) the sample is empty.

    Args:
        examples: the split's rows.
        classes: class names in index order.
        setting: how windows are cut.
        num_views: evenly spaced windows a clip; 0: one random window (training).
        seed: of the random windows and of the choice of stand-ins.
    """

    def __init__(
        self, examples: Sequence[Example], classes: Sequence[str], setting: WindowSetting, num_views: int, seed: int = 0
    ):
        self.examples = examples
        self.class_index = {name: i for i, name in enumerate(classes)}
        self.setting = setting
        self.num_views = num_views
        self.seed = seed
        self.kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, draw: Draw) -> Sample:
        """Read the clip that is asked for, or in training the first readable stand-in."""
        bad: tuple[BadClip, ...] = ()
        for index in self.candidates(draw):
            try:
                return self.read(replace(draw, index=index), bad)
            except ClipError as error:
                bad += (BadClip(self.examples[index].clip_id, str(error.path), error.reason),)
        return Sample(None, None, self.target(draw.index), draw.index, draw.view, bad)

    def candidates(self, draw: Draw) -> Iterator[int]:
        """The clip itself, then, in training, its stand-ins: a function of seed, epoch and index."""
        yield draw.index
        if self.num_views == 0:
            numbers = chance("stand-in", self.seed, draw.epoch, draw.index)
            for _ in range(MAX_STAND_INS):
                yield numbers.randrange(len(self.examples))

    def read(self, draw: Draw, bad: tuple[BadClip, ...] = ()) -> Sample:
        """Cut and decode the window of one clip, or take it from memory."""
        if draw.index in self.kept:
            return replace(self.kept[draw.index], view=draw.view, bad=bad)
        example, setting = self.examples[draw.index], self.setting
        wants_video = "video" in setting.streams
        if wants_video and example.video is None:
            raise ClipError(example.audio or example.clip_id, "the manifest names no file with pictures for this clip")
        main = example.video if wants_video else example.audio
        if main is None:
            raise ClipError(example.video or example.clip_id, "the manifest names no file with sound for this clip")
        info = probe(main)
        end = min(info.duration_seconds, math.inf if example.end_seconds is None else example.end_seconds)
        duration = end - example.start_seconds
        starts = self.starts(draw, duration)
        clip = read_clip(
            main if wants_video else None,
            start_seconds=example.start_seconds + starts[0],
            window_seconds=setting.rgb_seconds or setting.seconds,
            num_frames=setting.num_frames,
            sample_rate=setting.sample_rate,
            decoder=setting.decoder,
            audio_path=example.audio if (example.audio != main or not wants_video) else None,
            audio_start_seconds=example.start_seconds + starts[1],
            audio_window_seconds=setting.seconds,
            streams=setting.streams,
            info=info,
        )
        for stream, content in {"video": clip.frames, "audio": clip.waveform}.items():
            if stream in setting.streams and content is None:
                raise ClipError(main, f"no {stream} stream, which this run's modalities need")
        clip = end_at(clip, example.end_seconds, example.start_seconds + starts[1])
        frames = None if clip.frames is None else shrink(clip.frames, setting.short_side)
        sample = Sample(frames, clip.waveform, self.target(draw.index), draw.index, draw.view, bad)
        if setting.cache and duration <= min(setting.seconds, setting.rgb_seconds or setting.seconds):
            self.kept[draw.index] = replace(sample, bad=())
        return sample

    def starts(self, draw: Draw, duration: float) -> tuple[float, float]:
        """Where the windows of pictures and of sound start, in seconds from the begin of the segment."""
        lengths = (self.setting.rgb_seconds or self.setting.seconds, self.setting.seconds)
        if self.num_views:
            rgb, audio = (view_starts(duration, length, self.num_views)[draw.view] for length in lengths)
            return rgb, audio
        numbers = chance("window", self.seed, draw.epoch, draw.index)
        first, second = numbers.random(), numbers.random()
        rgb, audio = lengths
        return random_start(duration, rgb, first), random_start(
            duration, audio, first if self.setting.synchronous else second
        )

    def target(self, index: int) -> Tensor:
        """The clip's classes as float32 (num_classes,) of zeros and ones."""
        target = torch.zeros(len(self.class_index))
        for label in self.examples[index].labels:
            target[self.class_index[label]] = 1
        return target


def end_at(clip: Clip, end_seconds: float | None, audio_start_seconds: float) -> Clip:
    """Treat what lies behind the end of the labelled segment as if the file ended there: hold the picture, no sound."""
    if end_seconds is None:
        return clip
    frames, waveform = clip.frames, clip.waveform
    if frames is not None:
        assert clip.frame_seconds is not None
        inside = max(1, int((clip.frame_seconds < end_seconds).sum()))
        frames = torch.cat([frames[:inside], frames[inside - 1 : inside].expand(len(frames) - inside, -1, -1, -1)])
    if waveform is not None:
        waveform = waveform.clone()
        waveform[max(0, round((end_seconds - audio_start_seconds) * clip.sample_rate)) :] = 0
    return replace(clip, frames=frames, waveform=waveform)


def shrink(frames: Tensor, short_side: int) -> Tensor:
    """Shrink pictures uint8 (T, H, W, 3) to a shorter side of at most `short_side`, before they travel.

    Of pictures longer than 2:1 the middle is taken.
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


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples into a batch, leaving out the empty ones; pictures are padded to the largest."""
    bad = tuple(clip for sample in samples for clip in sample.bad)
    full = [s for s in samples if not s.is_empty]
    frames = [s.frames for s in full if s.frames is not None]
    waveforms = [s.waveform for s in full if s.waveform is not None]
    sizes = None
    if frames:
        sizes = torch.tensor([f.shape[1:3] for f in frames])
        height, width = sizes.amax(0).tolist()
        frames = [
            f if f.shape[1:3] == (height, width) else F.pad(f, (0, 0, 0, width - f.shape[2], 0, height - f.shape[1]))
            for f in frames
        ]
    return Batch(
        frames=torch.stack(frames) if frames else None,
        sizes=sizes,
        waveform=torch.stack(waveforms) if waveforms else None,
        targets=torch.stack([s.target for s in full]) if full else torch.zeros(0, len(samples[0].target)),
        index=torch.tensor([s.index for s in full], dtype=torch.long),
        view=torch.tensor([s.view for s in full], dtype=torch.long),
        bad=bad,
    )


class DrawSampler(DistributedSampler):
    """Gives every rank its part of a split, as `Draw`s.

    A DistributedSampler, so that Lightning leaves it alone and sets its epoch; it fills the last round up with
    repeated clips, which the scores count once.

    Args:
        dataset: what is drawn from.
        num_replicas: number of ranks.
        rank: this rank.
        shuffle: a new order each epoch, from the seed.
        seed: of the order; the same on every rank.
    """

    def __init__(self, dataset: ClipDataset, num_replicas: int, rank: int, shuffle: bool, seed: int):
        self.views = max(1, dataset.num_views)
        # DistributedSampler adds the epoch to the seed: consecutive seeds would share their orders.
        order = chance("order", seed).getrandbits(62)
        draws = cast(Dataset, range(len(dataset) * self.views))  # only its length is asked for
        super().__init__(draws, num_replicas, rank, shuffle=shuffle, seed=order)

    def __iter__(self) -> Iterator[Draw]:
        """The draws of the epoch that was set last."""
        return (Draw(self.epoch, i // self.views, i % self.views) for i in super().__iter__())
