"""Files that are complete or absent, and the cache folder."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.]+(e[+-]?\d+)?$)", re.IGNORECASE)
"""The start of what a spreadsheet would compute; a number with its sign is none."""

KEPT_SECONDS = 30 * 86_400
"""Cached files not used for this long are deleted."""


@contextmanager
def replacing(path: Path, sync: bool = False) -> Iterator[Path]:
    """The name of a new file that replaces `path` when the block ends without an error.

    Args:
        path: the file to write; a reader sees the old or the new one, never a part.
        sync: whether the new file also survives a power failure (it is synced to the disk first).

    Yields:
        The name to write to, in the same folder; several processes may write the same file.
    """
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}.new")
    try:
        yield unfinished
        if sync:
            sync_to_disk(unfinished)
        unfinished.replace(path)
        if sync:
            sync_to_disk(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows cannot
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, sync: bool = False) -> None:
    """Write a text file in UTF-8, see `replacing`."""
    with replacing(path, sync) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def csv_text(text: str) -> str:
    """Text as a cell of CSV: what a spreadsheet would compute as a formula starts with an apostrophe (OWASP)."""
    return f"'{text}" if FORMULA.match(text) else text


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON that survives a power failure; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n", sync=True)


def cache_folder(name: str = "") -> Path:
    """The cache folder, `$MBT_CACHE` or `~/.cache/mbt-lightning`, or a folder in it; it need not exist."""
    root = Path(os.environ.get("MBT_CACHE") or Path.home() / ".cache" / "mbt-lightning").expanduser()
    return root / name


def mark_used(file: Path) -> None:
    """Mark a cached file as used today, and delete its neighbours that have not been used for long.

    Raises:
        OSError: the folder cannot be changed.
    """
    os.utime(file)
    for old in file.parent.iterdir():
        with suppress(FileNotFoundError):  # another process has done it
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.unlink()
