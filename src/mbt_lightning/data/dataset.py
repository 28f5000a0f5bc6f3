"""From a row of the manifest to a sample: which clip, which window of it, and what happens when it cannot be read."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, get_worker_info

from mbt_lightning.data.manifest.manifest import Clips
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import BadClip, Batch, Clip, Example, WindowSetting
from mbt_lightning.data.sampling import chance, random_start, view_starts
from mbt_lightning.data.store import Files, Store, readable_seconds
from mbt_lightning.errors import UserError

MAX_STAND_INS = 10
"""So many other clips are tried in the place of one that cannot be read."""


@dataclass(frozen=True)
class Draw:
    """What a sampler asks of the dataset: in which epoch, which clip, which of its views.

    In training `view` counts how often the epoch has drawn the clip before: each time it gives another window.
    """

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
        frames=stack(frames) if frames else None,
        sizes=sizes,
        waveform=stack(waveforms) if waveforms else None,
        targets=torch.stack([s.target for s in full]) if full else torch.zeros(0, len(samples[0].target)),
        index=torch.tensor([s.index for s in full], dtype=torch.long),
        view=torch.tensor([s.view for s in full], dtype=torch.long),
        bad=bad,
    )


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.stack`; in a worker process at once into memory that the parent sees, as torch's own collation does."""
    if get_worker_info() is None:
        return torch.stack(list(tensors))
    shape = (len(tensors), *tensors[0].shape)
    storage = tensors[0]._typed_storage()._new_shared(math.prod(shape), device="cpu")
    return torch.stack(list(tensors), out=tensors[0].new(storage).resize_(shape))


# Samplers: objects that a configuration names by class path -----------------------------------------------------------


class ClipSampler:
    """Which clips an epoch reads, and in which order; a subclass says how.

    Calling it: `(dataset, seed, epoch)` -> the clips' places in the split and their views, int64 (N,) each, N being the
    number of clips times views. Every process calls it alike and takes its own part of the result, see `DrawSampler`.
    """

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw an epoch of all processes together.

        Args:
            dataset: what is drawn from.
            seed: of the run.
            epoch: its number.
        """
        raise NotImplementedError


class InOrder(ClipSampler):
    """Every view of every clip, one after the other; for validation and test."""

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same in each epoch; draws nothing."""
        views = max(1, dataset.num_views)
        return np.divmod(np.arange(len(dataset) * views), views)


class Shuffled(ClipSampler):
    """Every clip once an epoch, in random order."""

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A new order each epoch."""
        views = max(1, dataset.num_views)
        generator = torch.Generator().manual_seed(chance("order", seed).getrandbits(62) + epoch)
        return np.divmod(torch.randperm(len(dataset) * views, generator=generator).numpy(), views)


class ClassBalanced(ClipSampler):
    """As many clips an epoch as there are, drawn with replacement, so that every class is drawn about equally often.

    The custom of AST, PSLA and CAV-MAE on AudioSet and VGGSound: a class with n clips weighs 1000 / (n + 0.01), and a
    clip as much as its classes together. A clip without labels is never drawn.

    Raises:
        UserError: no clip has a label.
    """

    def __call__(self, dataset: ClipDataset, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A new draw each epoch; of a clip that is drawn several times the views count up."""
        clips, classes = dataset.labelled()
        if not len(clips):
            raise UserError("ClassBalanced draws clips by their labels, and no clip of the split has one: use Shuffled")
        weights = 1000 / (np.bincount(classes) + 0.01)
        ends = np.cumsum(np.bincount(clips, weights[classes], minlength=len(dataset)))
        numbers = np.random.default_rng(chance("balanced", seed, epoch).getrandbits(63)).random(len(dataset))
        drawn = np.searchsorted(ends, numbers * ends[-1], side="right")
        drawn = np.minimum(drawn, clips.max())  # what rounding has carried up to the very end
        return drawn, times_before(drawn)


def times_before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value (N,) stands before its own place: `[5, 2, 5, 5]` -> `[0, 0, 1, 2]`."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    first = np.searchsorted(ranked, ranked)
    result = np.empty_like(values)
    result[order] = np.arange(len(values)) - first
    return result


class DrawSampler(DistributedSampler):
    """Gives every rank its part of what a sampler draws, as `Draw`s.

    A DistributedSampler, so that Lightning leaves it alone and sets its epoch. All ranks draw the same and take every
    `num_replicas`-th; the last round is filled up from the start, and the scores count such repeated clips once.

    Args:
        dataset: what is drawn from.
        num_replicas: number of ranks.
        rank: this rank.
        sampler: which clips, in which order.
        seed: of the draws; the same on every rank.
        done: how many draws of the epoch this rank has read already: a training that goes on inside of an epoch.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        num_replicas: int,
        rank: int,
        sampler: ClipSampler,
        seed: int,
        done: Callable[[], int] = lambda: 0,
    ):
        draws = cast(Dataset, range(len(dataset) * max(1, dataset.num_views)))  # only its length is asked for
        super().__init__(draws, num_replicas, rank, shuffle=False)
        self.clips, self.sampler, self.seed, self.done = dataset, sampler, seed, done

    def __iter__(self) -> Iterator[Draw]:
        """The draws of the epoch that was set last, without those that are done."""
        mine = slice(self.rank, None, self.num_replicas)
        drawn = self.sampler(self.clips, self.seed, self.epoch)
        index, view = (np.resize(x, self.total_size)[mine][self.done() :] for x in drawn)
        return (Draw(self.epoch, int(i), int(v)) for i, v in zip(index, view, strict=True))


class LazyLoader(DataLoader):
    """A DataLoader that begins to read when the first batch is asked for.

    Lightning makes the iterator of a training before it knows the epoch and the place in it where a resumed run goes
    on; worker processes would have read from the first epoch's start by then.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """The batches that are left of the epoch."""
        yield from super().__iter__()
