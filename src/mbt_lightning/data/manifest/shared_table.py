"""The usable rows of a manifest in memory that all processes share, and Examples made of them one by one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from numpy.typing import NDArray

from mbt_lightning.data.manifest.formats import BATCH_ROWS, COLUMNS, to_list
from mbt_lightning.data.records import Example
from mbt_lightning.disk import cache_folder, mark_used, replacing
from mbt_lightning.errors import UserError

SHARED_BYTES = 16 * 2**20
"""Tables larger than this are memory-mapped; smaller ones each process may have for itself."""

RESIDENT_ROWS = 100
"""After so many rows a process releases the pages that it has read: each may have brought in half a megabyte."""

STORED = pa.schema([COLUMNS.field(n) for n in ("clip_id", "video", "audio", "start_seconds", "end_seconds")]).append(
    pa.field("labels", pa.list_(pa.int32()))
)
"""What an Example is made of: the labels are indices of classes."""


def stored_with(extra: Sequence[str]) -> pa.Schema:
    """`STORED` and further columns of texts."""
    return pa.schema([*STORED, *(pa.field(name, pa.string()) for name in extra if name not in STORED.names)])


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
            self.table.release_pages()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"<{len(self)} clips>"

    def example(
        self,
        clip_id: str,
        video: str | None,
        audio: str | None,
        start: float,
        end: float | None,
        labels: list[int],
        *cells: str | None,
    ) -> Example:
        """An Example of the cells of a row."""
        video = os.path.join(self.root, video) if video else None
        audio = os.path.join(self.root, audio) if audio else video
        extra = dict(zip(self.table.extra, cells, strict=True))
        return Example(
            clip_id, video, audio, start, end, tuple(self.classes[label] for label in labels), extra, self.root
        )

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

    def unique_label_sets(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Every combination of labels that occurs, once, with the place of its first clip."""
        labels = self.part(0, len(self))["labels"]
        ends = np.cumsum(pc.list_value_length(labels).to_numpy(), dtype=np.int64)
        indices = pc.list_flatten(labels).to_numpy().astype(np.int32, copy=False)
        # The bytes of a clip's indices are a key that Arrow can look for; it numbers the keys as they first occur.
        offsets = pa.py_buffer(np.concatenate([np.zeros(1, np.int64), ends * indices.itemsize]))
        keys = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(self), [None, offsets, pa.py_buffer(np.ascontiguousarray(indices))]
        ).dictionary_encode()
        firsts = np.flatnonzero(np.diff(np.maximum.accumulate(keys.indices.to_numpy()), prepend=-1))
        for place, key in zip(firsts.tolist(), keys.dictionary.to_pylist(), strict=True):
            yield place, tuple(map(self.classes.__getitem__, memoryview(key).cast("i")))


class SharedTable:
    """A table that costs further processes no memory: if it is large, it is mapped from a file.

    Args:
        table: the table itself; it is sent to other processes as it is.
        path: the file that it is mapped from; other processes get only its name.
        mapped: that file in memory.
    """

    def __init__(self, table: pa.Table, path: Path | None = None, mapped: mmap.mmap | None = None):
        self.table, self.path, self.mapped = table, path, mapped
        self.columns, self.extra = table.columns, table.column_names[len(STORED) :]
        self.read = 0

    def __reduce__(self):
        return (SharedTable, (self.table,)) if self.path is None else (open_table, (self.path,))

    def row(self, number: int) -> list:
        """The cells of a row."""
        self.read += 1
        if self.read % RESIDENT_ROWS == 0:
            self.release_pages()
        return [column[number].as_py() for column in self.columns]

    def release_pages(self) -> None:
        """Have the pages that were read count as the system's, which keeps them for all, not as this process's."""
        if self.mapped and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def open_table(path: Path) -> SharedTable:
    """Map a table into memory."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return SharedTable(pa.ipc.open_file(pa.py_buffer(mapped)).read_all(), path, mapped)


def share(batches: list[pa.RecordBatch], schema: pa.Schema, digest: str) -> SharedTable:
    """Put a large table into a file in `$MBT_CACHE` (default `~/.cache/mbt-lightning`), named by its content.

    The processes of a run, and later runs, find it there.

    Raises:
        UserError: the file cannot be written.
    """
    table = pa.Table.from_batches(batches, schema)
    if table.nbytes <= SHARED_BYTES:
        return SharedTable(table)
    folder = cache_folder("tables")
    path = folder / f"v1-{digest}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                with replacing(path) as unfinished, pa.ipc.new_file(str(unfinished), schema) as file:
                    file.write_table(table, max_chunksize=BATCH_ROWS)
        mark_used(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a folder with room for the table by MBT_CACHE") from None
    return open_table(path)
