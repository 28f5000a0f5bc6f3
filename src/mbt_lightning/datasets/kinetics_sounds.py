"""Kinetics-Sounds: those classes of Kinetics that can be both seen and heard.

Nobody published a list of clips; it is Kinetics' own rows of some classes. The 34 names in the appendix of "Look,
Listen and Learn" (1705.08168) are from before Kinetics' release: four were renamed, three (typing, fingerpicking,
patting) have no class in it. That leaves the variant `31`; `32` adds `strumming guitar`. Which 36 classes the MBT paper
took is not known. `file`, or the path of a list of names, takes the user's own.

Kinetics' validation rows are the test set here. GeWu-Lab's `my_train.txt` and `my_test.txt` are read too: rows
`<id>_<start>_<end>,10,<class>` and `<id>_<start>,10,<class>`, the class counted in the alphabet of the 31.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources, kind_of
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.kinetics400 import rows_of
from mbt_lightning.datasets.rows import (
    BadRow,
    ClassList,
    read_names,
    show,
    stamp,
    to_cells,
    to_integer,
    to_seconds,
    to_segment,
)
from mbt_lightning.errors import UserError

CLASSES_31 = (
    *("blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing"),
    *("mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet"),
    *("playing drums", "playing guitar", "playing harmonica", "playing keyboard", "playing organ", "playing piano"),
    *("playing saxophone", "playing trombone", "playing trumpet", "playing violin", "playing xylophone"),
    *("ripping paper", "shoveling snow", "shuffling cards", "singing", "stomping grapes", "tap dancing"),
    *("tapping guitar", "tapping pen", "tickling"),
)
VARIANTS = {"31": CLASSES_31, "32": tuple(sorted((*CLASSES_31, "strumming guitar")))}
GEWU_NAME = re.compile(r"([A-Za-z0-9_-]{11})_([0-9]+)(?:_([0-9]+))?")


class KineticsSounds(DataSet):
    """Kinetics' lists, or GeWu-Lab's, cut down to the classes of a variant."""

    name = "kinetics-sounds"
    help = "Kinetics-Sounds: Kinetics' lists; --variant 31 (default), 32, or the path of a list of classes"
    kinds = ("a Kinetics list",)
    # GeWu-Lab's lists of 31 classes.
    official: ClassVar = {"train": 14_799, "test": 2_597}
    variants = ("31", "32", "file")

    def check_variant(self, variant: str | None) -> str:
        """The variant's name, or the path of its list."""
        if variant is None or variant in self.variants or Path(variant).is_file():
            return variant or "31"
        raise UserError(
            f"{self.name}: no variant {show(variant)}; give 31, 32, or the path of a list of classes; "
            "`file` stands for the list after --labels"
        )

    def read(self, sources: Sources) -> Parsed:
        """Read the lists of some splits."""
        choice = Choice(*read_classes(sources))
        gathered = ClipCollector()
        for path in sources.annotations:
            if kind_of(path) is None:
                if choice.wanted.names != CLASSES_31:
                    raise UserError(f"{path}: this is a list of GeWu-Lab's, whose classes are those of --variant 31")
                gathered.read(path, partial(gewu_row, split=sources.split_of(path)))
            else:
                gathered.read(path, choice.rows_of(path), skip=1)
        parsed = gathered.done(choice.wanted.names)
        return replace(parsed, notes=parsed.notes + choice.notes(parsed))


class Choice:
    """Kinetics' rows that belong to Kinetics-Sounds.

    Args:
        wanted: the classes.
        kinetics: all of Kinetics' classes, if the user gave them.
    """

    def __init__(self, wanted: ClassList, kinetics: ClassList | None) -> None:
        self.wanted = wanted
        self.kinetics = kinetics
        self.spellings = {spelling(name) for name in wanted.names}
        self.others = 0
        self.test_rows = 0

    def rows_of(self, path: Path) -> Callable[[str, str], OfficialClip | None]:
        """How a Kinetics list's lines are read."""
        to_clip = rows_of(path, self.kinetics)
        return lambda line, where: self.take(to_clip(line, where))

    def take(self, clip: OfficialClip) -> OfficialClip | None:
        """A Kinetics clip as Kinetics-Sounds has it; None where it has it not."""
        if not clip.labels:
            raise BadRow("a list without labels says nothing about Kinetics-Sounds")
        (label,) = clip.labels
        if label not in self.wanted:
            if spelling(label) in self.spellings:
                self.wanted.check(label)
            self.others += 1
            return None
        if clip.split == "test":
            self.test_rows += 1
            return None
        return clip._replace(split="test") if clip.split == "val" else clip

    def notes(self, parsed: Parsed) -> list[str]:
        """What was left out, and what has no clips."""
        used = {label for clip in parsed.clips for label in clip.labels}
        bare = [name for name in self.wanted.names if name not in used]
        return [
            *([f"{self.others} rows of other Kinetics classes were left out"] if self.others else []),
            *([f"{self.test_rows} rows of Kinetics' test set were left out"] if self.test_rows else []),
            *([f"{len(bare)} classes have no clips: {', '.join(bare)}"] if bare else []),
        ]


def spelling(name: str) -> str:
    """A class name's letters alone."""
    return re.sub("[^a-z]+", "", name.lower())


def read_classes(sources: Sources) -> tuple[ClassList, ClassList | None]:
    """The variant's classes in the alphabet's order, and all of Kinetics' classes, if given."""
    given = read_names(sources.labels[0]) if sources.labels else None
    if sources.variant in VARIANTS:
        return ClassList(VARIANTS[sources.variant], f"variant {sources.variant}"), given
    if sources.variant == "file":
        if given is None:
            raise UserError("kinetics-sounds: variant file needs a list of classes; add --labels FILE")
        return ClassList(sorted(given.names), given.source), None
    path = Path(str(sources.variant))
    return ClassList(sorted(read_names(path).names), path), given


def gewu_row(line: str, where: str, split: str) -> OfficialClip:
    """A clip of GeWu-Lab's lists."""
    name, length, index = to_cells(line, 3)
    match = GEWU_NAME.fullmatch(name)
    if not match:
        raise BadRow(f"clip {show(name)} is not named <11 characters of id>_<start>, with or without _<end>")
    video, start_text, end_text = match.groups()
    start, end = to_segment(start_text, end_text or str(to_seconds(start_text) + to_seconds(length)))
    if end - start != to_seconds(length):
        raise BadRow(f"clip {show(name)} is {end - start:g} s long by its name, but {length} s by the second column")
    number = to_integer(index, "the class")
    if number >= len(CLASSES_31):
        raise BadRow(f"class {number} is not among the {len(CLASSES_31)}, which count from 0")
    clip_id = f"{video}_{stamp(start)}_{stamp(end)}"
    return OfficialClip(clip_id, video, start, end, (CLASSES_31[number],), split, where)
