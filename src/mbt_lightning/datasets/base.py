"""What all data sets share: the checks before reading, and the collection of clips."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.clips import OfficialClip, Parsed, Refused
from mbt_lightning.datasets.rows import (
    SPLITS,
    AnyClasses,
    BadRow,
    ClassList,
    check_line,
    numbered_lines,
    read_names,
    show,
    split_in_name,
)
from mbt_lightning.errors import UserError

KINDS = {
    "#segmentscsvcreated": "an AudioSet segment list",
    "#num_ytids": "an AudioSet segment list",
    "#ytid,start_seconds": "an AudioSet segment list",
    "segment_id\tstart_time_seconds": "a list of AudioSet's strong labels",
    "index,mid,display_name": "AudioSet's class list (it belongs to --labels)",
    "narration_id,": "an EPIC-KITCHENS list",
    "id,key,instances,category": "an EPIC-KITCHENS class list (it belongs to --labels)",
    "video_id,duration,fps": "EPIC-KITCHENS's list of videos",
    "label,youtube_id,": "a Kinetics list",
    "youtube_id,time_start": "a Kinetics list",
    "category&videoid&": "an AVE list",
    "stimulus_number,filename": "CREMA-D's list of file names",
    "actorid,age,sex": "CREMA-D's list of actors",
}
"""First characters of official files with a header, in lower case, without spaces and quotes."""

EVALUATES = {"test": 2, "val": 1, "train": -1}
"""A clip that is listed in two splits stays in the one with the larger number; other names count as 0."""


@dataclass(frozen=True)
class Sources:
    """The files and options that the user gives; `split` is that of files whose names and columns give none."""

    annotations: Sequence[Path]
    labels: Sequence[Path]
    split: str | None
    variant: str | None
    media: Path | None

    def split_of(self, path: Path, **words: str) -> str:
        """The split in a file's name, by the data set's own `words` and the usual ones; else the given one."""
        split = split_in_name(path, SPLITS | words) or self.split
        if split is None:
            raise UserError(f"{path}: no split in the file's name or in a column; add --split train|val|test")
        return split

    def known_classes(self) -> ClassList | AnyClasses:
        """The classes of the given list; any, if none is given."""
        return read_names(self.labels[0]) if self.labels else AnyClasses()


class DataSet(ABC):
    """A data set, defined by the format of its official files.

    Attributes:
        name: as on the command line.
        help: one line for the command line.
        kinds: the kinds in `KINDS` that are annotations of it.
        num_classes: official number of classes; None: any.
        official: official number of clips per split.
        variants: names of its variants.
        max_labels: how many class lists it can have.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()
    num_classes: ClassVar[int | None] = None
    official: ClassVar[dict[str, int]] = {}
    variants: ClassVar[tuple[str, ...]] = ()
    max_labels: ClassVar[int] = 1

    def parse(
        self,
        annotations: Sequence[Path],
        labels: Sequence[Path] = (),
        split: str | None = None,
        variant: str | None = None,
        media: Path | None = None,
    ) -> Parsed:
        """Read the official files.

        Args:
            annotations: annotation files.
            labels: class lists.
            split: the split of files whose names and columns do not give one.
            variant: one of `variants`.
            media: the media folder; only `folder` looks into it.

        Raises:
            UserError: a missing file, a file of another kind, or a split or variant that is unknown.
        """
        annotations, labels = [Path(path) for path in annotations], [Path(path) for path in labels]
        self.check_files(annotations)
        if len(labels) > self.max_labels:
            raise UserError(f"{self.name}: {len(labels)} class lists after --labels; give at most {self.max_labels}")
        if split is not None:
            split = SPLITS.get(split.strip().lower(), split.strip())
            if not split or not split.isprintable():
                raise UserError(f"--split is {show(split)}; give train, val, test or another name")
        variant = self.check_variant(variant)
        with no_collector():
            parsed = self.read(Sources(annotations, labels, split, variant, media))
        if split is not None and parsed.clips and all(clip.split != split for clip in parsed.clips):
            found = ", ".join(f"{k} ({v})" for k, v in Counter(clip.split for clip in parsed.clips).items())
            raise UserError(f"--split {split}: the files already give the split: {found}; leave out --split")
        parsed.variant = variant
        return parsed

    @abstractmethod
    def read(self, sources: Sources) -> Parsed:
        pass

    def check_files(self, annotations: Sequence[Path]) -> None:
        if not annotations:
            raise UserError(f"{self.name}: no annotation files; add --annotations FILE ...")
        for path in annotations:
            if annotations.count(path) > 1:
                raise UserError(f"{path}: is given twice")
            self.check_kind(path)

    def check_kind(self, path: Path) -> None:
        """Refuse a file of another data set, by its header."""
        kind = kind_of(path)
        if kind and kind not in self.kinds:
            raise UserError(f"{path}: this is {kind}, not a list of {self.name}'s clips")

    def check_variant(self, variant: str | None) -> str | None:
        if variant is not None and variant not in self.variants:
            known = f"its variants are: {', '.join(self.variants)}" if self.variants else "it has no variants"
            raise UserError(f"{self.name}: no variant {show(variant)}; {known}")
        return variant


