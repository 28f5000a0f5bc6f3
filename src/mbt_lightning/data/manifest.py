"""The one table format that training reads: a Parquet, JSON-lines or CSV file with a row a clip, and its classes.

Columns (others are ignored):

- `clip_id` (optional): unique name; by default the media path.
- `source_id`, `segment_start_seconds`, `segment_end_seconds` (optional): the official segment on the time line of the
  video that it was cut from; empty: all of it.
- `video`, `audio`: media files; relative paths are taken from `media_root`, by default the manifest's folder. An empty
  `audio` means the sound of the video file; an empty `video` a clip of sound only.
- `start_seconds`, `end_seconds` (optional): the labelled segment in the media file's own time; empty: the whole file.
- `labels`: class names; in CSV separated by `|`, or a JSON list. May be empty in a multi-label task.
- `split`: `train`, `val`, `test`, or any name of your own.
- `status` (optional): rows whose status is neither empty nor `ok` are left out, and counted.
- `annotation` (optional): file:line that the row comes from.

The classes in index order stand in a Parquet file's own metadata, or in `classes.csv` beside the manifest: a column
`name` and, if scores are wanted for groups of classes too, a column `group`. Without either the classes are the sorted
labels of all rows.

A table goes through here in batches of columns, so that two million rows cost seconds and little memory; what training
needs of a large one ends in a memory-mapped file that all processes share.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import logging
import math
import mmap
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from mbt_lightning.data.records import Example
from mbt_lightning.errors import UserError

log = logging.getLogger(__name__)

BATCH_ROWS = 16_384
"""So many rows are read or written at a time."""

SHARED_BYTES = 16 * 2**20
"""Tables larger than this are memory-mapped; smaller ones each process may have for itself."""

RESIDENT_ROWS = 100
"""After so many rows a process lets go of the pages that it has read: each may have brought in half a megabyte."""

KEPT_SECONDS = 30 * 86_400
"""Memory-mapped tables that no run has opened for so long are deleted."""


class ManifestRow(NamedTuple):
    """One row of a manifest that is to be written; the columns in their order.

    Args:
        clip_id: unique name of the clip.
        source_id: the video that it was cut from.
        segment_start_seconds: begin of the official segment on the source's time line; None: its begin.
        segment_end_seconds: end of it; None: the source's end.
        video: media file with the pictures, or None.
        audio: media file with the sound if that is another one, or None.
        start_seconds: begin of the same segment in the media file's own time; None: its begin.
        end_seconds: end of it; None: the file's end.
        labels: class names.
        split: train, val, test or a name of your own.
        status: ok, or why training cannot use the clip.
        annotation: file:line of the official row.
    """

    clip_id: str | None
    source_id: str | None
    segment_start_seconds: float | None
    segment_end_seconds: float | None
    video: str | None
    audio: str | None
    start_seconds: float | None
    end_seconds: float | None
    labels: Sequence[str]
    split: str
    status: str = "ok"
    annotation: str | None = None


def column_type(name: str) -> pa.DataType:
    """What a column holds: text, seconds, or the list of labels."""
    if name == "labels":
        return pa.list_(pa.string())
    return pa.float64() if name.endswith("_seconds") else pa.string()


COLUMNS = pa.schema([(name, column_type(name)) for name in ManifestRow._fields])
SECONDS = tuple(name for name in COLUMNS.names if name.endswith("_seconds"))
NUMBERS_TOO = ("clip_id", "source_id", "annotation", "label")
"""Texts for which a number is taken as its digits."""

METADATA_KEY = "mbt_lightning"
"""Where a Parquet file's own metadata holds ours, as JSON."""


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
        metadata: what `write_manifest` noted down about the table: data set, variant, options; or empty.
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
        """Rows that are not used, counted by status."""
        total: Counter[str] = Counter()
        for by_status in self.counts.values():
            total.update({status: rows for status, rows in by_status.items() if status != "ok"})
        return dict(total)

    @property
    def coverage(self) -> dict[str, tuple[int, int]]:
        """Of every split the clips that are used, and all official ones."""
        splits = {split: by_status for split, by_status in self.counts.items() if split}
        return {split: (by_status.get("ok", 0), sum(by_status.values())) for split, by_status in splits.items()}


