"""Going on with a run that has the same id: from which checkpoint, and whether it is the same experiment."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import identity_settings
from mbt_lightning.errors import UserError
from mbt_lightning.process import rank
from mbt_lightning.training.checkpoint import StoredCheckpoint, read_checkpoint

GOES_ON = "MBT_GOES_ON"
"""Environment variable: what the first process has decided, for those that Lightning starts; empty: from the start."""


def own_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that a run goes on from by itself: its last one, or the best where the last is damaged.

    The first process sets a damaged file aside; the others follow it.

    Args:
        folder: the run's.
    """
    if rank() and GOES_ON in os.environ:
        return Path(os.environ[GOES_ON]) if os.environ[GOES_ON] else None
    paths = [folder / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    damaged = []
    found = None
    for path in paths:
        if path.is_file():
            if is_whole(path):
                found = path
                break
            damaged.append(path)
    if rank() == 0:
        for path in damaged:
            aside = path.with_name(path.name + ".damaged")
            path.replace(aside)
            then = f"the run goes on from {found.name}" if found else "the run begins anew"
            print(f"warning: {path} is damaged and was set aside as {aside.name}; {then}", flush=True)
        os.environ[GOES_ON] = str(found or "")
    return found


def is_whole(path: Path) -> bool:
    """Whether every byte of a checkpoint can be read back as it was written."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip():
                return False
        read_checkpoint(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UserError):
        return False
    return True


def refuse_other_settings(stored: StoredCheckpoint, ours: Mapping[str, Any]) -> None:
    """Refuse to go on with a run of another experiment.

    Args:
        path: the checkpoint.
        ours: the resolved configuration.

    Raises:
        UserError: a setting that a score can depend on differs.
    """
    there, here = identity_settings(stored.about["config"]), identity_settings(ours)
    differ = [key for key in there | here if there.get(key) != here.get(key)]
    if differ:
        told = "; ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in differ[:3])
        more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(
            f"run {stored.path.parent.parent} was begun with other settings: {told}{more}; "
            "give it the settings that it has, or another id (MBT_RUN_ID, WANDB_RUN_ID)"
        )


def is_trained(folder: Path) -> bool:
    """Whether the run's training has come to its end."""
    summary = folder / "summary.json"
    return summary.is_file() and bool(json.loads(summary.read_text()).get("fit", {}).get("finished"))
