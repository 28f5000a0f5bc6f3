"""The one table format that training reads: a CSV or JSON-lines file with a row a clip, and its list of classes.

Columns (others are ignored):

- `video`, `audio`: media files; relative paths are taken from `media_root`, by default the manifest's folder. An empty
  `audio` means the sound of the video file; an empty `video` a clip of sound only.
- `labels`: class names; in CSV separated by `|`, or a JSON list. May be empty in a multi-label task.
- `split`: `train`, `val`, `test`, or any name of your own.
- `clip_id` (optional): unique name; by default the media path.
- `start_seconds`, `end_seconds` (optional): the labelled segment in the media file's own time; empty: the whole file.
- `status` (optional): rows whose status is neither empty nor `ok` are left out, and counted.

The classes in index order stand in `classes.csv` beside the manifest: a column `name` and, if scores are wanted for
groups of classes too, a column `group`. Without that file the classes are the sorted labels of all rows.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mbt_lightning.data.records import Example
from mbt_lightning.errors import UserError


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been read and checked.

    Args:
        path: the file.
        splits: the examples of every split, in the order of the rows.
        classes: class names in index order.
        groups: one group name a class, or empty.
        left_out: rows that are not used, counted by status.
        digest: hash of the manifest and the class list (first 16 hex digits of SHA-256).
    """

    path: Path
    splits: dict[str, list[Example]]
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    left_out: dict[str, int]
    digest: str

    def split(self, name: str) -> list[Example]:
        """The examples of one split; refuses one that has none."""
        if not self.splits.get(name):
            known = ", ".join(f"{k} ({len(v)})" for k, v in self.splits.items()) or "none"
            raise UserError(f"{self.path}: split {name!r} has no clips; the manifest's splits are: {known}")
        return self.splits[name]


def read_manifest(
    path: str | Path, media_root: str | Path | None = None, classes: str | Path | None = None
) -> Manifest:
    """Read a manifest and its class list.

    Args:
        path: a `.csv` or `.jsonl` file.
        media_root: folder that relative media paths start from; default: the manifest's folder.
        classes: the class list; default: `classes.csv` beside the manifest, or else the labels that occur.

    Raises:
        UserError: a missing file, a missing column, or a row that makes no sense, by file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such manifest; give a .csv or .jsonl file, or `demo` for the embedded data")
    root = Path(media_root) if media_root else path.parent
    class_file = Path(classes) if classes else path.parent / "classes.csv"
    if classes and not class_file.is_file():
        raise UserError(f"{class_file}: no such class list; give a .csv file with a column `name`")
    names, groups = read_classes(class_file) if class_file.is_file() else ((), ())

    splits: dict[str, list[Example]] = {}
    left_out: Counter[str] = Counter()
    seen: dict[str, str] = {}
    known = set(names)
    check_text(path)
    for where, row in read_rows(path):
        status = row.get("status") or "ok"
        if status != "ok":
            left_out[status] += 1
            continue
        example = to_example(row, root, where)
        if example.clip_id in seen:
            raise UserError(f"{where}: clip_id {example.clip_id!r} stands at {seen[example.clip_id]} already")
        seen[example.clip_id] = where
        for label in example.labels:
            if names and label not in known:
                raise UserError(f"{where}: label {label!r} is not in {class_file}{nearest(label, names)}")
        splits.setdefault(row["split"], []).append(example)
    if not names:
        names = tuple(sorted({label for rows in splits.values() for e in rows for label in e.labels}))
    digest = hashlib.sha256(path.read_bytes() + "\n".join([*names, *groups]).encode()).hexdigest()[:16]
    return Manifest(path, splits, names, groups, dict(left_out), digest)


def read_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield (file:line, row) of a `.csv` or `.jsonl` table; labels are lists."""
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            check_columns(path, reader.fieldnames)
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(
                        f"{where}: the row does not have {len(reader.fieldnames or [])} columns as the header"
                    )
                yield where, row | {"labels": split_labels(row["labels"], where)}
    elif path.suffix == ".jsonl":
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{where}: not a JSON object: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{where}: not a JSON object, but {type(row).__name__}")
                check_columns(where, row)
                if not isinstance(row["labels"], list):
                    raise UserError(f"{where}: labels is {row['labels']!r}; write a list of class names")
                yield where, row | {"labels": [str(label) for label in row["labels"]]}
    else:
        raise UserError(f"{path}: a manifest ends in .csv or .jsonl, not {path.suffix!r}")


def check_text(path: Path) -> None:
    """Refuse a file in another encoding than UTF-8."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: {path.name}: not UTF-8 text; save it as UTF-8") from None


def check_columns(where: str | Path, columns) -> None:
    """Refuse a table without the columns that every manifest has."""
    missing = [name for name in ("labels", "split") if name not in columns]
    if missing or not {"video", "audio"} & set(columns):
        lacking = ", ".join(missing) or "video or audio"
        raise UserError(f"{where}: column {lacking} is missing; there are: {', '.join(columns) or 'none'}")


def split_labels(text: str, where: str) -> list[str]:
    """The labels of a CSV cell: names separated by `|`, or a JSON list."""
    if text.startswith("["):
        try:
            return [str(label) for label in json.loads(text)]
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: labels {text!r} begins like a JSON list, but is none: {error}") from None
    return [label.strip() for label in text.split("|") if label.strip()]


def to_example(row: dict, root: Path, where: str) -> Example:
    """Check one row and make an Example of it."""
    for name in ("video", "audio", "split", "status"):
        if not isinstance(row.get(name) or "", str):
            raise UserError(f"{where}: {name} is {row[name]!r}; write a text")
    video = str(root / row["video"]) if row.get("video") else None
    audio = str(root / row["audio"]) if row.get("audio") else video
    if audio is None:
        raise UserError(f"{where}: neither video nor audio names a file")
    if not row["split"]:
        raise UserError(f"{where}: split is empty; write train, val or test")
    start = to_seconds(row.get("start_seconds"), "start_seconds", where) or 0.0
    end = to_seconds(row.get("end_seconds"), "end_seconds", where)
    if end is not None and end <= start:
        raise UserError(f"{where}: end_seconds {end:g} is not after start_seconds {start:g}")
    clip_id = row.get("clip_id")
    if clip_id is None or clip_id == "":
        clip_id = row.get("video") or row.get("audio")
    return Example(str(clip_id), video, audio, start, end, tuple(row["labels"]))


def to_seconds(value, name: str, where: str) -> float | None:
    """A time of a row; None if the cell is empty."""
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"{where}: {name} is {value!r}; write seconds, 0 or more")
    return seconds


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
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names:
        raise UserError(f"{path}: the class list is empty")
    if twice:
        raise UserError(f"{path}: class {twice[0]!r} stands there twice")
    if any(groups) and not all(groups):
        raise UserError(f"{path}: class {names[groups.index('')]!r} has no group, others have; give every class one")
    return names, groups if any(groups) else ()


def nearest(name: str, known) -> str:
    """A hint at the most similar known name, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