def read_manifest(
    path: str | Path, media_root: str | Path | None = None, classes: str | Path | None = None
) -> Manifest:
    """Read a manifest and its class list.

    Args:
        path: a `.parquet`, `.jsonl` or `.csv` file.
        media_root: folder that relative media paths start from; default: the manifest's folder.
        classes: the class list; default: that of a Parquet file's metadata, or `classes.csv` beside the manifest, or
            else the labels that occur.

    Raises:
        UserError: a missing file, a missing column, or a row that makes no sense, by file and line.
    """
    path = Path(path)
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
    table, ranges, names, counts, digest = read_table(path, names, groups, source)
    pa.default_memory_pool().release_unused()
    if metadata.get("hash", digest) != digest and not classes:
        log.warning("%s: rows or classes have changed since it was written; its hash is now %s", path, digest)
    root = str(media_root or path.parent)
    splits = {split: Clips(table, rows, names, root) for split, rows in ranges.items()}
    return Manifest(path, splits, names, groups, counts, digest, metadata)


def read_table(
    path: Path, classes: tuple[str, ...], groups: tuple[str, ...], source: str
) -> tuple[SharedTable, dict[str, range], tuple[str, ...], dict[str, dict[str, int]], str]:
    """Read and check all rows.

    Args:
        path: the manifest.
        classes: class names in index order; empty: the labels that occur.
        groups: of the classes; they enter the hash.
        source: what the class list is called in messages.

    Returns:
        The usable rows, one split behind the other; where each split lies; the classes; counts of all rows by split and
        status; their hash.
    """
    check = Check(classes, source)
    parts: dict[str, list[pa.RecordBatch]] = {}
    for rows in READERS[path.suffix](path):
        for split, part in check.take(rows).items():
            parts.setdefault(split, []).append(part)
    check.unique_ids()
    if not classes:
        classes, parts = sort_classes(check.index, parts)
    ends = np.cumsum([0, *(sum(part.num_rows for part in of_split) for of_split in parts.values())]).tolist()
    ranges = {split: range(*pair) for split, pair in zip(parts, pairwise(ends), strict=True)}
    digest = check.digest(classes, groups)
    table = share([part for of_split in parts.values() for part in of_split], digest)
    return table, ranges, classes, check.counts, digest


