"""Kinetics-Sounds: the classes of Kinetics that can be both seen and heard.

Nobody published a list of clips; the data set is Kinetics' own rows of some classes. The 34 names in the appendix of
"Look, Listen and Learn" (1705.08168) predate Kinetics' release: four were renamed, three (typing, fingerpicking,
patting) have no class in it. The result is variant `31`; `32` adds `strumming guitar`. It is not known which 36 classes
the MBT paper used. `file`, or the path of a list of names, selects other classes.

Kinetics' validation rows are the test set here. GeWu-Lab's `my_train.txt` and `my_test.txt` are also read: rows
`<id>_<start>_<end>,10,<class>` and `<id>_<start>,10,<class>`, where the class is an alphabetical index into the 31.
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
    AnyClasses,
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
    """Kinetics' lists, or GeWu-Lab's, reduced to the classes of a variant."""

    name = "kinetics-sounds"
    help = "Kinetics-Sounds: Kinetics' lists; --variant 31 (default), 32, or the path of a list of classes"
    kinds = ("a Kinetics list",)
    # GeWu-Lab's lists of 31 classes.
    official: ClassVar = {"train": 14_799, "test": 2_597}
    variants = ("31", "32", "file")

    def check_variant(self, variant: str | None) -> str:
        if variant is None or variant in self.variants or Path(variant).is_file():
            return variant or "31"
        raise UserError(
            f"{self.name}: no variant {show(variant)}; give 31, 32, the path of a list of classes, "
            "or `file` for the list after --labels"
        )

    def read(self, sources: Sources) -> Parsed:
        choice = Choice(*read_classes(sources))
        collector = ClipCollector()
        for path in sources.annotations:
            if kind_of(path) is None:
                if choice.classes.names != CLASSES_31:
                    raise UserError(f"{path}: this is a list of GeWu-Lab's; it needs --variant 31")
                collector.read(path, partial(gewu_row, split=sources.split_of(path)))
            else:
                collector.read(path, choice.rows_of(path), skip=1)
        parsed = collector.done(choice.classes.names)
        return replace(parsed, notes=parsed.notes + choice.notes(parsed))


class Choice:
    """The rows of Kinetics that belong to Kinetics-Sounds; `kinetics` are all of its classes, if given."""

    def __init__(self, classes: ClassList, kinetics: ClassList | AnyClasses) -> None:
        self.classes = classes
        self.kinetics = kinetics
        self.spellings = {spelling(name) for name in classes.names}
        self.others = 0
        self.test_rows = 0

    def rows_of(self, path: Path) -> Callable[[str, str], OfficialClip | None]:
        to_clip = rows_of(path, self.kinetics)
        return lambda line, where: self.take(to_clip(line, where))

    def take(self, clip: OfficialClip) -> OfficialClip | None:
        """A Kinetics clip as part of Kinetics-Sounds; None if it is not part of it."""
        if not clip.labels:
            raise BadRow("without labels it is unknown which rows belong to Kinetics-Sounds")
        (label,) = clip.labels
        if label not in self.classes:
            if spelling(label) in self.spellings:
                self.classes.check(label)
            self.others += 1
            return None
        if clip.split == "test":
            self.test_rows += 1
            return None
        return clip._replace(split="test") if clip.split == "val" else clip

    def notes(self, parsed: Parsed) -> list[str]:
        """What was left out, and which classes have no clips."""
        used = {label for clip in parsed.clips for label in clip.labels}
        unused = [name for name in self.classes.names if name not in used]
        return [
            *([f"{self.others} rows of other Kinetics classes were left out"] if self.others else []),
            *([f"{self.test_rows} rows of Kinetics' test set were left out"] if self.test_rows else []),
            *([f"{len(unused)} classes have no clips: {', '.join(unused)}"] if unused else []),
        ]


def spelling(name: str) -> str:
    """Only the letters of a class name."""
    return re.sub("[^a-z]+", "", name.lower())


def read_classes(sources: Sources) -> tuple[ClassList, ClassList | AnyClasses]:
    """The variant's classes in alphabetical order, and all of Kinetics' classes, if given."""
    given = sources.known_classes()
    if sources.variant in VARIANTS:
        return ClassList(VARIANTS[sources.variant], f"variant {sources.variant}"), given
    if sources.variant == "file":
        if isinstance(given, AnyClasses):
            raise UserError("kinetics-sounds: variant file needs a list of classes; add --labels FILE")
        return ClassList(sorted(given.names), given.source), AnyClasses()
    path = Path(str(sources.variant))
    return ClassList(sorted(read_names(path).names), path), given


def gewu_row(line: str, where: str, split: str) -> OfficialClip:
    """The clip of a row of GeWu-Lab's lists."""
    name, length, index = to_cells(line, 3)
    match = GEWU_NAME.fullmatch(name)
    if not match:
        raise BadRow(f"clip {show(name)} is not named <id of 11 characters>_<start> or <id>_<start>_<end>")
    video, start_text, end_text = match.groups()
    start, end = to_segment(start_text, end_text or str(to_seconds(start_text) + to_seconds(length)))
    if end - start != to_seconds(length):
        raise BadRow(f"clip {show(name)}: {end - start:g} s by its name, but {length} s by the second column")
    number = to_integer(index, "the class")
    if number >= len(CLASSES_31):
        raise BadRow(f"class {number} is out of range: 0 to {len(CLASSES_31) - 1}")
    clip_id = f"{video}_{stamp(start)}_{stamp(end)}"
    return OfficialClip(clip_id, video, start, end, (CLASSES_31[number],), split, where)
