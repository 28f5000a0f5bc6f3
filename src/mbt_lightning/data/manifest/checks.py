"""Checks of a manifest's rows, which also count and hash them: nonsense is refused with its file and line."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mbt_lightning.data.manifest.formats import COLUMNS, SECONDS, Rows, nonsense
from mbt_lightning.data.manifest.shared_table import STORED, stored_with
from mbt_lightning.errors import UserError, did_you_mean


class Check:
    """Takes batches of rows, refuses nonsense, and counts and hashes the rows.

    Args:
        classes: the class names that labels must have; empty: any.
        source: name of the class list in messages.
        extra: further columns that are stored.
    """

    def __init__(self, classes: Sequence[str], source: str, extra: Sequence[str] = ()):
        self.stored = stored_with(extra)
        self.index = {name: i for i, name in enumerate(classes)}
        self.closed, self.source = bool(classes), source
        self.counts: dict[str, dict[str, int]] = {}
        self.hashes: defaultdict[tuple[str, str], Any] = defaultdict(hashlib.sha256)
        self.ids: list[pa.Array] = []
        self.places: list[NDArray[np.int64]] = []
        self.where = ""

    def take(self, rows: Rows) -> dict[str, pa.RecordBatch]:
        """Check a batch; returns its usable rows by split, with the columns that are stored."""
        self.count(rows.batch)
        self.hash(rows.batch)
        usable = np.flatnonzero(pc.equal(rows.batch["status"], "ok").to_numpy(zero_copy_only=False))
        batch = rows.batch if len(usable) == len(rows.places) else rows.batch.take(pa.array(usable))
        check_cells(rows, batch, usable)
        self.ids.append(batch["clip_id"])
        self.places.append(rows.places[usable])
        self.where = rows.where

        cells = {name: batch[name] for name in self.stored.names} | {"labels": self.label_indices(rows, batch, usable)}
        cells["start_seconds"] = pc.fill_null(batch["start_seconds"], 0.0)
        stored = pa.RecordBatch.from_arrays(list(cells.values()), schema=self.stored)
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
        """Hash every column by itself, lengths apart from contents, so that the size of the batches does not matter."""
        for name in batch.schema.names:
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

    def digest(self, classes: Sequence[str], groups: Sequence[str], extra: bool = False) -> str:
        """Hash of all rows and a class list, with the further columns or without them."""
        names = None if extra else COLUMNS.names
        parts = [
            (*key, part.hexdigest()) for key, part in sorted(self.hashes.items()) if names is None or key[0] in names
        ]
        return hashlib.sha256(json.dumps([parts, classes, groups]).encode()).hexdigest()[:16]

    def label_indices(self, rows: Rows, batch: pa.RecordBatch, usable: NDArray[np.int64]) -> pa.ListArray:
        """The labels as indices of classes; without a class list every new label becomes one."""
        labels = pc.list_flatten(batch["labels"]).dictionary_encode()
        names = labels.dictionary.to_pylist()
        if not self.closed:
            for name in filter(None, names):
                self.index.setdefault(name, len(self.index))
        indices = np.array([self.index.get(name, -1) for name in names], dtype=np.int32)[labels.indices.to_numpy()]
        if len(unknown := np.flatnonzero(indices < 0)):
            row = usable[pc.list_parent_indices(batch["labels"])[int(unknown[0])].as_py()]
            label = labels[int(unknown[0])].as_py()
            reason = f"label {label!r} is not in {self.source}{did_you_mean(label, self.index)}"
            raise rows.error(row, reason if label else "a label is empty")
        return to_lists(indices, batch["labels"])

    def unique_ids(self) -> None:
        """Refuse a clip_id that occurs twice."""
        ids = pa.chunked_array(self.ids, pa.string())
        if pc.count_distinct(ids).as_py() == len(ids):
            return
        seen: dict[str, int] = {}
        for clip_id, place in zip(ids.to_pylist(), np.concatenate(self.places).tolist(), strict=True):
            if (first := seen.setdefault(clip_id, place)) != place:
                raise UserError(f"{self.where}{place}: clip_id {clip_id!r} is already used at {self.where}{first}")


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
    """Values in lists that are as long as those of `like`."""
    ends = np.cumsum(pc.list_value_length(like).to_numpy(), dtype=np.int32)
    return pa.ListArray.from_arrays(np.concatenate([np.zeros(1, np.int32), ends]), values)


def check_cells(rows: Rows, batch: pa.RecordBatch, usable: NDArray[np.int64]) -> None:
    """Refuse nonsense in cells; `batch` are the usable rows of `rows`."""

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


def text_of(cells: pa.Array) -> memoryview:
    """All texts of a column without nulls, one after the other."""
    if not len(cells):
        return memoryview(b"")
    _, offsets, content = cells.buffers()
    ends = np.frombuffer(offsets, np.int32)[[cells.offset, cells.offset + len(cells)]]
    return memoryview(content or b"")[ends[0] : ends[1]]