def write_manifest(
    path: str | Path,
    rows: Iterable[ManifestRow],
    classes: Sequence[str],
    groups: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a manifest; the file appears when it is complete.

    Rows are taken in batches from any iterable, and are held to what `read_manifest` wants. A Parquet file carries its
    metadata; that of the others lies beside them, in `classes.csv` and `<manifest>.meta.json`.

    Args:
        path: the file; its suffix, `.parquet`, `.jsonl` or `.csv`, is its format.
        rows: the rows, unusable clips included.
        classes: class names in index order.
        groups: one group name a class, or empty.
        about: what else is known of the table, as plain data: `dataset`, `variant`, `options`.

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
        raise UserError(f"{class_file}: is another class list; write into a folder of its own, or delete it")
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


# Examples, made from the table as they are asked for -----------------------------------------------------------------


class Clips(Sequence[Example]):
    """The usable clips of a split: a view of the table that makes an `Example` of a row when it is asked for.

    Args:
        table: the rows of all splits.
        rows: which of them.
        classes: class names in index order.
        root: folder that relative media paths start from.
    """

    def __init__(self, table: SharedTable, rows: range, classes: tuple[str, ...], root: str):
        self.table, self.rows, self.classes, self.root = table, rows, classes, root

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Clips: ...
    def __getitem__(self, index: int | slice) -> Example | Clips:
        """One example, or a view of some."""
        rows = self.rows[index]
        if isinstance(rows, range):
            return Clips(self.table, rows, self.classes, self.root)
        return self.example(*self.table.row(rows))

    def __iter__(self) -> Iterator[Example]:
        for start in range(0, len(self), BATCH_ROWS):
            for row in zip(*map(to_list, self.part(start, BATCH_ROWS).columns), strict=True):
                yield self.example(*row)
            self.table.forget()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} clips>"

    def example(
        self, clip_id: str, video: str | None, audio: str | None, start: float, end: float | None, labels: list[int]
    ) -> Example:
        """An Example of the cells of a row."""
        video = os.path.join(self.root, video) if video else None
        audio = os.path.join(self.root, audio) if audio else video
        return Example(clip_id, video, audio, start, end, tuple(self.classes[label] for label in labels))

    def part(self, start: int, length: int) -> pa.Table:
        """Some rows of the view as a table."""
        rows = self.rows[start : start + length]
        if rows.step == 1:
            return self.table.table.slice(rows.start, len(rows))
        return self.table.table.take(pa.array(rows, pa.int64()))

    def labelled(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every label of every clip: the clip's place in the split, and the class's index, (L,) each."""
        labels = self.part(0, len(self))["labels"]
        lengths = pc.list_value_length(labels).to_numpy()
        clips = np.repeat(np.arange(len(self), dtype=np.int64), lengths)
        return clips, pc.list_flatten(labels).to_numpy().astype(np.int64)


STORED = pa.schema([COLUMNS.field(n) for n in ("clip_id", "video", "audio", "start_seconds", "end_seconds")]).append(
    pa.field("labels", pa.list_(pa.int32()))
)
"""What an Example is made of: the labels are indices of classes."""


class SharedTable:
    """A table that costs a further process nothing: it is mapped into memory from a file, if it is large.

    Args:
        table: the table itself; it travels to other processes as it is.
        path: the file that it is mapped from; another process gets this name only.
        mapped: that file in memory.
    """

    def __init__(self, table: pa.Table, path: Path | None = None, mapped: mmap.mmap | None = None):
        self.table, self.path, self.mapped = table, path, mapped
        self.columns = table.columns
        self.read = 0

    def __reduce__(self):
        return (SharedTable, (self.table,)) if self.path is None else (open_table, (self.path,))

    def row(self, number: int) -> list:
        """The cells of a row."""
        self.read += 1
        if self.read % RESIDENT_ROWS == 0:
            self.forget()
        return [column[number].as_py() for column in self.columns]

    def forget(self) -> None:
        """Let the pages that were read count as the system's, which keeps them for all, and not as this process's."""
        if self.mapped and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def open_table(path: Path) -> SharedTable:
    """Map a table into memory."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return SharedTable(pa.ipc.open_file(pa.py_buffer(mapped)).read_all(), path, mapped)


def share(batches: list[pa.RecordBatch], digest: str) -> SharedTable:
    """Put a large table into a file in `$MBT_CACHE` (default `~/.cache/mbt-lightning`), named by its content.

    The processes of a run, and later runs, find it there.

    Raises:
        UserError: the file cannot be written.
    """
    table = pa.Table.from_batches(batches, STORED)
    if table.nbytes <= SHARED_BYTES:
        return SharedTable(table)
    folder = Path(os.environ.get("MBT_CACHE") or Path.home() / ".cache" / "mbt-lightning").expanduser() / "tables"
    path = folder / f"v1-{digest}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                with replacing(path) as unfinished, pa.ipc.new_file(str(unfinished), STORED) as file:
                    file.write_table(table, max_chunksize=BATCH_ROWS)
        os.utime(path)
        for old in folder.iterdir():
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a folder with room for the table by MBT_CACHE") from None
    return open_table(path)


# Checks --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """A batch of rows on its way in or out.

    Args:
        batch: the rows, with the types of `COLUMNS`, empty cells null (see `tidy`).
        places: line or number of each row.
        where: how a place is told: what stands before its number, e.g. `m.csv:`.
        given: the cells as they were given, by column, for messages.
    """

    batch: pa.RecordBatch
    places: NDArray[np.int64]
    where: str
    given: Mapping[str, Any]

    def error(self, row: int, reason: str) -> UserError:
        """What is wrong with a row."""
        return UserError(f"{self.where}{self.places[row]}: {reason}")

    def cell(self, name: str, row: int) -> str:
        """A cell as it was given."""
        value = self.given[name][row]
        return repr(value.as_py() if isinstance(value, pa.Scalar) else value)


class Check:
    """Takes batches of rows, refuses what makes no sense, and counts and hashes what there is.

    Args:
        classes: the class names that labels must have; empty: any.
        source: what the class list is called in messages.
    """

    def __init__(self, classes: Sequence[str], source: str):
        self.index = {name: i for i, name in enumerate(classes)}
        self.closed, self.source = bool(classes), source
        self.counts: dict[str, dict[str, int]] = {}
        self.hashes: defaultdict[tuple[str, str], Any] = defaultdict(hashlib.sha256)
        self.ids: list[pa.Array] = []
        self.places: list[NDArray[np.int64]] = []
        self.where = ""

    def take(self, rows: Rows) -> dict[str, pa.RecordBatch]:
        """Check a batch; returns its usable rows by split, with the columns of `STORED`."""
        self.count(rows.batch)
        self.hash(rows.batch)
        usable = np.flatnonzero(pc.equal(rows.batch["status"], "ok").to_numpy(zero_copy_only=False))
        batch = rows.batch if len(usable) == len(rows.places) else rows.batch.take(pa.array(usable))
        check_cells(rows, batch, usable)
        self.ids.append(batch["clip_id"])
        self.places.append(rows.places[usable])
        self.where = rows.where

        cells = {name: batch[name] for name in STORED.names} | {"labels": self.label_indices(rows, batch, usable)}
        cells["start_seconds"] = pc.fill_null(batch["start_seconds"], 0.0)
        stored = pa.RecordBatch.from_arrays(list(cells.values()), schema=STORED)
        splits = pc.unique(batch["split"]).to_pylist()
        if len(splits) == 1:
            return {splits[0]: stored}
        return {split: stored.filter(pc.equal(batch["split"], split)) for split in splits}

    def count(self, batch: pa.RecordBatch) -> None:
        """Count rows by split and status."""
        pairs = pa.table({name: batch[name] for name in ("split", "status")}).group_by(["split", "status"])
        for row in pairs.aggregate([([], "count_all")]).to_pylist():
            by_status = self.counts.setdefault(row["split"] or "", {})
            by_status[row["status"]] = by_status.get(row["status"], 0) + row["count_all"]

    def hash(self, batch: pa.RecordBatch) -> None:
        """Hash every column by itself, lengths apart from contents: it does not matter how rows come in batches."""
        for name in COLUMNS.names:
            cells = batch[name]
            if pa.types.is_list(cells.type):
                self.hashes[name, "lists"].update(pc.fill_null(pc.list_value_length(cells), 0).to_numpy().tobytes())
                cells = pc.list_flatten(cells)
            if pa.types.is_floating(cells.type):
                self.hashes[name, "numbers"].update((pc.fill_null(cells, -1.0).to_numpy() + 0.0).tobytes())  # no -0.0
            else:
                cells = pc.fill_null(cells, "")
                self.hashes[name, "lengths"].update(pc.binary_length(cells).to_numpy().tobytes())
                self.hashes[name, "texts"].update(text_of(cells))

    def digest(self, classes: Sequence[str], groups: Sequence[str]) -> str:
        """Hash of all rows and a class list."""
        parts = [(*key, part.hexdigest()) for key, part in sorted(self.hashes.items())]
        return hashlib.sha256(json.dumps([parts, classes, groups]).encode()).hexdigest()[:16]

    def label_indices(self, rows: Rows, batch: pa.RecordBatch, usable: NDArray[np.int64]) -> pa.ListArray:
        """The labels as indices of classes; without a class list every new label becomes one."""
        labels = pc.list_flatten(batch["labels"]).dictionary_encode()
        names = labels.dictionary.to_pylist()
        if not self.closed:
            for name in names:
                self.index.setdefault(name, len(self.index))
        indices = np.array([self.index.get(name, -1) for name in names], dtype=np.int32)[labels.indices.to_numpy()]
        if len(unknown := np.flatnonzero(indices < 0)):
            row = usable[pc.list_parent_indices(batch["labels"])[int(unknown[0])].as_py()]
            label = labels[int(unknown[0])].as_py()
            raise rows.error(row, f"label {label!r} is not in {self.source}{nearest(label, self.index)}")
        return to_lists(indices, batch["labels"])

    def unique_ids(self) -> None:
        """Refuse a clip_id that stands there twice."""
        ids = pa.chunked_array(self.ids, pa.string())
        if pc.count_distinct(ids).as_py() == len(ids):
            return
        seen: dict[str, int] = {}
        for clip_id, place in zip(ids.to_pylist(), np.concatenate(self.places).tolist(), strict=True):
            if (first := seen.setdefault(clip_id, place)) != place:
                raise UserError(f"{self.where}{place}: clip_id {clip_id!r} stands at {self.where}{first} already")


def sort_classes(
    index: Mapping[str, int], parts: Mapping[str, list[pa.RecordBatch]]
) -> tuple[tuple[str, ...], dict[str, list[pa.RecordBatch]]]:
    """The classes that occurred in the order of their names, and the rows with their labels as indices of these."""
    names = tuple(sorted(index))
    place = np.zeros(len(names), np.int32)
    place[[index[name] for name in names]] = np.arange(len(names))

    def sort(batch: pa.RecordBatch) -> pa.RecordBatch:
        labels = place[pc.list_flatten(batch["labels"]).to_numpy()]
        return batch.set_column(len(STORED) - 1, STORED.field("labels"), to_lists(labels, batch["labels"]))

    return names, {split: [sort(batch) for batch in of_split] for split, of_split in parts.items()}


def to_lists(values: NDArray, like: pa.ListArray) -> pa.ListArray:
    """Values in lists that are as long as others."""
    ends = np.cumsum(pc.list_value_length(like).to_numpy(), dtype=np.int32)
    return pa.ListArray.from_arrays(np.concatenate([np.zeros(1, np.int32), ends]), values)


def check_cells(rows: Rows, batch: pa.RecordBatch, usable: NDArray[np.int64]) -> None:
    """Refuse cells that make no sense; `batch` are the usable rows of `rows`."""

    def first(wrong: pa.Array) -> int | None:
        index = pc.index(wrong, True).as_py()
        return None if index < 0 else index

    for name in SECONDS:
        if (i := first(nonsense(batch[name]))) is not None:
            raise rows.error(usable[i], f"{name} is {rows.cell(name, usable[i])}; write seconds, 0 or more")
    if (i := first(pc.and_(pc.is_null(batch["video"]), pc.is_null(batch["audio"])))) is not None:
        raise rows.error(usable[i], "neither video nor audio names a file")
    if (i := first(pc.is_null(batch["split"]))) is not None:
        raise rows.error(usable[i], "split is empty; write train, val or test")
    for start, end in (SECONDS[:2], SECONDS[2:]):
        starts, ends = pc.fill_null(batch[start], 0.0), batch[end]
        if (i := first(pc.less_equal(ends, starts))) is not None:
            raise rows.error(usable[i], f"{end} {ends[i].as_py():g} is not after {start} {starts[i].as_py():g}")
    if (i := first(pc.is_null(batch["labels"]))) is not None:
        raise rows.error(usable[i], "labels is None; write a list of class names")
    if (i := first(pc.is_null(pc.list_flatten(batch["labels"])))) is not None:
        row = usable[pc.list_parent_indices(batch["labels"])[i].as_py()]
        raise rows.error(row, f"labels is {rows.cell('labels', row)}; write a list of class names")


def nonsense(seconds: pa.Array) -> pa.Array:
    """Which times are no finite numbers from 0 on; null where there is no time."""
    return pc.invert(pc.and_(pc.greater_equal(seconds, 0.0), pc.less(seconds, math.inf)))


def tidy(columns: Mapping[str, pa.Array], count: int) -> pa.RecordBatch:
    """Columns with the types of `COLUMNS` as a batch: nothing missing, empty cells null, the defaults filled in."""
    tidied = {
        name: columns.get(name, pa.nulls(count, kind)) for name, kind in zip(COLUMNS.names, COLUMNS.types, strict=True)
    }
    for name, cells in tidied.items():
        if cells.type == pa.string() and pc.any(pc.equal(cells, "")).as_py():
            tidied[name] = pc.if_else(pc.equal(cells, ""), None, cells)
    tidied["status"] = pc.fill_null(tidied["status"], "ok")
    tidied["clip_id"] = pc.coalesce(tidied["clip_id"], tidied["video"], tidied["audio"])
    unusable = pc.not_equal(tidied["status"], "ok")
    for name in SECONDS:  # whatever stands in a row that is not used
        tidied[name] = pc.if_else(pc.and_(unusable, nonsense(tidied[name])), None, tidied[name])
    return pa.RecordBatch.from_arrays([tidied[name] for name in COLUMNS.names], schema=COLUMNS)


def to_list(cells: pa.Array | pa.ChunkedArray) -> list:
    """A column as Python values, several times faster than its own `to_pylist`; a missing list is []."""
    if pa.types.is_list(cells.type):
        values = to_list(pc.list_flatten(cells))
        ends = np.cumsum(pc.fill_null(pc.list_value_length(cells), 0).to_numpy()).tolist()
        return [values[start:end] for start, end in pairwise([0, *ends])]
    if pa.types.is_floating(cells.type) and cells.null_count:
        return [None if value < 0 else value for value in pc.fill_null(cells, -1.0).to_numpy().tolist()]
    kwargs = {} if isinstance(cells, pa.ChunkedArray) else {"zero_copy_only": False}
    return cells.to_numpy(**kwargs).tolist()


def text_of(cells: pa.Array) -> memoryview:
    """All texts of a column without nulls, one behind the other."""
    if not len(cells):
        return memoryview(b"")
    _, offsets, content = cells.buffers()
    ends = np.frombuffer(offsets, np.int32)[[cells.offset, cells.offset + len(cells)]]
    return memoryview(content or b"")[ends[0] : ends[1]]


# Formats -------------------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> Iterator[Rows]:
    """The rows of a CSV file with a header."""
    check_text(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        check_columns(path, header)
        twice = [name for name, count in Counter(header).items() if count > 1 and name in COLUMNS.names]
        if twice:
            raise UserError(f"{path}: column {twice[0]} stands there twice")
        lines = ((reader.line_num, row) for row in reader if row)
        while batch := list(islice(lines, BATCH_ROWS)):
            for line, row in batch:
                if len(row) != len(header):
                    raise UserError(f"{path}:{line}: the row does not have {len(header)} columns as the header")
            places, cells = zip(*batch, strict=True)
            given: dict[str, Sequence] = {n: c for n, c in zip(header, zip(*cells, strict=True), strict=True)}
            given["labels"] = [
                split_labels(text, f"{path}:{n}") for text, n in zip(given["labels"], places, strict=True)
            ]
            yield to_rows(given, places, f"{path}:")


def read_jsonl(path: Path) -> Iterator[Rows]:
    """The rows of a file with a JSON object a line."""
    check_text(path)
    with open(path, encoding="utf-8-sig") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
        while batch := list(islice(lines, BATCH_ROWS)):
            objects = []
            for number, line in batch:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not a JSON object: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: not a JSON object, but {type(row).__name__}")
                check_columns(f"{path}:{number}", row)
                if not isinstance(row["labels"], list):
                    raise UserError(f"{path}:{number}: labels is {row['labels']!r}; write a list of class names")
                objects.append(row)
            given = {name: [row.get(name) for row in objects] for name in COLUMNS.names}
            yield to_rows(given, [number for number, _ in batch], f"{path}:")


def read_parquet(path: Path) -> Iterator[Rows]:
    """The rows of a Parquet file."""
    with open_parquet(path) as file:
        schema = file.schema_arrow
        check_columns(path, schema.names)
        for name in [name for name in COLUMNS.names if name in schema.names]:
            if not fits(name, schema.field(name).type):
                wanted = "lists of texts" if name == "labels" else "numbers" if name in SECONDS else "texts"
                raise UserError(f"{path}: column {name} is of type {schema.field(name).type}; write {wanted}")
        names = [name for name in COLUMNS.names if name in schema.names]
        done = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            batch.validate(full=True)  # that text is UTF-8
            columns = {name: batch[name].cast(COLUMNS.field(name).type) for name in names}
            places = np.arange(done + 1, done + 1 + batch.num_rows)
            yield Rows(tidy(columns, batch.num_rows), places, f"{path}: row ", columns)
            done += batch.num_rows


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file; refuses what is none, or is damaged."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged: {str(error).splitlines()[0]}") from None


def fits(name: str, kind: pa.DataType) -> bool:
    """Whether a Parquet column can be read as what it should hold."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if pa.types.is_null(kind):
        return True
    if name == "labels":
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return nested and fits("clip_id", kind.value_type)
    return number if name in SECONDS else text or (name in NUMBERS_TOO and pa.types.is_integer(kind))


def to_rows(given: Mapping[str, Sequence], places: Sequence[int], where: str) -> Rows:
    """Columns of Python values as checked columns of Arrow."""
    columns = {}
    for name in given.keys() & set(COLUMNS.names):
        cells = given[name]
        if name in SECONDS:
            columns[name] = pa.array([to_seconds(value) for value in cells], pa.float64())
            continue
        try:
            if name == "labels" and str in set(map(type, cells)):
                raise TypeError("Arrow would take a text for a list of its letters")
            columns[name] = pa.array(cells, COLUMNS.field(name).type)
        except (pa.ArrowException, TypeError, ValueError):
            columns[name] = pa.array(
                [to_cell(name, value, f"{where}{n}") for value, n in zip(cells, places, strict=True)],
                COLUMNS.field(name).type,
            )
    return Rows(tidy(columns, len(places)), np.array(places, np.int64), where, given)


def to_cell(name: str, value: Any, where: str) -> Any:
    """One cell as text, or as a list of texts; refuses what is neither."""
    if name == "labels" and isinstance(value, list | tuple):
        return [to_cell("label", label, where) for label in value]
    if name in NUMBERS_TOO and isinstance(value, int | float):
        return str(value)
    if value is not None and (name == "labels" or not isinstance(value, str)):
        wanted = "a list of class names" if name == "labels" else "a text"
        raise UserError(f"{where}: {name} is {value!r}; write {wanted}")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {name} {value!r} holds half a character; mend it") from None
    return value


def to_seconds(value: Any) -> float | None:
    """A time; None if the cell is empty, not a number if it is none."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def split_labels(text: str, where: str) -> list:
    """The labels of a CSV cell: names separated by `|`, or a JSON list."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: labels {text!r} begins like a JSON list, but is none: {error}") from None
    return [label.strip() for label in text.split("|") if label.strip()]


