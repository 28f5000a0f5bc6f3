"""Rows of a manifest from and to Parquet, JSON lines and CSV, in batches of columns with the types of `COLUMNS`."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mbt_lightning.errors import UserError, one_line

BATCH_ROWS = 16_384
"""Number of rows that are read or written at a time."""


class ManifestRow(NamedTuple):
    """One row of a manifest; the fields are the columns in their order.

    Args:
        clip_id: unique name of the clip.
        source_id: the video that it was cut from.
        segment_start_seconds: start of the official segment in the source; None: the source's start.
        segment_end_seconds: its end; None: the source's end.
        video: media file with the frames, or None.
        audio: media file with the audio if that is another one, or None.
        start_seconds: start of the same segment in the media file; None: the file's start.
        end_seconds: its end; None: the file's end.
        labels: class names.
        split: train, val, test or another name.
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
    if name == "labels":
        return pa.list_(pa.string())
    return pa.float64() if name.endswith("_seconds") else pa.string()


COLUMNS = pa.schema([(name, column_type(name)) for name in ManifestRow._fields])

SECONDS = tuple(name for name in COLUMNS.names if name.endswith("_seconds"))

TEXTS_ONLY = ("video", "audio", "split", "status")
"""Texts in whose place a number is refused; elsewhere it is read as its digits."""


def schema_with(extra: Sequence[str]) -> pa.Schema:
    """`COLUMNS` and further columns of texts."""
    return pa.schema([*COLUMNS, *(pa.field(name, pa.string()) for name in extra if name not in COLUMNS.names)])


METADATA_KEY = "mbt_lightning"
"""Key of our metadata, as JSON, in that of a Parquet file."""


@dataclass(frozen=True)
class Rows:
    """A batch of rows that is read or written.

    Args:
        batch: the rows, with the types of `schema_with`, empty cells null (see `tidy`).
        places: line or number of each row.
        where: text before that number in messages, e.g. `m.csv:`.
        given: the original cells, by column, for messages.
    """

    batch: pa.RecordBatch
    places: NDArray[np.int64]
    where: str
    given: Mapping[str, Any]

    def error(self, row: int, reason: str) -> UserError:
        return UserError(f"{self.where}{self.places[row]}: {reason}")

    def cell(self, name: str, row: int) -> str:
        value = self.given[name][row]
        return repr(value.as_py() if isinstance(value, pa.Scalar) else value)


