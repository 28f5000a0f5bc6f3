"""From a row of the manifest to a sample: which clip, which window of it, and what happens when it cannot be read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mbt_lightning.data.manifest.manifest import Clips
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.records import BadClip, Batch, Draw, Example
from mbt_lightning.data.sampling import chance, random_start, view_starts
from mbt_lightning.data.store import Files, Media, Store, readable_seconds
from mbt_lightning.data.streams import Stream, Window

MAX_STAND_INS = 10
"""So many other clips are tried in place of one that cannot be read."""


@dataclass(frozen=True)
class WindowSetting:
    """What is read of a clip.

    Args:
        seconds: length of the window of streams that have none of their own.
        streams: what is read; a clip that lacks one of them cannot be used.
        synchronous: whether all streams are cut at the same proportion of the clip (the same second, if their windows
            are equally long) or each at its own.
        cache: whether clips that are not longer than the window, and so are always cut alike, are kept in memory.
    """

    seconds: float
    streams: tuple[Stream, ...]
    synchronous: bool = True
    cache: bool = False

    @property
    def lengths(self) -> dict[Stream, float]:
        """Length of the window of each stream."""
        return {stream: stream.window_seconds or self.seconds for stream in self.streams}


@dataclass(frozen=True)
class Sample:
    """What the streams have read of a clip, and its target; without content if the clip could not be read."""

    target: Tensor
    index: int
    view: int
    content: dict[Stream, Any] = field(default_factory=dict)
    bad: tuple[BadClip, ...] = ()


class ClipDataset(Dataset):
    """The clips of one split; indexed by a `Draw`.

    The windows of training are drawn from seed and `Draw` only, whatever worker or rank reads the clip. A clip
    that cannot be read is named in the sample's `bad`; in training another one, drawn from the same numbers, is read
    instead; in evaluation (and where no other can be read either) the sample is empty.

    Args:
        examples: the split's rows.
        classes: class names in index order.
        setting: what is read of a clip.
        num_views: evenly spaced windows a clip; 0: one random window (training).
        seed: of the random windows and of the choice of clips that are read instead.
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
        """Read the clip that is asked for, or in training the first readable one instead."""
        bad: tuple[BadClip, ...] = ()
        for index in self.candidates(draw):
            try:
                return self.read(replace(draw, index=index), bad)
            except ClipError as error:
                bad += (BadClip(self.examples[index].clip_id, str(error.path), error.reason),)
        return Sample(self.target(draw.index), draw.index, draw.view, bad=bad)

    def chance(self, what: str, draw: Draw) -> random.Random:
        """The random numbers of a draw in training, for one of the things that they decide."""
        again = (draw.view,) if draw.view else ()
        return chance(what, self.seed, draw.epoch, draw.index, *again)

    def candidates(self, draw: Draw) -> Iterator[int]:
        """The clip itself, then, in training, those that are read instead: a function of seed and draw."""
        yield draw.index
        if self.num_views == 0:
            numbers = self.chance("stand-in", draw)
            for _ in range(MAX_STAND_INS):
                yield numbers.randrange(len(self.examples))

    def read(self, draw: Draw, bad: tuple[BadClip, ...] = ()) -> Sample:
        """Cut and decode the windows of one clip, or take them from memory."""
        if draw.index in self.kept:
            return replace(self.kept[draw.index], view=draw.view, bad=bad)
        example, lengths = self.examples[draw.index], self.setting.lengths
        media = self.open(example)
        duration = readable_seconds(media, example)
        content = {
            stream: stream.read(Window(example, media, example.start_seconds + start, lengths[stream]))
            for stream, start in self.starts(draw, duration).items()
        }
        sample = Sample(self.target(draw.index), draw.index, draw.view, content, bad)
        if self.setting.cache and duration <= min(lengths.values()):
            self.kept[draw.index] = replace(sample, bad=())
        return sample

    def open(self, example: Example) -> Media | None:
        """The media that the streams read; if they read none, those that give the segment's end, if the row does not.

        Raises:
            ClipError: there are no such media, or they cannot be read.
        """
        kinds = [stream.kind for stream in self.setting.streams if stream.kind]
        if not kinds and example.end_seconds is None:
            kinds = ["video" if example.video else "audio"]
        return self.store.open(example, kinds) if kinds else None

    def starts(self, draw: Draw, duration: float) -> dict[Stream, float]:
        """Where the window of each stream starts, in seconds from the start of the segment."""
        lengths = self.setting.lengths
        if self.num_views:
            return {s: view_starts(duration, seconds, self.num_views)[draw.view] for s, seconds in lengths.items()}
        source = self.chance("window", draw)
        numbers = [source.random() for _ in range(1 + max(stream.draw for stream in lengths))]
        return {
            stream: random_start(duration, seconds, numbers[0 if self.setting.synchronous else stream.draw])
            for stream, seconds in lengths.items()
        }

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


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples into a batch, leaving out the empty ones."""
    full = [s for s in samples if s.content]
    streams = full[0].content if full else ()
    return Batch(
        targets=torch.stack([s.target for s in full]) if full else torch.zeros(0, len(samples[0].target)),
        index=torch.tensor([s.index for s in full], dtype=torch.long),
        view=torch.tensor([s.view for s in full], dtype=torch.long),
        bad=tuple(clip for sample in samples for clip in sample.bad),
        content={stream: stream.collate([s.content[stream] for s in full]) for stream in streams},
    )
