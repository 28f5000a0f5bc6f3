"""The one table format that training reads: a Parquet, JSON-lines or CSV file with a row a clip, and its classes.

Columns (others are ignored, unless a modality reads them, see `mbt_lightning.data.modalities.ColumnModality`):

- `clip_id` (optional): unique name; by default the media path.
- `source_id`, `segment_start_seconds`, `segment_end_seconds` (optional): the official segment on the time line of the
  video that it was cut from; empty: all of it.
- `video`, `audio`: media files; relative paths are taken from `media_root`, by default the manifest's folder. An empty
  `audio` means the audio of the video file; an empty `video` a clip of audio only.
- `start_seconds`, `end_seconds` (optional): the labelled segment in the media file's own time; empty: the whole file.
- `labels`: class names; in CSV separated by `|`, or a JSON list. May be empty in a multi-label task.
- `split`: `train`, `val`, `test`, or any name of your own.
- `status` (optional): rows whose status is neither empty nor `ok` are left out, and counted.
- `annotation` (optional): file:line that the row comes from.

The classes in index order are in a Parquet file's own metadata, or in `classes.csv` beside the manifest: a column
`name` and, if scores are wanted for groups of classes too, a column `group`. Without either the classes are the sorted
labels of all rows.

A table is read in batches of columns, so that two million rows cost seconds and little memory; what training needs of a
large one is put into a memory-mapped file that all processes share.
"""

