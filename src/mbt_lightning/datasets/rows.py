"""Strict reading of annotation files: a row is read completely, or refused with a reason.

Text is UTF-8, with or without a byte-order mark, with the line ends of any system. A row is one line, so an unclosed
quote spoils only its own line. Every cell is text; cells that must be numbers are checked.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.errors import UserError, did_you_mean

SPLITS = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "valset", "validationset"), "val"),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation"), "test"),
}
"""Our names of the splits, by their names in columns and file names."""

OTHER_KINDS = {
    b"\x1f\x8b": "a gzip file; unpack it first",
    b"PK\x03\x04": "a zip file or a spreadsheet; unpack it, or save it as CSV",
    b"PAR1": "a Parquet file; save it as CSV",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"version https://git-lfs": "a git-lfs pointer, not the file itself; run `git lfs pull`",
    b"<!doctype": "a web page, not the file itself; download it again",
    b"<html": "a web page, not the file itself; download it again",
}

TIME = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
INTEGER = re.compile(r"[0-9]{1,12}")
YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
QUOTED = re.compile(r' *"([^"]*(?:""[^"]*)*)" *')


class BadRow(Exception):
    """The reason why a row is refused."""


def show(text: str) -> str:
    """A value for a message: quoted, and cut if it is long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


# Lines and cells --------------------------------------------------------------------------------------------------


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (file:line, line) of every line that is not blank; bytes that are not UTF-8 become lone surrogates."""
    check_kind(path)
    name = str(path)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline=None) as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip("\n")
            if line and not line.isspace():
                yield f"{name}:{number}", line


def first_line(path: Path) -> str:
    for where, line in numbered_lines(path):
        try:
            check_line(line)
        except BadRow as error:
            raise UserError(f"{where}: {error}") from None
        return line
    raise UserError(f"{path}: the file is empty")


def check_kind(path: Path) -> None:
    if path.is_fifo():
        raise UserError(f"{path}: a pipe can be read only once; write it into a file first")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    for magic, kind in OTHER_KINDS.items():
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if (start.lower() if magic.startswith(b"<") else start).startswith(magic):
            raise UserError(f"{path}: this is {kind}")


def check_line(line: str) -> None:
    """Refuse bytes that are not UTF-8, and invisible characters."""
    if line.isprintable():
        return
    for character in line:
        if 0xDC80 <= ord(character) <= 0xDCFF:
            raise BadRow(f"not UTF-8 text (byte 0x{ord(character) - 0xDC00:02X}); save the file as UTF-8")
        kind = unicodedata.category(character)
        hidden = kind in ("Cc", "Cn", "Co", "Cs", "Zl", "Zp", "Zs") or character in "\u200b\ufeff"
        if hidden and character not in " \t":
            raise BadRow(f"it contains the invisible character U+{ord(character):04X}")


def split_cells(line: str, delimiter: str = ",") -> list[str]:
    cells = quoted_cells(line, delimiter) if '"' in line else [cell.strip() for cell in line.split(delimiter)]
    if "\t" in line:
        for number, cell in enumerate(cells, start=1):
            if "\t" in cell:
                raise BadRow(f"column {number}: a tab in {show(cell)}")
    return cells


def quoted_cells(line: str, delimiter: str) -> list[str]:
    """The cells of a line with quotes; a quote inside a quoted cell is doubled."""
    cells, at = [], 0
    while True:
        if quoted := QUOTED.match(line, at):
            cells.append(quoted[1].replace('""', '"').strip())
            at = quoted.end()
            if at < len(line) and line[at] != delimiter:
                raise BadRow(f"column {len(cells)}: text follows its closing quote; was the file edited?")
        else:
            end = line.find(delimiter, at)
            end = end if end >= 0 else len(line)
            cell = line[at:end].strip()
            if '"' in cell:
                fault = "a quote is not closed" if cell.startswith('"') else "a stray quote"
                raise BadRow(f"column {len(cells) + 1}: {fault} at {show(cell)}")
            cells.append(cell)
            at = end
        if at >= len(line):
            return cells
        at += 1


def to_cells(line: str, count: int, delimiter: str = ",") -> list[str]:
    cells = split_cells(line, delimiter)
    if len(cells) != count:
        hint = "; a name with commas must be quoted" if len(cells) > count and delimiter == "," else ""
        raise BadRow(f"{len(cells)} columns instead of {count}{hint}")
    return cells


def read_header(path: Path, needed: Sequence[str] = (), delimiter: str = ",") -> list[str]:
    """The column names in the first line; refuses a missing or repeated one."""
    try:
        names = split_cells(first_line(path), delimiter)
    except BadRow as error:
        raise UserError(f"{path}: the first line is not a header: {error}") from None
    missing = [name for name in needed if name not in names]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing; the first line has: {show(', '.join(names))}")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: the first line names column {show(twice[0])} twice")
    return names


def list_rows(path: Path, skip: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Yield (file:line, cells) of a class list; every row is needed, so a bad one raises UserError."""
    for number, (where, line) in enumerate(numbered_lines(path)):
        try:
            check_line(line)
            cells = split_cells(line)
        except BadRow as error:
            raise UserError(f"{where}: {error}") from None
        if number >= skip:
            yield where, cells


