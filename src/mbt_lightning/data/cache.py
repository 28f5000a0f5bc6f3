"""Where things are kept that can be made again: `$MBT_CACHE`, by default `~/.cache/mbt-lightning`."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

KEPT_SECONDS = 30 * 86_400
"""Files that no run has used for so long are deleted."""


def cache_folder(name: str = "") -> Path:
    """The folder of all, or a folder in it; it need not exist."""
    root = Path(os.environ.get("MBT_CACHE") or Path.home() / ".cache" / "mbt-lightning").expanduser()
    return root / name


def keep(file: Path) -> None:
    """Count a file as used today, and delete what lies beside it and has not been used for long.

    Raises:
        OSError: the folder cannot be changed.
    """
    os.utime(file)
    for old in file.parent.iterdir():
        with suppress(FileNotFoundError):  # another process has done it
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                old.unlink()