def join_labels(labels: list[str]) -> str:
    """The CSV cell that `split_labels` reads back."""
    text = "|".join(labels)
    return text if not text.startswith("[") and split_labels(text, "") == labels else json.dumps(labels)


def written_rows(rows: Iterable[ManifestRow], path: Path) -> Iterator[Rows]:
    """Rows that are to be written, in batches."""
    rows, done = iter(rows), 0
    while batch := list(islice(rows, BATCH_ROWS)):
        given = dict(zip(COLUMNS.names, zip(*batch, strict=True), strict=True))
        yield to_rows(given, range(done + 1, done + 1 + len(batch)), f"{path}: row ")
        done += len(batch)


def write_csv(path: Path, batches: Iterable[pa.RecordBatch], metadata: Callable) -> None:
    """Write batches as a CSV file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS.names)
        for batch in batches:
            cells = {name: to_list(batch[name]) for name in COLUMNS.names}
            cells["labels"] = [join_labels(labels) for labels in cells["labels"]]
            writer.writerows(zip(*cells.values(), strict=True))


def write_jsonl(path: Path, batches: Iterable[pa.RecordBatch], metadata: Callable) -> None:
    """Write batches as a file with a JSON object a line."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with open(path, "w", encoding="utf-8") as file:
        for batch in batches:
            for row in zip(*map(to_list, batch.columns), strict=True):
                file.write(encode(dict(zip(COLUMNS.names, row, strict=True))) + "\n")


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], metadata: Callable[[], dict[str, Any]]) -> None:
    """Write batches as a Parquet file, and into it what is known of all of them in the end."""
    with pq.ParquetWriter(path, COLUMNS, compression="zstd") as file:
        for batch in batches:
            file.write_batch(batch)
        file.add_key_value_metadata({METADATA_KEY: json.dumps(metadata())})


READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".csv": read_csv}
WRITERS = {".parquet": write_parquet, ".jsonl": write_jsonl, ".csv": write_csv}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name to write a file by, which takes the place of another one when it is complete."""
    unfinished = path.with_name(path.name + ".new")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_suffix(path: Path) -> None:
    """Refuse a format that is not known."""
    if path.suffix not in READERS:
        raise UserError(f"{path}: a manifest ends in {', '.join(READERS)}, not {path.suffix!r}")


def check_text(path: Path) -> None:
    """Refuse a file in another encoding than UTF-8."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: {path.name}: not UTF-8 text; save it as UTF-8") from None


def check_columns(where: str | Path, columns: Collection[str]) -> None:
    """Refuse a table without the columns that every manifest has."""
    missing = [name for name in ("labels", "split") if name not in columns]
    if missing or not ("video" in columns or "audio" in columns):
        lacking = ", ".join(missing) or "video or audio"
        raise UserError(f"{where}: column {lacking} is missing; there are: {', '.join(columns) or 'none'}")


# Classes and metadata ------------------------------------------------------------------------------------------------


def read_classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a class list: (names in index order, groups or empty)."""
    check_text(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        if "name" not in columns:
            raise UserError(f"{path}: column name is missing; there are: {', '.join(columns) or 'none'}")
        rows = list(reader)
    names = tuple(row["name"] for row in rows)
    groups = tuple(row.get("group") or "" for row in rows)
    check_classes(path, names, groups)
    return names, groups if any(groups) else ()


def check_classes(path: Path, names: Sequence[str], groups: Sequence[str]) -> None:
    """Refuse a class list that is empty or ambiguous."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names:
        raise UserError(f"{path}: the class list is empty")
    if twice:
        raise UserError(f"{path}: class {twice[0]!r} stands there twice")
    if any(groups) and not all(groups):
        raise UserError(f"{path}: class {names[groups.index('')]!r} has no group, others have; give every class one")
    if groups and len(groups) != len(names):
        raise UserError(f"{path}: there are {len(names)} classes and {len(groups)} groups; give every class one")


def read_metadata(path: Path) -> dict[str, Any]:
    """What is noted down about a manifest, in a Parquet file itself or else beside it; empty if nothing is."""
    where = path if path.suffix == ".parquet" else meta_file(path)
    text: bytes = b"{}"
    if path.suffix == ".parquet":
        with open_parquet(path) as file:
            text = (file.metadata.metadata or {}).get(METADATA_KEY.encode(), text)
    elif where.is_file():
        text = where.read_bytes()
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise UserError(f"{where}: the metadata is no JSON object; write the manifest again, or delete it")
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


def meta_file(path: Path) -> Path:
    """The file beside a manifest that holds what is known of it."""
    return path.with_name(path.name + ".meta.json")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the most similar known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
