"""Any table of clips: a CSV file whose header names its columns.

A column's role is told by its name, see `ROLES`; of several names the first counts. Only `source` and `labels` must be
there. Columns of other names are given by `--variant source=NAME,labels=NAME,...`. Labels are separated by `|`, or a
JSON list; a source is an id or a path in the media folder; an empty time is the begin or the end of the source. Columns
may be separated by tabs or semicolons.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.datasets.base import ClipCollector, DataSet, Sources
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.rows import (
    SPLITS,
    BadRow,
    ClassList,
    first_line,
    read_header,
    read_names,
    show,
    stamp,
    to_cells,
    to_media_path,
    to_seconds,
    to_segment,
)
from mbt_lightning.errors import UserError

ROLES = {
    "clip": ("clip_id",),
    "source": ("source_id", "video", "youtube_id", "ytid", "video_id", "path", "file", "filename", "audio"),
    "start": ("start_seconds", "start", "time_start", "start_time"),
    "end": ("end_seconds", "end", "time_end", "end_time"),
    "labels": ("labels", "label", "class", "category"),
    "split": ("split", "subset"),
}
"""What a column is for, and the names that it is known by."""


class Table(DataSet):
    """Tables of the user's own."""

    name = "table"
    help = "any CSV file with a header; columns source, labels, split, start, end (--variant source=NAME,labels=NAME)"

    def check_kind(self, path: Path) -> None:
        """Take any kind."""

    def check_variant(self, variant: str | None) -> str | None:
        """Refuse what names no columns."""
        columns_named(variant)
        return variant

    def read(self, sources: Sources) -> Parsed:
        """Read tables, each by its own header."""
        known = read_names(sources.labels[0]) if sources.labels else None
        gathered = ClipCollector()
        for path in sources.annotations:
            delimiter = find_delimiter(path)
            header = read_header(path, delimiter=delimiter)
            columns = find_columns(path, header, columns_named(sources.variant))
            split = None if "split" in columns else sources.split_of(path)
            gathered.read(path, rows_of(columns, len(header), delimiter, split, known), skip=1)
            gathered.notes.append(f"{path}: {', '.join(f'{k} is {header[n]}' for k, n in columns.items())}")
        parsed = gathered.done(known.names if known else None)
        bare = sum(not clip.labels for clip in parsed.clips)
        if bare:
            parsed.notes.append(f"{bare} clips have no labels; only a task of several labels can train on them")
        return parsed


def find_delimiter(path: Path) -> str:
    """What separates the columns: a tab or a semicolon where the header has no comma."""
    line = first_line(path)
    return next((mark for mark in ",\t;" if mark in line), ",")


def columns_named(variant: str | None) -> dict[str, str]:
    """Roles and the columns that `source=NAME,labels=NAME` names."""
    named = {}
    for part in variant.split(",") if variant else ():
        role, equals, column = part.partition("=")
        if role.strip() not in ROLES or not equals or not column.strip():
            raise UserError(f"table: no variant {show(part)}; write ROLE=COLUMN, with ROLE one of: {', '.join(ROLES)}")
        named[role.strip()] = column.strip()
    return named


def find_columns(path: Path, header: list[str], named: dict[str, str]) -> dict[str, int]:
    """The place of the column of each role."""
    columns = {}
    for role, names in ROLES.items():
        wanted = (named[role],) if role in named else names
        found = next((name for name in wanted if name in header), None)
        if found is not None:
            columns[role] = header.index(found)
        elif role in named or role in ("source", "labels"):
            raise UserError(
                f"{path}: column {' or '.join(wanted)} is missing; there are: {show(', '.join(header))}; "
                f"name it by --variant {role}=NAME"
            )
    return columns


def rows_of(
    columns: dict[str, int], width: int, delimiter: str, split: str | None, known: ClassList | None
) -> Callable[[str, str], OfficialClip]:
    """How a table's lines are read."""

    def to_clip(line: str, where: str) -> OfficialClip:
        cells = to_cells(line, width, delimiter)
        row = {role: cells[place] for role, place in columns.items()}
        source = to_source(row["source"])
        start, end = to_times(row.get("start", ""), row.get("end", ""))
        labels = to_labels(row["labels"])
        if known:
            labels = tuple(known.check(label) for label in labels)
        name = source if start is None else f"{source}_{stamp(start)}_{'end' if end is None else stamp(end)}"
        told = split or row["split"]
        if not told:
            raise BadRow("the split is empty")
        return OfficialClip(row.get("clip") or name, source, start, end, labels, SPLITS.get(told.lower(), told), where)

    return to_clip


def to_source(text: str) -> str:
    """An id as it is; a path without its suffix, if it stays inside the media folder."""
    if not text:
        raise BadRow("the source is empty")
    is_path = "/" in text or "\\" in text or text[text.rfind(".") :].lower() in MEDIA_SUFFIXES
    return to_media_path(text) if is_path else text


def to_times(start: str, end: str) -> tuple[float | None, float | None]:
    """Begin and end; both None: the whole source."""
    if start and end:
        return to_segment(start, end)
    if end:
        return to_segment("0", end)
    return (to_seconds(start), None) if start else (None, None)


@lru_cache(maxsize=1 << 16)
def to_labels(text: str) -> tuple[str, ...]:
    """Names separated by `|`, or a JSON list of them."""
    if text.startswith("["):
        try:
            names = json.loads(text)
        except (json.JSONDecodeError, RecursionError):
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise BadRow(f"labels {show(text)} begin like a JSON list of names, but are none")
    else:
        names = text.split("|") if text else []
    labels = tuple(name.strip() for name in names)
    if not all(labels) or len(set(labels)) < len(labels):
        raise BadRow(f"labels {show(text)} have an empty one, or one twice")
    return labels
