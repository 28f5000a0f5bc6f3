"""CREMA-D: actors speak twelve sentences in six emotions; a clip is a whole file, and its name holds all facts.

Files: GeWu-Lab's `train.csv` and `test.csv` without header, rows `<actor>_<sentence>_<emotion>_<level>,<emotion>`, or
the official `SentenceFilenames.csv`, rows `number,name`. Class list: GeWu-Lab's `stat.csv`, whose order is built in.

There is no official split. `customary` is GeWu-Lab's: every actor is in both parts, so a model is tested on voices that
it was trained on. `by-actor` assigns 73 actors to train, 9 to val and 9 to test, each by the SHA-256 hash of its
number: the same for every user and every choice of files.
"""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import ClassVar

from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources, kind_of
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import BadRow, first_line, list_rows, show, to_cells, to_integer
from mbt_lightning.errors import UserError

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
NAME = re.compile(
    r"(?P<actor>[0-9]{4})_(?P<sentence>DFA|IEO|IOM|ITH|ITS|IWL|IWW|MTI|TAI|TIE|TSI|WSI)"
    r"_(?P<emotion>NEU|HAP|SAD|FEA|DIS|ANG)_(?P<level>LO|MD|HI|XX|X)"
)
ODD_FILES = {
    "1076_MTI_SAD_XX": "has no audio",
    "1076_MTI_NEU_XX": "is nearly empty",
    "1064_TIE_SAD_XX": "has no duration",
    "1064_IEO_DIS_MD": "is a minute long and shows all emotions",
}
"""Clips known to be broken; they are kept, as in the lists."""
ACTORS = range(1001, 1092)
SEED = 76
"""A seed that divides the 91 actors exactly 73 : 9 : 9."""


class CremaD(DataSet):
    """CREMA-D, by GeWu-Lab's lists or the official one."""

    name = "cremad"
    help = "CREMA-D: GeWu-Lab's train.csv and test.csv; --variant by-actor for a speaker-independent split"
    kinds = ("CREMA-D's list of file names",)
    num_classes = 6
    # GeWu-Lab's lists contain all clips.
    official: ClassVar = {"train": 6_698, "test": 744}
    variants = ("customary", "by-actor")

    def read(self, sources: Sources) -> Parsed:
        by_actor = sources.variant == "by-actor"
        collector = ClipCollector()
        for path in sources.annotations:
            header = kind_of(path) is not None
            named = header or first_line(path).partition(",")[0].isdecimal()
            if named and not by_actor and sources.split is None:
                raise UserError(f"{path}: has no split; give GeWu-Lab's train.csv and test.csv, or --variant by-actor")
            split = None if by_actor else sources.split_of(path)
            collector.read(path, partial(row, named=named, split=split), skip=int(header))
        parsed = collector.done(read_stat(sources.labels[0]) if sources.labels else EMOTIONS)
        parsed.notes.extend(f"{name} {fault}" for name, fault in ODD_FILES.items() if name in collector.clips)
        foreign = {clip.source_id[:4] for clip in parsed.clips if int(clip.source_id[:4]) not in ACTORS}
        if foreign:
            parsed.notes.append(
                f"{len(foreign)} actors, the first {min(foreign)}, are not among the official 1001-1091"
            )
        return parsed


def row(line: str, where: str, named: bool, split: str | None) -> OfficialClip:
    """The clip of a row; `named`: of the official list of names."""
    first, second = to_cells(line, 2)
    name = second if named else first
    match = NAME.fullmatch(name)
    if not match:
        raise BadRow(f"{show(name)} is not named <actor>_<sentence>_<emotion>_<level>, e.g. 1001_DFA_ANG_XX")
    if match["level"] in ("LO", "MD", "HI") and match["sentence"] != "IEO":
        raise BadRow(f"{show(name)} has level {match['level']}, which only sentence IEO has")
    if named:
        to_integer(first, "the number")
    elif second != match["emotion"]:
        raise BadRow(f"label {show(second)} is not the emotion in the name {show(name)}")
    return OfficialClip(name, name, None, None, (match["emotion"],), split or actor_split(match["actor"]), where)


def actor_split(actor: str) -> str:
    share = int(hashlib.sha256(f"{SEED}:{actor}".encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < 0.1 else "val" if share < 0.2 else "train"


def read_stat(path: Path) -> tuple[str, ...]:
    """The emotions in the order of `stat.csv`."""
    names = tuple(cells[0] for _, cells in list_rows(path))
    if sorted(names) != sorted(EMOTIONS):
        raise UserError(f"{path}: its first column is {show(', '.join(names))}; it must be: {', '.join(EMOTIONS)}")
    return names
