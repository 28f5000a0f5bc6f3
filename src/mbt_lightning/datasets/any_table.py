"""Any table of clips: a CSV file whose header names its columns.

The role of a column follows from its name, see `ROLES`; of several names the first one counts. Only `source` and
`labels` are required. `--variant source=NAME,labels=NAME,...` names columns that are called otherwise. Labels are
separated by `|`, or are a JSON list; a source is an id or a path in the media folder; an empty time is the start or the
end of the source. Columns may be separated by tabs or semicolons.
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
    AnyClasses,
    BadRow,
    ClassList,
    first_line,
    read_header,
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
"""The possible column names of each role."""


class Table(DataSet):
    """Any CSV table with a header."""

    name = "table"
    help = "any CSV file with a header; columns source, labels, split, start, end (--variant source=NAME,labels=NAME)"

    def check_kind(self, path: Path) -> None:
        """Accept files of any kind."""

    def check_variant(self, variant: str | None) -> str | None:
        columns_named(variant)
        return variant

    def read(self, sources: Sources) -> Parsed:
        known = sources.known_classes()
        collector = ClipCollector()
        for path in sources.annotations:
            delimiter = find_delimiter(path)
            header = read_header(path, delimiter=delimiter)
            columns = find_columns(path, header, columns_named(sources.variant))
            split = None if "split" in columns else sources.split_of(path)
            collector.read(path, rows_of(columns, len(header), delimiter, split, known), skip=1)
            collector.notes.append(f"{path}: {', '.join(f'{k} is {header[n]}' for k, n in columns.items())}")
        return collector.done(known.names)


def find_delimiter(path: Path) -> str:
    """The column separator: a tab or a semicolon if the header has no comma."""
    line = first_line(path)
    return next((mark for mark in ",\t;" if mark in line), ",")


def columns_named(variant: str | None) -> dict[str, str]:
    """The columns by role that a variant such as `source=NAME,labels=NAME` names."""
    named = {}
    for part in variant.split(",") if variant else ():
        role, equals, column = part.partition("=")
        if role.strip() not in ROLES or not equals or not column.strip():
            raise UserError(f"table: no variant {show(part)}; write ROLE=COLUMN, with ROLE one of: {', '.join(ROLES)}")
        named[role.strip()] = column.strip()
    return named


def find_columns(path: Path, header: list[str], named: dict[str, str]) -> dict[str, int]:
    """The index of each role's column."""
    columns = {}
    for role, names in ROLES.items():
        possible = (named[role],) if role in named else names
        found = next((name for name in possible if name in header), None)
        if found is not None:
            columns[role] = header.index(found)
        elif role in named or role in ("source", "labels"):
            raise UserError(
                f"{path}: column {' or '.join(possible)} is missing; there are: {show(', '.join(header))}; "
                f"name it by --variant {role}=NAME"
            )
    return columns


def rows_of(
    columns: dict[str, int], width: int, delimiter: str, split: str | None, known: ClassList | AnyClasses
) -> Callable[[str, str], OfficialClip]:
    """The function that turns a line of the table into a clip."""

    def to_clip(line: str, where: str) -> OfficialClip:
        cells = to_cells(line, width, delimiter)
        row = {role: cells[place] for role, place in columns.items()}
        source = to_source(row["source"])
        start, end = to_times(row.get("start", ""), row.get("end", ""))
        labels = tuple(map(known.check, to_labels(row["labels"])))
        name = source if start is None else f"{source}_{stamp(start)}_{'end' if end is None else stamp(end)}"
        own = split or row["split"]
        if not own:
            raise BadRow("the split is empty")
        return OfficialClip(row.get("clip") or name, source, start, end, labels, SPLITS.get(own.lower(), own), where)

    return to_clip


def to_source(text: str) -> str:
    """An id as it is; a path without its suffix, if it stays inside the media folder."""
    if not text:
        raise BadRow("the source is empty")
    is_path = "/" in text or "\\" in text or text[text.rfind(".") :].lower() in MEDIA_SUFFIXES
    return to_media_path(text) if is_path else text


def to_times(start: str, end: str) -> tuple[float | None, float | None]:
    """Start and end; both None: the whole source."""
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
            raise BadRow(f"labels {show(text)} start like a JSON list of names, but are not one")
    else:
        names = text.split("|") if text else []
    labels = tuple(name.strip() for name in names)
    if not all(labels) or len(set(labels)) < len(labels):
        raise BadRow(f"labels {show(text)} contain an empty or a repeated one")
    return labels
