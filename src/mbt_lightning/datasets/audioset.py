"""AudioSet: ten-second segments of YouTube videos, each labelled with one or more of 527 classes of audio events.

Files: `balanced_train_segments.csv`, `unbalanced_train_segments.csv`, `eval_segments.csv`; class list
`class_labels_indices.csv` (research.google.com/audioset/download.html). A row is `YTID, start, end, "mid,mid"`, after
three comment lines. There are copies without the spaces, and copies saved by a spreadsheet, which treats the quotes as
text and splits the labels over columns. All are read; a truncated label list is refused. A clip is named
`YTID_<start in ms>`, as in AudioSet's own strong labels.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import BadRow, ClassList, numbered_rows, show, split_cells, to_segment, to_youtube_id
from mbt_lightning.errors import UserError

COLUMNS = ["ytid", "start_seconds", "end_seconds", "positive_labels"]
ROW = re.compile(r'([A-Za-z0-9_-]{11}), ?([0-9]+\.[0-9]+), ?([0-9]+\.[0-9]+), ?"([A-Za-z0-9_/,]+)"')
COUNT = re.compile(r"(num_[a-z_]+)=([0-9]{1,12})")
LONGEST_SECONDS = 10


class AudioSet(DataSet):
    """AudioSet's segment lists.

    Variants: `mini` trains on the balanced list only (the paper's AS-mini); `full` on the balanced and the unbalanced
    list; `500k` is read like `full`: it is a choice among the clips that have media.
    """

    name = "audioset"
    help = "AudioSet: balanced_train, unbalanced_train and eval_segments.csv; --labels class_labels_indices.csv"
    kinds = ("an AudioSet segment list",)
    num_classes = 527
    # From the files' headers. Nobody has all clips: the paper trained on 20,361 balanced ones, tested on 18,589.
    official: ClassVar = {"train": 22_160 + 2_041_789, "test": 20_371}
    variants = ("mini", "full", "500k")

    def read(self, sources: Sources) -> Parsed:
        if not sources.labels:
            raise UserError("audioset: no class list; add --labels class_labels_indices.csv")
        check_variant_files(sources)
        classes, names = read_mids(sources.labels[0])
        collector = ClipCollector()
        for path in sources.annotations:
            segments = Segments(sources.split_of(path, balanced="train", unbalanced="train"), classes, names)
            collector.read(path, segments.to_clip)
            collector.notes += [f"{path}: {note}" for note in segments.notes()]
        parsed = collector.done(list(names.values()), official=self.num_classes)
        again = len(parsed.clips) - len({clip.source_id for clip in parsed.clips})
        if again:
            parsed.notes.append(f"{again} clips share their video with another one; officially each video has one clip")
        return parsed


def check_variant_files(sources: Sources) -> None:
    """Refuse a list that the variant does not train on, and the lack of one that it needs."""
    unbalanced = [path for path in sources.annotations if "unbalanced" in path.stem.lower()]
    if sources.variant == "mini" and unbalanced:
        raise UserError(f"{unbalanced[0]}: variant mini trains on the balanced list only; leave this file out")
    if sources.variant in ("full", "500k") and not unbalanced:
        raise UserError(f"audioset: variant {sources.variant} needs unbalanced_train_segments.csv among --annotations")


def read_mids(path: Path) -> tuple[ClassList, dict[str, str]]:
    """The machine ids in index order, and the display name of each."""
    rows = list(numbered_rows(path, ("index", "mid", "display_name")))
    names = ClassList([name for _, _, name in rows], path).names
    mids = ClassList([mid for _, mid, _ in rows], path)
    return mids, dict(zip(mids.names, names, strict=True))


class Segments:
    """One segment list of a split; `mids` are the known machine ids, `names` their display names."""

    def __init__(self, split: str, mids: ClassList, names: dict[str, str]) -> None:
        self.split = split
        self.mids = mids
        self.names = names
        self.declared: Counter[str] = Counter()
        self.num_segments = 0
        self.num_labels = 0
        self.num_too_long = 0
        self.num_repeated = 0
        self.used: set[str] = set()
        # Two million rows share few segments and label lists, so each is built once.
        self.to_span = lru_cache(maxsize=1 << 16)(to_span)
        self.to_labels = lru_cache(maxsize=1 << 17)(self._to_labels)

    def to_clip(self, line: str, where: str) -> OfficialClip | None:
        match = ROW.fullmatch(line)
        if match:
            video, start_text, end_text, mids = match.groups()
        elif self.is_comment(line):
            return None
        else:
            cells = split_cells(line)
            if len(cells) < 4:
                raise BadRow(f"{len(cells)} columns instead of 4: YTID, start, end, labels")
            if [cell.lower() for cell in cells] == COLUMNS:
                return None
            video, start_text, end_text, mids = to_youtube_id(cells[0]), cells[1], cells[2], join_labels(cells[3:])
        start, end, name = self.to_span(start_text, end_text)
        labels = self.to_labels(mids)
        if end - start > LONGEST_SECONDS:
            self.num_too_long += 1
        self.num_segments += 1
        given = mids.count(",") + 1
        self.num_repeated += given > len(labels)
        self.num_labels += given
        return OfficialClip(video + name, video, start, end, labels, self.split, where)

    def is_comment(self, line: str) -> bool:
        """Whether a line is a comment, whose counts are kept. A spreadsheet may turn an id into `#NAME?`."""
        if not re.match(r'"?#(\s|ytid|num_)', line, re.IGNORECASE):
            return False
        for name, count in COUNT.findall(line):
            self.declared[name] += int(count)
        return True

    def _to_labels(self, mids: str) -> tuple[str, ...]:
        parts = list(dict.fromkeys(mids.split(",")))
        labels = tuple([self.names[mid if mid in self.names else self.mids.check(mid)] for mid in parts])
        self.used.update(parts)
        return labels

    def notes(self) -> list[str]:
        """Anything unusual about the file as a whole."""
        found = {
            "num_segs": self.num_segments,
            "num_positive_labels": self.num_labels,
            "num_unique_labels": len(self.used),
        }
        notes = [
            f"its header declares {name}={declared:,}, but {found[name]:,} could be read"
            for name, declared in self.declared.items()
            if name in found and declared != found[name]
        ]
        if self.num_segments == self.num_labels >= 100:
            notes.append("every clip has one label, but AudioSet has two on average; did the file lose the others?")
        if self.num_repeated:
            notes.append(f"{self.num_repeated} rows list a label twice, which is taken once")
        if self.num_too_long:
            notes.append(f"{self.num_too_long} segments are longer than {LONGEST_SECONDS} s, AudioSet's maximum")
        return notes


def to_span(start_text: str, end_text: str) -> tuple[float, float, str]:
    """Start and end of a segment, and the suffix of the clip's name."""
    start, end = to_segment(start_text, end_text)
    return start, end, f"_{round(start * 1000)}"


def join_labels(cells: list[str]) -> str:
    """The label list of a row, from its columns after the third; refuses one that may be incomplete."""
    mids = ",".join(cells[: max((n for n, cell in enumerate(cells, start=1) if cell), default=0)])
    if not mids:
        raise BadRow("the row has no labels")
    # A spreadsheet writes the labels "/m/a,/m/b" as the columns """/m/a" and "/m/b""": with quotes in the text.
    if mids.startswith('"') != mids.endswith('"') or mids == '"':
        raise BadRow(f"the quotes around the labels {show(mids)} do not match: some labels are lost")
    mids = mids[1:-1] if mids.startswith('"') else mids
    mids = ",".join(mid.strip() for mid in mids.split(","))
    if '"' in mids or not all(mids.split(",")):
        raise BadRow(f"the labels {show(mids)} contain an empty one or a stray quote: some may be lost")
    return mids
