"""AVE: ten-second videos with one of 28 events that can be seen and heard.

Files: `trainSet.txt`, `valSet.txt`, `testSet.txt`, rows `category&id&quality&start&end`, with or without a header
(github.com/YapengTian/AVE-ECCV18). `Annotations.txt` is all of them, and tells no split. The category holds for the
whole file, which is the clip. Some videos have rows in two or three categories: a clip is named by id and category.
"""

from __future__ import annotations

import re
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import BadRow, ClassList, read_names, to_cells, to_seconds, to_youtube_id

CLIP_SECONDS = 10


class AVE(DataSet):
    """AVE's lists. The index of a class is its place among the sorted categories."""

    name = "ave"
    help = "AVE: trainSet.txt, valSet.txt, testSet.txt; --labels a list of the classes to check the labels by"
    kinds = ("an AVE list",)
    num_classes = 28
    official: ClassVar = {"train": 3_339, "val": 402, "test": 402}

    def read(self, sources: Sources) -> Parsed:
        """Read the lists of some splits."""
        known = read_names(sources.labels[0]) if sources.labels else None
        gathered = ClipCollector()
        for path in sources.annotations:
            reader = Reader(sources.split_of(path), known)
            gathered.read(path, reader.to_clip)
            if reader.empty:
                gathered.notes.append(
                    f"{len(reader.empty)} events last 0 s, the first at {reader.empty[0]}; all are used"
                )
        parsed = gathered.done(known.names if known else None, official=self.num_classes)
        again = len(parsed.clips) - len({clip.source_id for clip in parsed.clips})
        if again:
            parsed.notes.append(f"{again} clips show a video that is there in another category too")
        return parsed


class Reader:
    """One list.

    Args:
        split: its split.
        known: the categories, if the user gave them.
    """

    def __init__(self, split: str, known: ClassList | None) -> None:
        self.split = split
        self.known = known
        self.empty: list[str] = []

    def to_clip(self, line: str, where: str) -> OfficialClip | None:
        """The clip that a line tells; None for the header."""
        cells = to_cells(line, 5, "&")
        if cells[1].lower() == "videoid":
            return None
        category, video, quality, start_text, end_text = cells
        to_youtube_id(video)
        start, end = to_seconds(start_text), to_seconds(end_text)
        if not category or not quality:
            raise BadRow("a column is empty: category or quality")
        if start > end or end > CLIP_SECONDS:
            raise BadRow(f"the event from {start_text} to {end_text} s does not lie in a clip of {CLIP_SECONDS} s")
        if start == end:
            self.empty.append(where)
        labels = (self.known.check(category) if self.known else category,)
        name = f"{video}_{re.sub('[^a-z0-9]+', '-', category.lower()).strip('-')}"
        return OfficialClip(name, video, None, None, labels, self.split, where)
