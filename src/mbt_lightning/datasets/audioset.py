"""AudioSet: ten-second pieces of YouTube videos with 527 kinds of sound, several at once.

Files: `balanced_train_segments.csv`, `unbalanced_train_segments.csv`, `eval_segments.csv`; class list
`class_labels_indices.csv` (research.google.com/audioset/download.html). A row is `YTID, start, end, "mid,mid"`, below
three lines of comment. Copies without the spaces are about, and copies that went through a spreadsheet, which took the
quotes for text and split the labels over columns. All are read; a label list that has lost its end is refused. A clip
is named `YTID_<start in ms>`, as AudioSet's own strong labels name it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import (
    BadRow,
    ClassList,
    list_rows,
    read_header,
    show,
    split_cells,
    to_segment,
    to_youtube_id,
)
from mbt_lightning.errors import UserError

COLUMNS = ["ytid", "start_seconds", "end_seconds", "positive_labels"]
ROW = re.compile(r'([A-Za-z0-9_-]{11}), ?([0-9]+\.[0-9]+), ?([0-9]+\.[0-9]+), ?"([A-Za-z0-9_/,]+)"')
COUNT = re.compile(r"(num_[a-z_]+)=([0-9]{1,12})")
LONGEST_SECONDS = 10


class AudioSet(DataSet):
    """AudioSet's segment lists.

    Variants: `mini` trains on the balanced list alone (the paper's AS-mini); `full` on the balanced and the unbalanced
    one; `500k` is read as `full`: it is a choice among the clips that have media.
    """

    name = "audioset"
    help = "AudioSet: balanced_train, unbalanced_train and eval_segments.csv; --labels class_labels_indices.csv"
    kinds = ("an AudioSet segment list",)
    num_classes = 527
    # The files' own header lines. Nobody has them all: the paper trained on 20,361 balanced clips, tested on 18,589.
    official: ClassVar = {"train": 22_160 + 2_041_789, "test": 20_371}
    variants = ("mini", "full", "500k")

    def read(self, sources: Sources) -> Parsed:
        """Read segment lists and their class list."""
        if not sources.labels:
            raise UserError("audioset: no class list; add --labels class_labels_indices.csv")
        check_variant_files(sources)
        classes, names = read_mids(sources.labels[0])
        gathered = ClipCollector()
        for path in sources.annotations:
            segments = Segments(sources.split_of(path, balanced="train", unbalanced="train"), classes, names)
            gathered.read(path, segments.to_clip)
            gathered.notes += [f"{path}: {note}" for note in segments.notes()]
        parsed = gathered.done(list(names.values()), official=self.num_classes)
        again = len(parsed.clips) - len({clip.source_id for clip in parsed.clips})
        if again:
            parsed.notes.append(
                f"{again} clips come from a video that has a clip already; officially every video has one"
            )
        return parsed


def check_variant_files(sources: Sources) -> None:
    """Refuse lists that a variant does not train on, or that it cannot do without."""
    unbalanced = [path for path in sources.annotations if "unbalanced" in path.stem.lower()]
    if sources.variant == "mini" and unbalanced:
        raise UserError(f"{unbalanced[0]}: variant mini trains on the balanced list alone; leave this file out")
    if sources.variant in ("full", "500k") and not unbalanced:
        raise UserError(f"audioset: variant {sources.variant} needs unbalanced_train_segments.csv among --annotations")


def read_mids(path: Path) -> tuple[ClassList, dict[str, str]]:
    """The machine ids in index order, and the display name of each."""
    if [name.lower() for name in read_header(path)] != ["index", "mid", "display_name"]:
        raise UserError(f"{path}: no AudioSet class list; its first line is `index,mid,display_name`")
    rows: list[list[str]] = []
    for where, cells in list_rows(path, skip=1):
        if len(cells) != 3 or cells[0] != str(len(rows)):
            raise UserError(f"{where}: not the row `{len(rows)},mid,display_name` that belongs here")
        rows.append(cells)
    names = ClassList([name for _, _, name in rows], path).names
    mids = ClassList([mid for _, mid, _ in rows], path)
    return mids, dict(zip(mids.names, names, strict=True))


class Segments:
    """One segment list.

    Args:
        split: its split.
        mids: known machine ids.
        names: the display name of each.
    """

    def __init__(self, split: str, mids: ClassList, names: dict[str, str]) -> None:
        self.split = split
        self.mids = mids
        self.names = names
        self.declared: Counter[str] = Counter()
        self.num_segments = 0
        self.num_labels = 0
        self.num_too_long = 0
        self.used: set[str] = set()
        # Two million rows share few segments and label lists: they are made once.
        self.to_span = lru_cache(maxsize=1 << 16)(to_span)
        self.to_labels = lru_cache(maxsize=1 << 17)(self._to_labels)

    def to_clip(self, line: str, where: str) -> OfficialClip | None:
        """The clip that a line tells; None for comments and a header."""
        match = ROW.fullmatch(line)
        if match:
            video, start_text, end_text, mids = match.groups()
        elif self.is_comment(line):
            return None
        else:
            cells = split_cells(line)
            if len(cells) < 4:
                raise BadRow(f"{len(cells)} columns where 4 belong: YTID, start, end, labels")
            if [cell.lower() for cell in cells] == COLUMNS:
                return None
            video, start_text, end_text, mids = to_youtube_id(cells[0]), cells[1], cells[2], join_labels(cells[3:])
        start, end, name = self.to_span(start_text, end_text)
        labels = self.to_labels(mids)
        if end - start > LONGEST_SECONDS:
            self.num_too_long += 1
        self.num_segments += 1
        self.num_labels += len(labels)
        return OfficialClip(video + name, video, start, end, labels, self.split, where)

    def is_comment(self, line: str) -> bool:
        """Whether a line is a comment, of which the counts are kept; `#NAME?` is what a spreadsheet makes of an id."""
        if not re.match(r'"?#(\s|ytid|num_)', line, re.IGNORECASE):
            return False
        for name, count in COUNT.findall(line):
            self.declared[name] += int(count)
        return True

    def _to_labels(self, mids: str) -> tuple[str, ...]:
        parts = mids.split(",")
        if len(set(parts)) < len(parts):
            raise BadRow(f"labels {show(mids)} name one of them twice")
        labels = tuple([self.names[mid if mid in self.names else self.mids.check(mid)] for mid in parts])
        self.used.update(parts)
        return labels

    def notes(self) -> list[str]:
        """What is odd in the file as a whole."""
        found = {
            "num_segs": self.num_segments,
            "num_positive_labels": self.num_labels,
            "num_unique_labels": len(self.used),
        }
        notes = [
            f"its header says {name}={declared:,}, but {found[name]:,} could be read"
            for name, declared in self.declared.items()
            if name in found and declared != found[name]
        ]
        if self.num_segments == self.num_labels >= 100:
            notes.append(
                "every clip has one label, where AudioSet's have two on average; did the file lose the others?"
            )
        if self.num_too_long:
            notes.append(f"{self.num_too_long} segments are longer than AudioSet's {LONGEST_SECONDS} s")
        return notes


def to_span(start_text: str, end_text: str) -> tuple[float, float, str]:
    """Begin and end of a segment, and what follows the id in the clip's name."""
    start, end = to_segment(start_text, end_text)
    return start, end, f"_{round(start * 1000)}"


def join_labels(cells: list[str]) -> str:
    """The label list of a row whose columns from the fourth on are given; refuses one that cannot be whole."""
    mids = ",".join(cells[: max((n for n, cell in enumerate(cells, start=1) if cell), default=0)])
    if not mids:
        raise BadRow("there are no labels")
    # A spreadsheet writes the labels "/m/a,/m/b" as the columns """/m/a" and "/m/b""": with quotes in the text.
    if mids.startswith('"') != mids.endswith('"') or mids == '"':
        raise BadRow(f"the quotes around the labels {show(mids)} do not match: some labels are lost")
    mids = mids[1:-1] if mids.startswith('"') else mids
    mids = ",".join(mid.strip() for mid in mids.split(","))
    if '"' in mids or not all(mids.split(",")):
        raise BadRow(f"the labels {show(mids)} have a hole or a stray quote: some labels may be lost")
    return mids
