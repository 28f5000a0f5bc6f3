"""VGGSound: ten-second clips of YouTube videos, each with one of 309 classes of audio events.

File: `vggsound.csv` without header, rows `ytid,start,label,split`; or the authors' `train.csv` and `test.csv`, rows
`ytid_<start, six digits>.mp4,label`. Class list: `stat.csv`, rows `label,count,group`, which gives the groups of
classes and serves to check the labels (github.com/hche11/VGGSound).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import (
    AnyClasses,
    BadRow,
    ClassList,
    first_line,
    list_rows,
    show,
    split_cells,
    stamp,
    to_cells,
    to_seconds,
    to_split,
    to_youtube_id,
)
from mbt_lightning.errors import UserError

CLIP_SECONDS = 10
FILE_NAME = re.compile(r"([A-Za-z0-9_-]{11})_([0-9]{6})\.mp4")


class VGGSound(DataSet):
    """VGGSound's list. The index of a class is its position among the sorted labels, as in the authors' code."""

    name = "vggsound"
    help = "VGGSound: vggsound.csv, or train.csv and test.csv; --labels stat.csv for groups of classes"
    num_classes = 309
    # Rows of vggsound.csv. The authors' archive contains 183,730 and 15,446.
    official: ClassVar = {"train": 183_971, "test": 15_496}

    def read(self, sources: Sources) -> Parsed:
        known, groups = read_stat(sources.labels[0]) if sources.labels else (AnyClasses(), ())
        collector = ClipCollector()
        for path in sources.annotations:
            if is_file_list(path):
                collector.read(path, partial(file_row, split=sources.split_of(path), known=known))
            else:
                collector.read(path, partial(row, known=known))
        return collector.done(known.names, groups, official=self.num_classes)


def row(line: str, where: str, known: ClassList | AnyClasses) -> OfficialClip:
    video, start, label, split = to_cells(line, 4)
    return to_clip(to_youtube_id(video), start, label, to_split(split), where, known)


def file_row(line: str, where: str, split: str, known: ClassList | AnyClasses) -> OfficialClip:
    name, label = to_cells(line, 2)
    match = FILE_NAME.fullmatch(name)
    if not match:
        raise BadRow(f"file {show(name)} is not named <id of 11 characters>_<start of 6 digits>.mp4")
    return to_clip(match[1], match[2], label, split, where, known)


def to_clip(video: str, start: str, label: str, split: str, where: str, known: ClassList | AnyClasses) -> OfficialClip:
    seconds = to_seconds(start)
    if not label:
        raise BadRow("the label is empty")
    name, end = f"{video}_{stamp(seconds)}", seconds + CLIP_SECONDS
    return OfficialClip(name, video, seconds, end, (known.check(label),), split, where)


def is_file_list(path: Path) -> bool:
    """Whether a list has the authors' other format, with file names."""
    try:
        return len(split_cells(first_line(path))) == 2
    except BadRow:
        return False


def read_stat(path: Path) -> tuple[ClassList, tuple[str, ...]]:
    """The sorted labels of `stat.csv` and their groups; a file of labels alone has none."""
    rows = []
    for where, cells in list_rows(path):
        if len(cells) not in (1, 3):
            raise UserError(
                f"{where}: expected `label,count,group`, or a label alone; labels with commas must be quoted"
            )
        rows.append((cells[0], cells[2] if len(cells) == 3 else ""))
    rows.sort()
    groups = [group for _, group in rows]
    if any(groups) and not all(groups):
        raise UserError(f"{path}: class {show(rows[groups.index('')][0])} has no group, but others have")
    return ClassList([label for label, _ in rows], path), tuple(groups) if any(groups) else ()