def read_csv(path: Path, extra: Sequence[str] = ()) -> Iterator[Rows]:
    lines = csv_rows(path)
    header = [name.strip() for name in next(lines, (0, []))[1]]
    check_columns(path, header, extra)
    while batch := list(islice(lines, BATCH_ROWS)):
        places, cells = zip(*batch, strict=True)
        given: dict[str, Sequence] = {n: c for n, c in zip(header, zip(*cells, strict=True), strict=True)}
        given["labels"] = [split_labels(text, f"{path}:{n}") for text, n in zip(given["labels"], places, strict=True)]
        yield to_rows(given, places, f"{path}:", extra)


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of a CSV file including its header; refuses rows of another length and unmatched quotes."""
    check_text(path)
    with open(path, newline="", encoding="utf-8-sig") as file:
        # Strict: after a lost quote a row must not absorb the next one.
        reader, columns = csv.reader(file, strict=True), 0
        try:
            for row in filter(None, reader):
                columns = columns or len(row)
                if len(row) != columns:
                    raise UserError(f"{path}:{reader.line_num}: {len(row)} columns, but the header has {columns}")
                yield reader.line_num, row
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: {error}; check the quotes") from None


def read_jsonl(path: Path, extra: Sequence[str] = ()) -> Iterator[Rows]:
    check_text(path)
    with open(path, encoding="utf-8-sig") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
        while batch := list(islice(lines, BATCH_ROWS)):
            objects = []
            for number, line in batch:
                try:
                    row = parse_json(line)
                except ValueError as error:
                    raise UserError(f"{path}:{number}: not a JSON object: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}:{number}: not a JSON object, but {type(row).__name__}")
                check_columns(f"{path}:{number}", row, extra)
                if not isinstance(row["labels"], list):
                    raise UserError(f"{path}:{number}: labels is {row['labels']!r}; write a list of class names")
                objects.append(row)
            given = {name: [row.get(name) for row in objects] for name in schema_with(extra).names}
            yield to_rows(given, [number for number, _ in batch], f"{path}:", extra)


def read_parquet(path: Path, extra: Sequence[str] = ()) -> Iterator[Rows]:
    with open_parquet(path) as file:
        schema, wanted = file.schema_arrow, schema_with(extra)
        check_columns(path, schema.names, extra)
        names = [name for name in wanted.names if name in schema.names]
        for name in names:
            if not fits(name, schema.field(name).type):
                expected = "lists of texts" if name == "labels" else "numbers" if name in SECONDS else "texts"
                raise UserError(f"{path}: column {name} is of type {schema.field(name).type}; write {expected}")
        done = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            batch.validate(full=True)  # that text is UTF-8
            columns = {name: batch[name].cast(wanted.field(name).type) for name in names}
            places = np.arange(done + 1, done + 1 + batch.num_rows)
            yield Rows(tidy(columns, batch.num_rows, wanted), places, f"{path}: row ", columns)
            done += batch.num_rows


def parse_json(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged: {one_line(error)[:200]}") from None


def fits(name: str, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if pa.types.is_null(kind):
        return True
    if name == "labels":
        nested = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        return nested and fits("clip_id", kind.value_type)
    return number if name in SECONDS else text or (name not in TEXTS_ONLY and pa.types.is_integer(kind))


def to_rows(given: Mapping[str, Sequence], places: Sequence[int], where: str, extra: Sequence[str] = ()) -> Rows:
    """Columns of Python values as checked columns of Arrow."""
    columns, schema = {}, schema_with(extra)
    for name in given.keys() & set(schema.names):
        cells = given[name]
        if name in SECONDS:
            columns[name] = pa.array([to_seconds(value) for value in cells], pa.float64())
            continue
        try:
            if name == "labels" and str in set(map(type, cells)):
                raise TypeError("Arrow would take a text for a list of its letters")
            columns[name] = pa.array(cells, schema.field(name).type)
        except (pa.ArrowException, TypeError, ValueError):
            columns[name] = pa.array(
                [to_cell(name, value, f"{where}{n}") for value, n in zip(cells, places, strict=True)],
                schema.field(name).type,
            )
    return Rows(tidy(columns, len(places), schema), np.array(places, np.int64), where, given)


def tidy(columns: Mapping[str, pa.Array], count: int, schema: pa.Schema) -> pa.RecordBatch:
    """Columns as a batch of a schema: complete, empty cells null, defaults filled in."""
    tidied = {field.name: columns.get(field.name, pa.nulls(count, field.type)) for field in schema}
    for name, cells in tidied.items():
        if cells.type == pa.string() and pc.any(pc.equal(cells, "")).as_py():
            tidied[name] = pc.if_else(pc.equal(cells, ""), None, cells)
    tidied["status"] = pc.fill_null(tidied["status"], "ok")
    tidied["clip_id"] = pc.coalesce(tidied["clip_id"], tidied["video"], tidied["audio"])
    unusable = pc.not_equal(tidied["status"], "ok")
    for name in SECONDS:  # in unused rows anything may be there
        tidied[name] = pc.if_else(pc.and_(unusable, nonsense(tidied[name])), None, tidied[name])
    return pa.RecordBatch.from_arrays(list(tidied.values()), schema=schema)


def nonsense(seconds: pa.Array) -> pa.Array:
    """Which times are not finite numbers of 0 or more; null where there is no time."""
    return pc.invert(pc.and_(pc.greater_equal(seconds, 0.0), pc.less(seconds, math.inf)))


def to_cell(name: str, value: Any, where: str) -> Any:
    if name == "labels" and isinstance(value, list | tuple):
        return [to_cell("label", label, where) for label in value]
    if name not in (*TEXTS_ONLY, "labels") and isinstance(value, int | float):
        return str(value)
    if value is not None and (name == "labels" or not isinstance(value, str)):
        wanted = "a list of class names" if name == "labels" else "a text"
        raise UserError(f"{where}: {name} is {value!r}; write {wanted}")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {name} {value!r} contains half a character; correct it") from None
    return value


def to_seconds(value: Any) -> float | None:
    """A time; None if the cell is empty, NaN if it is invalid."""
    if value is None or value == "":
        return None
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def split_labels(text: str, where: str) -> list:
    if text.startswith("["):
        try:
            return parse_json(text)
        except ValueError as error:
            raise UserError(f"{where}: labels {text[:60]!r} starts like a JSON list, but is not one: {error}") from None
    return [label.strip() for label in text.split("|") if label.strip()]


def join_labels(labels: list[str]) -> str:
    text = "|".join(labels)
    return text if not text.startswith("[") and split_labels(text, "") == labels else json.dumps(labels)


def written_rows(rows: Iterable[ManifestRow], path: Path) -> Iterator[Rows]:
    rows, done = iter(rows), 0
    while batch := list(islice(rows, BATCH_ROWS)):
        given = dict(zip(COLUMNS.names, zip(*batch, strict=True), strict=True))
        yield to_rows(given, range(done + 1, done + 1 + len(batch)), f"{path}: row ")
        done += len(batch)


def write_csv(path: Path, batches: Iterable[pa.RecordBatch], metadata: Callable) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS.names)
        for batch in batches:
            cells = {name: to_list(batch[name]) for name in COLUMNS.names}
            cells["labels"] = [join_labels(labels) for labels in cells["labels"]]
            writer.writerows(zip(*cells.values(), strict=True))


def write_jsonl(path: Path, batches: Iterable[pa.RecordBatch], metadata: Callable) -> None:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with open(path, "w", encoding="utf-8") as file:
        for batch in batches:
            for row in zip(*map(to_list, batch.columns), strict=True):
                file.write(encode(dict(zip(COLUMNS.names, row, strict=True))) + "\n")


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], metadata: Callable[[], dict[str, Any]]) -> None:
    with pq.ParquetWriter(path, COLUMNS, compression="zstd") as file:
        for batch in batches:
            file.write_batch(batch)
        file.add_key_value_metadata({METADATA_KEY: json.dumps(metadata())})


READERS = {".parquet": read_parquet, ".jsonl": read_jsonl, ".csv": read_csv}

WRITERS = {".parquet": write_parquet, ".jsonl": write_jsonl, ".csv": write_csv}


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


def own_columns(path: Path) -> list[str]:
    """The columns of a manifest that are the user's own, which tools that write a new manifest do not copy."""
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
    else:
        with open(path, newline="", encoding="utf-8-sig") as file:
            line = file.readline()
        names = next(csv.reader([line]), []) if path.suffix == ".csv" else list(parse_json(line))
    return [name for name in names if name not in COLUMNS.names]


