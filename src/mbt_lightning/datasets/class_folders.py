"""Class folders: media in `CLASS/...`, or in `train/CLASS/...`, `val/CLASS/...`, `test/CLASS/...`; there is no list.

Files that differ only in their suffix are one clip (video and audio in separate files). Other files are ignored and
counted, and so are the leftovers of downloads and of other systems.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed, Refused
from mbt_lightning.datasets.rows import SPLITS, AnyClasses, BadRow, ClassList, check_line
from mbt_lightning.errors import UserError


class Folder(DataSet):
    """Media in folders named after their class. A clip is a whole file; its source is the path without the suffix."""

    name = "folder"
    help = "class folders: MEDIA/CLASS/file, or MEDIA/train/CLASS/file; --labels a list of the classes"

    def check_files(self, annotations: Sequence[Path]) -> None:
        if annotations:
            raise UserError(f"{annotations[0]}: `folder` reads no annotations, only folders; `table` reads lists")

    def read(self, sources: Sources) -> Parsed:
        root = sources.media
        if root is None or not Path(root).is_dir():
            raise UserError(f"folder: {root or 'no media folder'}: no such folder; add --media DIR")
        if sources.split and all(entry.name.lower() in SPLITS for entry in Path(root).iterdir() if entry.is_dir()):
            raise UserError(f"{root}: its folders are splits; leave out --split")
        known = sources.known_classes()
        collector, others, seen = ClipCollector(), Counter[str](), set()
        for path in walk(Path(root)):
            if is_leftover(path.name) or path.suffix.lower() not in MEDIA_SUFFIXES:
                others[path.suffix.lower() or path.name] += 1
                continue
            source = str(path.with_suffix(""))
            if source not in seen:
                seen.add(source)
                try:
                    collector.add(to_clip(path, sources.split, known))
                except BadRow as error:
                    collector.refused.append(Refused(ascii(str(path))[1:-1], str(error)))
        if not collector.clips and not collector.refused:
            raise UserError(f"{root}: contains no media files")
        if others:
            common = ", ".join(f"{ascii(suffix)[1:-1]} ({count})" for suffix, count in others.most_common(5))
            collector.notes.append(f"{others.total()} files are not media and were ignored: {common}")
        return collector.done(known.names)


def to_clip(path: PurePath, split: str | None, known: ClassList | AnyClasses) -> OfficialClip:
    """The clip of a file, by its path in the media folder."""
    name = str(path)
    check_line(name)
    where, folders = name, list(path.parts[:-1])
    if split is None:
        if not folders or folders[0].lower() not in SPLITS:
            raise BadRow("not in a folder train, val or test; if the folders are classes, add --split")
        split = SPLITS[folders.pop(0).lower()]
    if not folders:
        raise BadRow("not in a class folder")
    known.check(folders[0])
    source = path.with_suffix("").as_posix()
    return OfficialClip(source, source, None, None, (folders[0],), split, where)


def walk(root: Path, below: PurePath | None = None, inside: frozenset[str] = frozenset()) -> Iterator[PurePath]:
    """The files in a folder, sorted, as paths relative to it; a link that leads back up is not followed."""
    here = root / (below or "")
    real = os.path.realpath(here)
    if real in inside:
        return
    try:
        entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{here}: cannot be read: {error.strerror}") from None
    for entry in entries:
        path = PurePath(below or "", entry.name)
        if not entry.is_dir():
            yield path
        elif not is_leftover(entry.name):
            yield from walk(root, path, inside | {real})


def is_leftover(name: str) -> bool:
    """Whether a name is typical of what downloads and other systems leave in a folder."""
    return name.startswith(".") or name == "__MACOSX" or ".temp." in name or name.endswith((".part", ".ytdl"))
