"""AVE: ten-second videos, each with one of 28 events that can be both seen and heard.

Files: `trainSet.txt`, `valSet.txt`, `testSet.txt`, rows `category&id&quality&start&end`, with or without a header
(github.com/YapengTian/AVE-ECCV18). `Annotations.txt` contains all of them, without splits. The category applies to the
whole file, which is the clip. Some videos have rows in two or three categories, so a clip is named by id and category.
"""

from __future__ import annotations

import re
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import AnyClasses, BadRow, ClassList, to_cells, to_seconds, to_youtube_id

CLIP_SECONDS = 10


class AVE(DataSet):
    """AVE's lists. The index of a class is its position among the sorted categories."""

    name = "ave"
    help = "AVE: trainSet.txt, valSet.txt, testSet.txt; --labels a list of the classes to check the labels by"
    kinds = ("an AVE list",)
    num_classes = 28
    official: ClassVar = {"train": 3_339, "val": 402, "test": 402}

    def read(self, sources: Sources) -> Parsed:
        known = sources.known_classes()
        collector = ClipCollector()
        for path in sources.annotations:
            reader = Reader(sources.split_of(path), known)
            collector.read(path, reader.to_clip)
            if reader.empty:
                collector.notes.append(
                    f"{len(reader.empty)} events last 0 s, the first at {reader.empty[0]}; all are used"
                )
        parsed = collector.done(known.names, official=self.num_classes)
        again = len(parsed.clips) - len({clip.source_id for clip in parsed.clips})
        if again:
            parsed.notes.append(f"{again} clips share their video with a clip of another category")
        return parsed


class Reader:
    """Reads the list of a split, and collects the places of events without duration."""

    def __init__(self, split: str, known: ClassList | AnyClasses) -> None:
        self.split = split
        self.known = known
        self.empty: list[str] = []

    def to_clip(self, line: str, where: str) -> OfficialClip | None:
        cells = to_cells(line, 5, "&")
        if cells[1].lower() == "videoid":
            return None
        category, video, quality, start_text, end_text = cells
        to_youtube_id(video)
        start, end = to_seconds(start_text), to_seconds(end_text)
        if not category or not quality:
            raise BadRow("the category or the quality is empty")
        if start > end or end > CLIP_SECONDS:
            raise BadRow(f"the event from {start_text} to {end_text} s is not inside a clip of {CLIP_SECONDS} s")
        if start == end:
            self.empty.append(where)
        name = f"{video}_{re.sub('[^a-z0-9]+', '-', category.lower()).strip('-')}"
        return OfficialClip(name, video, None, None, (self.known.check(category),), self.split, where)