from __future__ import annotations

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mbt_lightning.data.manifest.checks import Check, sort_classes
from mbt_lightning.data.manifest.formats import (
    METADATA_KEY,
    READERS,
    WRITERS,
    ManifestRow,
    check_suffix,
    csv_rows,
    open_parquet,
    parse_json,
    written_rows,
)
from mbt_lightning.data.manifest.shared_table import Clips, SharedTable, share
from mbt_lightning.disk import replacing
from mbt_lightning.errors import UserError, one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been read and checked.

    Args:
        path: the file.
        splits: the usable examples of every split that has any, in the order of the rows.
        classes: class names in index order.
        groups: one group name a class, or empty.
        counts: rows of every split by status, the unusable ones included: {split: {status: rows}}.
        digest: hash of all rows and the class list (first 16 hex digits of SHA-256); the same whatever the suffix.
        metadata: what `write_manifest` recorded about the table: data set, variant, options; or empty.
    """

    path: Path
    splits: dict[str, Clips]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    digest: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> Clips:
        """The examples of one split; refuses one that has none."""
        if not self.splits.get(name):
            known = ", ".join(f"{k} ({len(v)})" for k, v in self.splits.items()) or "none"
            raise UserError(f"{self.path}: split {name!r} has no clips; the manifest's splits are: {known}")
        return self.splits[name]

    @property
    def left_out(self) -> dict[str, int]:
        """Rows that are not used, by status."""
        total: Counter[str] = Counter()
        for by_status in self.counts.values():
            total.update({status: rows for status, rows in by_status.items() if status != "ok"})
        return dict(total)

    @property
    def about(self) -> dict[str, Any]:
        """The metadata that a manifest made of this one keeps: all but what `write_manifest` determines itself."""
        return {
            key: value for key, value in self.metadata.items() if key not in ("classes", "groups", "counts", "hash")
        }

    @property
    def coverage(self) -> dict[str, tuple[int, int]]:
        """The clips that are used and all official ones, by split."""
        splits = {split: by_status for split, by_status in self.counts.items() if split}
        return {split: (by_status.get("ok", 0), sum(by_status.values())) for split, by_status in splits.items()}


def read_manifest(
    path: str | Path,
    media_root: str | Path | None = None,
    classes: str | Path | None = None,
    extra: Sequence[str] = (),
) -> Manifest:
    """Read a manifest and its class list.

    Args:
        path: a `.parquet`, `.jsonl` or `.csv` file.
        media_root: folder that relative media paths start from; default: the manifest's folder.
        classes: the class list; default: that of a Parquet file's metadata, or `classes.csv` beside the manifest, or
            else the labels that occur.
        extra: further columns, of texts, that `Example.extra` must hold; they enter the hash.

    Raises:
        UserError: a missing file, a missing column, or a row that makes no sense, by file and line.
    """
    path, extra = Path(path), tuple(dict.fromkeys(extra))
    if not path.is_file():
        raise UserError(
            f"{path}: no such manifest; give a .parquet, .jsonl or .csv file, or `demo` for the embedded data"
        )
    check_suffix(path)
    metadata = read_metadata(path)
    class_file = Path(classes) if classes else path.parent / "classes.csv"
    if classes and not class_file.is_file():
        raise UserError(f"{class_file}: no such class list; give a .csv file with a column `name`")
    if not classes and metadata.get("classes"):
        names, groups, class_file = tuple(metadata["classes"]), tuple(metadata.get("groups", ())), path
        check_classes(path, names, groups)
    else:
        names, groups = read_classes(class_file) if class_file.is_file() else ((), ())

    source = f"the class list of {path}" if class_file == path else str(class_file)
    table, ranges, names, check = read_table(path, names, groups, source, extra)
    pa.default_memory_pool().release_unused()
    digest = check.digest(names, groups)
    if metadata.get("hash", digest) != digest and not classes:
        log.warning("%s: rows or classes have changed since it was written; its hash is now %s", path, digest)
    root = str(media_root or path.parent)
    splits = {split: Clips(table, rows, names, root) for split, rows in ranges.items()}
    return Manifest(path, splits, names, groups, check.counts, check.digest(names, groups, extra=True), metadata)


def read_table(
    path: Path, classes: tuple[str, ...], groups: tuple[str, ...], source: str, extra: tuple[str, ...]
) -> tuple[SharedTable, dict[str, range], tuple[str, ...], Check]:
    """Read and check all rows.

    Args:
        path: the manifest.
        classes: class names in index order; empty: the labels that occur.
        groups: of the classes; they enter the hash.
        source: name of the class list in messages.
        extra: further columns that are kept.

    Returns:
        The usable rows, split after split; the range of each split; the classes; the check, which has counted and
        hashed all rows.
    """
    check = Check(classes, source, extra)
    parts: dict[str, list[pa.RecordBatch]] = {}
    for rows in READERS[path.suffix](path, extra):
        for split, part in check.take(rows).items():
            parts.setdefault(split, []).append(part)
    check.unique_ids()
    if not classes:
        classes, parts = sort_classes(check.index, parts)
    ends = np.cumsum([0, *(sum(part.num_rows for part in of_split) for of_split in parts.values())]).tolist()
    ranges = {split: range(*pair) for split, pair in zip(parts, pairwise(ends), strict=True)}
    batches = [part for of_split in parts.values() for part in of_split]
    table = share(batches, check.stored, check.digest(classes, groups, extra=True))
    return table, ranges, classes, check


def write_manifest(
    path: str | Path,
    rows: Iterable[ManifestRow],
    classes: Sequence[str],
    groups: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a manifest; the file appears when it is complete.

    Rows are taken in batches from any iterable, and checked as `read_manifest` does. A Parquet file holds its metadata;
    that of the other formats is beside them, in `classes.csv` and `<manifest>.meta.json`.

    Args:
        path: the file; its suffix, `.parquet`, `.jsonl` or `.csv`, is its format.
        rows: the rows, unusable clips included.
        classes: class names in index order.
        groups: one group name a class, or empty.
        about: what else is known about the table, as plain data: `dataset`, `variant`, `options`.

    Returns:
        The metadata: `about`, and `classes`, `groups`, `counts` of rows by split and status, and `hash`.

    Raises:
        UserError: a row that makes no sense, by its number; a `classes.csv` of another list.
    """
    path = Path(path)
    check_suffix(path)
    names, groups = tuple(classes), tuple(groups)
    check_classes(path, names, groups)
    class_file = path.parent / "classes.csv"
    if path.suffix != ".parquet" and class_file.is_file() and read_classes(class_file) != (names, groups):
        raise UserError(f"{class_file}: is another class list; write into a new folder, or delete it")
    check = Check(names, "the class list")

    def checked() -> Iterator[pa.RecordBatch]:
        for batch in written_rows(rows, path):
            check.take(batch)
            yield batch.batch
        check.unique_ids()

    def metadata() -> dict[str, Any]:
        known = {**(about or {}), "classes": list(names), "groups": list(groups)}
        return known | {"counts": check.counts, "hash": check.digest(names, groups)}

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        WRITERS[path.suffix](unfinished, checked(), metadata)
        if path.suffix != ".parquet":
            write_beside(path, metadata())
    return metadata()


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a class list: (names in index order, groups or empty)."""
    rows = [row for _, row in csv_rows(path)]
    columns = [name.strip() for name in rows[0]] if rows else []
    if "name" not in columns:
        raise UserError(f"{path}: column name is missing; there are: {one_line(', '.join(columns))[:200] or 'none'}")
    names = tuple(row[columns.index("name")] for row in rows[1:])
    groups = tuple(row[columns.index("group")] for row in rows[1:]) if "group" in columns else ()
    check_classes(path, names, groups)
    return names, groups if any(groups) else ()


def check_classes(path: Path, names: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a class list that is empty or ambiguous."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or "" in names:
        raise UserError(f"{path}: {'a class has no name' if names else 'the class list is empty'}")
    if twice:
        raise UserError(f"{path}: class {twice[0]!r} occurs twice")
    if any(groups) and not all(groups):
        raise UserError(f"{path}: class {names[groups.index('')]!r} has no group, others have; give every class one")
    if groups and len(groups) != len(names):
        raise UserError(f"{path}: there are {len(names)} classes and {len(groups)} groups; give every class one")


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a manifest, from a Parquet file itself or else from beside it; empty if there are none."""
    where = path if path.suffix == ".parquet" else meta_file(path)
    text: bytes = b"{}"
    if path.suffix == ".parquet":
        with open_parquet(path) as file:
            text = (file.metadata.metadata or {}).get(METADATA_KEY.encode(), text)
    elif where.is_file():
        text = where.read_bytes()
    try:
        metadata = parse_json(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: the metadata are not a JSON object; write the manifest again, or delete it")
    for name in ("classes", "groups"):
        texts = metadata.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{where}: the metadata's {name} are not a list of texts; write the manifest again")
    return metadata


def write_beside(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write the metadata of a manifest that cannot hold it: the class list, and a file for the rest."""
    with (
        replacing(path.parent / "classes.csv") as unfinished,
        open(unfinished, "w", newline="", encoding="utf-8") as file,
    ):
        columns = {"name": metadata["classes"], "group": metadata["groups"]}
        columns = {name: cells for name, cells in columns.items() if cells}
        csv.writer(file).writerows([tuple(columns), *zip(*columns.values(), strict=True)])
    rest = {key: value for key, value in metadata.items() if key not in ("classes", "groups")}
    with replacing(meta_file(path)) as unfinished:
        unfinished.write_text(json.dumps(rest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def relative(path: str | os.PathLike[str], folder: Path) -> str:
    """A media path as a manifest in a folder names it: relative to it if it is inside, else the whole path."""
    full = os.path.abspath(path)
    inside = os.path.relpath(full, os.path.abspath(folder))
    return full if inside.startswith("..") else inside


def meta_file(path: Path) -> Path:
    """The file beside a manifest with its metadata."""
    return path.with_name(path.name + ".meta.json")
