"""From a row of the manifest to a sample: which clip, which window of it, and what happens when it cannot be read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mbt_lightning.data.manifest.manifest import Clips
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import BadClip, Batch, Clip, Draw, Example, WindowSetting
from mbt_lightning.data.sampling import chance, random_start, view_starts
from mbt_lightning.data.store import Files, Store, readable_seconds

MAX_STAND_INS = 10
"""So many other clips are tried in the place of one that cannot be read."""


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

    The windows of training are drawn from seed and `Draw` only, whatever worker or rank reads the clip. A clip
    that cannot be read is named in the sample's `bad`; in training another one, drawn from the same numbers, stands in
    for it; in evaluation (and where no stand-in can be read either) the sample is empty.

    Args:
        examples: the split's rows.
        classes: class names in index order.
        setting: how windows are cut.
        num_views: evenly spaced windows a clip; 0: one random window (training).
        seed: of the random windows and of the choice of stand-ins.
        store: where the clips are read from.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        classes: Sequence[str],
        setting: WindowSetting,
        num_views: int,
        seed: int = 0,
        store: Store = Files(),  # noqa: B008
    ):
        self.examples = examples
        self.class_index = {name: i for i, name in enumerate(classes)}
        self.setting = setting
        self.num_views = num_views
        self.seed = seed
        self.store = store
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

    def chance(self, what: str, draw: Draw) -> random.Random:
        """The random numbers of a draw in training, for one of the things that they decide."""
        again = (draw.view,) if draw.view else ()
        return chance(what, self.seed, draw.epoch, draw.index, *again)

    def candidates(self, draw: Draw) -> Iterator[int]:
        """The clip itself, then, in training, its stand-ins: a function of seed and draw."""
        yield draw.index
        if self.num_views == 0:
            numbers = self.chance("stand-in", draw)
            for _ in range(MAX_STAND_INS):
                yield numbers.randrange(len(self.examples))

    def read(self, draw: Draw, bad: tuple[BadClip, ...] = ()) -> Sample:
        """Cut and decode the window of one clip, or take it from memory."""
        if draw.index in self.kept:
            return replace(self.kept[draw.index], view=draw.view, bad=bad)
        example, setting = self.examples[draw.index], self.setting
        media = self.store.open(example, setting.streams)
        duration = readable_seconds(media, example)
        rgb_start, audio_start = (example.start_seconds + start for start in self.starts(draw, duration))
        clip = media.read(rgb_start, audio_start, setting)
        for stream, content in {"video": clip.frames, "audio": clip.waveform}.items():
            if stream in setting.streams and content is None:
                raise ClipError(media.path, f"no {stream} stream, which this run's modalities need")
        clip = end_at(clip, example.end_seconds, audio_start)
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
        numbers = self.chance("window", draw)
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

    def labelled(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every label of every clip: the clip's place in the split, and the class's index, (L,) each."""
        if isinstance(self.examples, Clips):
            return self.examples.labelled()
        pairs = [(i, self.class_index[label]) for i, example in enumerate(self.examples) for label in example.labels]
        clips, classes = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return clips, classes


def end_at(clip: Clip, end_seconds: float | None, audio_start_seconds: float) -> Clip:
    """Treat what lies behind the end of the labelled segment as if the file ended there: hold the picture, no sound."""
    if end_seconds is None:
        return clip
    frames, waveform = clip.frames, clip.waveform
    if frames is not None:
        assert clip.frame_seconds is not None
        inside = max(1, int((clip.frame_seconds < end_seconds).sum()))
        frames = frames.clone() if inside < len(frames) else frames
        frames[inside:] = frames[inside - 1]
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
        frames=default_collate(frames) if frames else None,
        sizes=sizes,
        waveform=default_collate(waveforms) if waveforms else None,
        targets=torch.stack([s.target for s in full]) if full else torch.zeros(0, len(samples[0].target)),
        index=torch.tensor([s.index for s in full], dtype=torch.long),
        view=torch.tensor([s.view for s in full], dtype=torch.long),
        bad=bad,
    )