@contextmanager
def no_collector() -> Iterator[None]:
    """Pause garbage collection: among millions of records it finds no cycles and takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def kind_of(path: Path) -> str | None:
    """The kind of a file by its first line; None if official files of its kind have no header."""
    for _, line in numbered_lines(path):
        start = line.lower().replace(" ", "").replace('"', "")
        return next((kind for words, kind in KINDS.items() if start.startswith(words)), None)
    raise UserError(f"{path}: the file is empty")


class ClipCollector:
    """Collects clips as they are read: repeats are dropped, contradictory rows refused, and both reported."""

    def __init__(self) -> None:
        self.clips: dict[str, OfficialClip] = {}
        self.refused: list[Refused] = []
        self.duplicates = 0
        self.leaks: list[str] = []
        self.notes: list[str] = []
        self._contradictory: set[str] = set()

    def read(self, path: Path, to_clip: Callable[[str, str], OfficialClip | None], skip: int = 0) -> None:
        """Read a file by a function from line and file:line to a clip, or None for a comment; it raises BadRow."""
        rows = bad = 0
        for where, line in islice(numbered_lines(path), skip, None):
            try:
                if not line.isprintable():
                    check_line(line)
                clip = to_clip(line, where)
            except BadRow as error:
                bad += 1
                self.refused.append(Refused(where, str(error)))
                continue
            if clip is not None:
                rows += 1
                self.add(clip)
        if not rows and not bad:
            raise UserError(f"{path}: contains no clips")
        if not rows and bad >= 10:
            first = self.refused[-bad]
            raise UserError(f"{path}: none of its {bad} rows can be read; the first, {first.where}: {first.reason}")

    def add(self, clip: OfficialClip) -> None:
        known = self.clips.setdefault(clip.clip_id, clip)
        if known is clip:
            return
        differing = differences(known, clip)
        if not differing:
            self.duplicates += 1
            return
        if clip.clip_id not in self._contradictory and not differences(known, clip._replace(split=known.split)):
            self.leak(known, clip)
            return
        here, there = (" and ".join(side) for side in zip(*differing, strict=True))
        name = show(clip.clip_id)
        if clip.clip_id not in self._contradictory:
            self._contradictory.add(clip.clip_id)
            reason = f"clip {name} has {there} here, but {here} at {clip.annotation}"
            self.refused.append(Refused(known.annotation, reason))
        reason = f"clip {name} has {here} here, but {there} at {known.annotation}"
        self.refused.append(Refused(clip.annotation, reason))

    def leak(self, *places: OfficialClip) -> None:
        """Keep a clip of two splits in the evaluated one: scores on trained clips are worthless."""
        kept, dropped = sorted(places, key=lambda clip: EVALUATES.get(clip.split, 0), reverse=True)
        self.clips[kept.clip_id] = kept
        reason = f"kept in {kept.split} ({kept.annotation}), dropped from {dropped.split} ({dropped.annotation})"
        self.leaks.append(f"clip {show(kept.clip_id)} is in two splits: {reason}")

    def done(
        self, classes: Sequence[str] | None = None, groups: Sequence[str] = (), official: int | None = None
    ) -> Parsed:
        """Everything that was read; without a list of `classes` they are the sorted labels that occur."""
        clips = [clip for clip in self.clips.values() if clip.clip_id not in self._contradictory]
        if classes is None:
            classes = sorted({label for clip in clips for label in clip.labels})
        if official is not None and len(classes) != official:
            self.notes.append(f"{len(classes)} classes; officially there are {official}")
        if unlabelled := sum(not clip.labels for clip in clips):
            self.notes.append(f"{unlabelled} clips have no labels; only prediction and multi-label tasks can use them")
        return Parsed(clips, tuple(classes), tuple(groups), self.refused, self.duplicates, self.leaks, self.notes)


def differences(known: OfficialClip, clip: OfficialClip) -> list[tuple[str, str]]:
    """How a clip (first) differs from an earlier one of the same id (second); the order of labels does not matter."""
    found = []
    if set(clip.labels) != set(known.labels):
        found.append((f"labels {show(', '.join(clip.labels))}", f"labels {show(', '.join(known.labels))}"))
    if clip[2:4] != known[2:4]:
        found.append((f"segment {span(clip)}", f"segment {span(known)}"))
    if clip.split != known.split:
        found.append((f"split {clip.split}", f"split {known.split}"))
    return found


def span(clip: OfficialClip) -> str:
    if clip.start_seconds is None and clip.end_seconds is None:
        return "whole"
    return f"{clip.start_seconds or 0:g}-{'end' if clip.end_seconds is None else f'{clip.end_seconds:g}'} s"
