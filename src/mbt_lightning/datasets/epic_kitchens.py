"""EPIC-KITCHENS-100: segments of long kitchen videos, each an action: one of 97 verbs and one of 300 nouns.

Files: `EPIC_100_train.csv`, `EPIC_100_validation.csv` with a header of 15 columns; `EPIC_100_test_timestamps.csv` has
the first 8 and no labels. Class lists: `EPIC_100_verb_classes.csv` and `EPIC_100_noun_classes.csv`
(github.com/epic-kitchens/epic-kitchens-100-annotations).

Segments are defined by their timestamps: the frame numbers count the released frames, not those of the videos.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import BadRow, numbered_rows, read_header, show, to_cells, to_integer
from mbt_lightning.errors import UserError

TIMES = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
LABELS = ("verb_class", "noun_class", "all_nouns", "all_noun_classes")
TIMESTAMP = re.compile(r"([0-9]{1,3}):([0-5][0-9]):([0-5][0-9](?:\.[0-9]{1,6})?)")
COUNTS = {"verb": 97, "noun": 300}


class EpicKitchens(DataSet):
    """EPIC-KITCHENS-100's lists; classes are `verb:<id>` and `noun:<id>`, all verbs before all nouns."""

    name = "epic-kitchens"
    help = "EPIC-KITCHENS-100: EPIC_100_train.csv, EPIC_100_validation.csv; --labels its verb_classes and noun_classes"
    kinds = ("an EPIC-KITCHENS list",)
    num_classes = sum(COUNTS.values())
    official: ClassVar = {"train": 67_217, "val": 9_668, "test": 13_092}
    max_labels = 2

    def read(self, sources: Sources) -> Parsed:
        counts = COUNTS | dict(read_class_file(path) for path in sources.labels)
        collector = ClipCollector()
        for kind, count in counts.items():
            if count != COUNTS[kind]:
                collector.notes.append(f"{count} {kind} classes; officially there are {COUNTS[kind]}")
        for path in sources.annotations:
            collector.read(path, rows_of(path, sources.split_of(path), counts), skip=1)
        names = [f"{kind}:{number}" for kind, count in counts.items() for number in range(count)]
        return collector.done(names, [name.partition(":")[0] for name in names])


def rows_of(path: Path, split: str, counts: dict[str, int]) -> Callable[[str, str], OfficialClip]:
    """The function that turns a line of a list into a clip."""
    header = read_header(path, TIMES)
    times = [header.index(name) for name in TIMES]
    lacking = [name for name in LABELS if name not in header]
    if lacking and len(lacking) < len(LABELS):
        raise UserError(f"{path}: column {', '.join(lacking)} is missing, but there are other label columns")
    labels = [] if lacking else [header.index(name) for name in LABELS]

    def to_clip(line: str, where: str) -> OfficialClip:
        cells = to_cells(line, len(header))
        name, person, video, start_text, stop_text = (cells[column] for column in times)
        if not re.fullmatch(r"P[0-9]{2}_[0-9]+", video) or not video.startswith(f"{person}_"):
            raise BadRow(f"video {show(video)} is not named after participant {show(person)}, as in P01_01 and P01")
        if not re.fullmatch(re.escape(video) + "_[0-9]+", name):
            raise BadRow(f"narration {show(name)} is not named after its video {show(video)}")
        start, stop = to_timestamp(start_text), to_timestamp(stop_text)
        if start >= stop:
            raise BadRow(f"the segment ends at {stop_text}, which is not after its start at {start_text}")
        found = to_labels([cells[column] for column in labels], counts) if labels else ()
        return OfficialClip(name, video, start, stop, found, split, where)

    return to_clip


def to_timestamp(text: str) -> float:
    match = TIMESTAMP.fullmatch(text)
    if not match:
        raise BadRow(f"time {show(text)} is not written hh:mm:ss.cc")
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)


def to_labels(cells: Sequence[str], counts: dict[str, int]) -> tuple[str, ...]:
    """A row's verb and noun; its lists of all nouns must be complete and consistent."""
    labels = []
    for kind, text in zip(counts, cells, strict=False):
        number = to_integer(text, f"{kind}_class")
        if number >= counts[kind]:
            raise BadRow(f"{kind}_class {number} is out of range: 0 to {counts[kind] - 1}")
        labels.append(f"{kind}:{number}")
    names, numbers = to_list(cells[2], str), to_list(cells[3], int)
    if len(names) != len(numbers):
        raise BadRow(f"{len(names)} nouns in all_nouns, {len(numbers)} in all_noun_classes")
    if int(cells[1]) not in numbers:
        raise BadRow(f"noun_class {cells[1]} is not in all_noun_classes {show(cells[3])}")
    return tuple(labels)


def to_list(text: str, kind: type) -> list:
    """A list in Python's notation."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        value = None
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise BadRow(f"{show(text)} is not a list of {'nouns' if kind is str else 'class numbers'}")
    return value


def read_class_file(path: Path) -> tuple[str, int]:
    """The kind of a class list, verb or noun, and its number of classes."""
    kinds = [kind for kind in COUNTS if kind in path.stem.lower()]
    if len(kinds) != 1:
        raise UserError(f"{path}: the name must contain `verb` or `noun`; keep the official name")
    count = len(list(numbered_rows(path, ("id", "key", "instances", "category"))))
    if count == 305 and kinds == ["noun"]:
        raise UserError(f"{path}: 305 nouns: this is the second list; the benchmark uses EPIC_100_noun_classes.csv")
    return kinds[0], count