def warn_of_own_columns(path: Path) -> None:
    """Print which columns of a manifest a new one will not have."""
    if names := own_columns(path):
        print(f"warning: {path}: columns of your own are not copied: {', '.join(names)}; add them again by clip_id")


def check_suffix(path: Path) -> None:
    if path.suffix not in READERS:
        raise UserError(f"{path}: a manifest ends in {', '.join(READERS)}, not {path.suffix!r}")


def check_text(path: Path) -> None:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                raise UserError(f"{path}:{number}: {path.name}: not UTF-8 text; save it as UTF-8") from None


def check_columns(where: str | Path, columns: Collection[str], extra: Sequence[str] = ()) -> None:
    """Refuse a table that lacks a required column, or has one of ours twice."""
    missing = [name for name in ("labels", "split", *extra) if name not in columns]
    if missing or not ("video" in columns or "audio" in columns):
        lacking = ", ".join(missing) or "video or audio"
        there = one_line(", ".join(columns))[:200] or "none"
        raise UserError(f"{where}: column {lacking} is missing; there are: {there}")
    if len(columns) > len(set(columns)):
        twice = [name for name, count in Counter(columns).items() if count > 1 and name in COLUMNS.names]
        if twice:
            raise UserError(f"{where}: column {twice[0]} is there twice")
