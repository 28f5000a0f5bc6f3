"""Moments in Time: three-second videos, each with one of 339 (first version) or 305 (second) actions or events.

Files: `trainingSet.csv`, `validationSet.csv` without header, rows `class/file.mp4,label,votes for,votes against`. Class
list: `moments_categories.txt`, rows `name,index`, where the index and not the line is the class. A clip is a whole
file; its source is the path in `training` or `validation`, without the suffix.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import (
    INTEGER,
    BadRow,
    ClassList,
    first_line,
    list_rows,
    show,
    to_cells,
    to_integer,
    to_media_path,
)
from mbt_lightning.errors import UserError


class MomentsInTime(DataSet):
    """Moments in Time's lists."""

    name = "moments-in-time"
    help = "Moments in Time: trainingSet.csv, validationSet.csv; --labels moments_categories.txt"
    num_classes = 339
    # The second version, with 305 classes.
    official: ClassVar = {"train": 727_305, "val": 30_500}

    def read(self, sources: Sources) -> Parsed:
        if not sources.labels:
            raise UserError("moments-in-time: no class list; add --labels moments_categories.txt")
        known = read_categories(sources.labels[0])
        collector = ClipCollector()
        for path in sources.annotations:
            refuse_multi(path)
            collector.read(path, partial(row, split=sources.split_of(path), known=known))
        return collector.done(known.names, official=None if len(known.names) == 305 else self.num_classes)


def row(line: str, where: str, split: str, known: ClassList) -> OfficialClip:
    path, label, *votes = to_cells(line, 4)
    source = to_media_path(path)
    known.check(label)
    if "/" not in source or source.split("/")[0] != label:
        raise BadRow(f"path {show(path)} does not start with the folder of its label {show(label)}")
    for text in votes:
        to_integer(text, "the number of votes")
    return OfficialClip(source, source, None, None, (label,), split, where)


def refuse_multi(path: Path) -> None:
    """Refuse the lists of Multi-Moments in Time, whose clips have several labels."""
    indices = [cell.strip() for cell in first_line(path).split(",")[1:]]
    if path.suffix.lower() == ".txt" or (indices and all(INTEGER.fullmatch(index) for index in indices)):
        raise UserError(f"{path}: this is a list of Multi-Moments in Time; give trainingSet.csv and validationSet.csv")


def read_categories(path: Path) -> ClassList:
    names: dict[int, str] = {}
    for where, cells in list_rows(path):
        if len(cells) != 2 or not INTEGER.fullmatch(cells[1]):
            raise UserError(f"{where}: expected a row `name,index`")
        if int(cells[1]) in names:
            raise UserError(f"{where}: index {cells[1]} is already used by class {show(names[int(cells[1])])}")
        names[int(cells[1])] = cells[0]
    if sorted(names) != list(range(len(names))):
        missing = next(number for number in range(len(names)) if number not in names)
        raise UserError(f"{path}: no class has index {missing}; the indices must count from 0 without a gap")
    return ClassList([names[number] for number in sorted(names)], path)
