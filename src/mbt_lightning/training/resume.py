"""Resuming a run with the same id: from which checkpoint, and whether it is the same experiment."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import identity_settings
from mbt_lightning.errors import UserError
from mbt_lightning.process import rank
from mbt_lightning.runs.read import read_json
from mbt_lightning.training.checkpoint import StoredCheckpoint, read_checkpoint

RESUME_FROM = "MBT_RESUME_FROM"
"""Environment variable: the first process's choice, for those that Lightning starts; empty: from scratch."""


def own_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which a run resumes itself: its last one, or the best if the last is damaged.

    The first process renames a damaged file; the others follow its choice.
    """
    if rank() and RESUME_FROM in os.environ:
        return Path(os.environ[RESUME_FROM]) if os.environ[RESUME_FROM] else None
    damaged, found = [], None
    for path in (folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")):
        if path.is_file():
            if is_whole(path):
                found = path
                break
            damaged.append(path)
    if rank() == 0:
        for path in damaged:
            renamed = path.with_name(path.name + ".damaged")
            path.replace(renamed)
            then = f"resuming from {found.name}" if found else "starting from scratch"
            print(f"warning: {path} is damaged and was renamed to {renamed.name}; {then}", flush=True)
        os.environ[RESUME_FROM] = str(found or "")
    return found


def is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                return False
        read_checkpoint(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UserError):
        return False
    return True


def refuse_other_settings(stored: StoredCheckpoint, ours: Mapping[str, Any]) -> None:
    """Refuse to resume a run of another experiment; `ours` is the resolved configuration.

    Raises:
        UserError: a setting that affects scores differs.
    """
    there, here = identity_settings(stored.about["config"]), identity_settings(ours)
    differ = [key for key in there | here if there.get(key) != here.get(key)]
    if differ:
        examples = "; ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in differ[:3])
        more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(
            f"run {stored.path.parent.parent} was started with other settings: {examples}{more}; "
            "use the same settings, or another id (MBT_RUN_ID, WANDB_RUN_ID)"
        )


def is_trained(folder: Path) -> bool:
    return bool(read_json(folder / "summary.json").get("fit", {}).get("finished"))