# Values -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def to_seconds(text: str) -> float:
    seconds = float(text) if TIME.fullmatch(text) else float("inf")
    if seconds == float("inf"):
        raise BadRow(f"time {show(text)} is not a number of seconds, 0 or more")
    return seconds


def to_segment(start: str, end: str) -> tuple[float, float]:
    segment = to_seconds(start), to_seconds(end)
    if segment[0] >= segment[1]:
        raise BadRow(f"the segment ends at {end} s, which is not after its start at {start} s")
    return segment


def stamp(seconds: float) -> str:
    """Seconds as in clip names: six digits, and three decimals if they are not whole."""
    return f"{int(seconds):06d}" if seconds == int(seconds) else f"{seconds:010.3f}"


def to_integer(text: str, what: str) -> int:
    if not INTEGER.fullmatch(text):
        raise BadRow(f"{what} is {show(text)}, not a whole number")
    return int(text)


def to_youtube_id(text: str) -> str:
    if not YOUTUBE_ID.fullmatch(text):
        is_spreadsheets = text.startswith("#") or re.search(r"^[0-9.]+(E\+)?[0-9]*$", text)
        hint = "; did a spreadsheet change it?" if is_spreadsheets else ""
        raise BadRow(f"video id {show(text)} does not have 11 characters of A-Z a-z 0-9 - _{hint}")
    return text


def to_split(text: str) -> str:
    if text.lower() not in SPLITS:
        raise BadRow(f"split {show(text)} is not one of train, val, validate, test")
    return SPLITS[text.lower()]


def split_in_name(path: Path, words: dict[str, str]) -> str | None:
    """The split in a file's name; None if there is none, or two."""
    found = {words[word] for word in re.split("[^a-z]+", path.stem.lower()) if word in words}
    return found.pop() if len(found) == 1 else None


def to_media_path(text: str) -> str:
    """A path inside the media folder without its media suffix; refuses one that leads outside."""
    parts = text.removeprefix("./").split("/")
    if "\\" in text or re.match("[A-Za-z]:", text) or not all(part.strip(". ") for part in parts):
        raise BadRow(f"path {show(text)} does not lead to a file inside the media folder")
    text = "/".join(parts)
    stem, _, suffix = text.rpartition(".")
    if f".{suffix.lower()}" not in MEDIA_SUFFIXES:
        return text
    if not stem or stem.endswith("/"):
        raise BadRow(f"path {show(text)} has no name before its suffix")
    return stem


# Class lists ------------------------------------------------------------------------------------------------------


class AnyClasses:
    """Replaces a class list where none is given: every name is known."""

    names = None

    def check(self, name: str) -> str:
        return name


class ClassList:
    """Class names in index order, and the file or variant that they come from."""

    def __init__(self, names: Sequence[str], source: Path | str) -> None:
        if not names or "" in names:
            raise UserError(f"{source}: {'a class has no name' if names else 'contains no classes'}")
        name, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise UserError(f"{source}: class {show(name)} is listed {count} times")
        self.names = tuple(names)
        self.source = source
        self._known = frozenset(names)
        self._hints: dict[str, str] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def check(self, name: str) -> str:
        if name in self._known:
            return name
        # A comparison takes milliseconds, and a million rows may be wrong.
        if name not in self._hints:
            self._hints[name] = did_you_mean(name, self.names) if len(self._hints) < 100 else ""
        raise BadRow(f"label {show(name)} is not in {self.source}{self._hints[name]}")


def numbered_rows(path: Path, header: Sequence[str]) -> Iterator[list[str]]:
    """Yield the rows of a class list with an official header, which count from 0 in their first column."""
    columns = ",".join(header)
    if [name.lower() for name in read_header(path)] != list(header):
        raise UserError(f"{path}: not the official class list; its first line is `{columns}`")
    for number, (where, cells) in enumerate(list_rows(path, skip=1)):
        if len(cells) != len(header) or cells[0] != str(number):
            raise UserError(f"{where}: expected the row `{columns.replace(header[0], str(number), 1)}`")
        yield cells


def read_names(path: Path) -> ClassList:
    """A class list: one name per line, commas included; or a CSV file with a column `name`, sorted by `id` if any."""
    rows = list(list_rows(path))
    header = [cell.lower() for cell in rows[0][1]] if rows else []
    if "name" not in header:
        lines = [line.strip() for _, line in numbered_lines(path)]
        return ClassList([c[0] if len(c) == 1 else line for (_, c), line in zip(rows, lines, strict=True)], path)
    rows = rows[1:]
    for where, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} columns, but the header has {len(header)}")
    if "id" in header:
        order = [cells[header.index("id")] for _, cells in rows]
        if sorted(order) != sorted(str(i) for i in range(len(rows))):
            raise UserError(f"{path}: column id does not count from 0 to {len(rows) - 1}")
        rows = [row for _, row in sorted(zip(map(int, order), rows, strict=True))]
    return ClassList([cells[header.index("name")] for _, cells in rows], path)
