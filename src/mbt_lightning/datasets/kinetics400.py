"""Kinetics-400: ten-second clips of YouTube videos, each with one of 400 actions.

Files: `train.csv`, `val.csv`, `test.csv` with a header, columns `label,youtube_id,time_start,time_end,split`, in older
copies also `is_cc`; the first list of the test set has no `label`. The split is `val` or `validate`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import (
    AnyClasses,
    BadRow,
    ClassList,
    read_header,
    stamp,
    to_cells,
    to_segment,
    to_split,
    to_youtube_id,
)

COLUMNS = ("youtube_id", "time_start", "time_end", "split")


class Kinetics400(DataSet):
    """Kinetics' lists. The index of a class is its alphabetical position, by convention."""

    name = "kinetics400"
    help = "Kinetics-400: train.csv, val.csv, test.csv; --labels a list of the classes to check the labels by"
    kinds = ("a Kinetics list",)
    num_classes = 400
    official: ClassVar = {"train": 246_534, "val": 19_906, "test": 38_685}

    def read(self, sources: Sources) -> Parsed:
        known = sources.known_classes()
        collector = ClipCollector()
        for path in sources.annotations:
            collector.read(path, rows_of(path, known), skip=1)
        return collector.done(known.names, official=self.num_classes)


def rows_of(path: Path, known: ClassList | AnyClasses) -> Callable[[str, str], OfficialClip]:
    """The function that turns a line of a list into a clip."""
    header = read_header(path, COLUMNS)
    video, start, end, split = (header.index(name) for name in COLUMNS)
    label = header.index("label") if "label" in header else None

    def to_clip(line: str, where: str) -> OfficialClip:
        cells = to_cells(line, len(header))
        source = to_youtube_id(cells[video])
        segment = to_segment(cells[start], cells[end])
        if label is not None and not cells[label]:
            raise BadRow("the label is empty")
        labels = () if label is None else (known.check(cells[label]),)
        name = f"{source}_{stamp(segment[0])}_{stamp(segment[1])}"
        return OfficialClip(name, source, *segment, labels, to_split(cells[split]), where)

    return to_clip
