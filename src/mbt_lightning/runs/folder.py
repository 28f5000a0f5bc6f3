"""A run's folder, `<runs>/<experiment>/<run id>/`: its id, path, checkpoints and configuration."""

from __future__ import annotations

import glob
import os
from datetime import datetime
from pathlib import Path

from mbt_lightning.errors import UserError


def given_id() -> str | None:
    """The run's id from the environment: W&B's (`WANDB_RUN_ID`), else `MBT_RUN_ID`.

    The same id is the same run, which finds its folder again.

    Raises:
        UserError: it is not a valid folder name.
    """
    for name in ("WANDB_RUN_ID", "MBT_RUN_ID"):
        if run_id := os.environ.get(name):
            if Path(run_id).name != run_id or run_id == "..":
                raise UserError(f"{name} is {run_id!r}: a run's id is the name of its folder, without slashes")
            return run_id
    return None


def new_run_folder(runs: Path, experiment: str) -> Path:
    """Make `<runs>/<experiment>/<run id>/`, unique even for runs that start at the same time.

    The id is the given one, if any; else the time in seconds, followed by a number if that is taken.
    """
    parent = runs / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--runs {runs}: cannot make folders there ({error.strerror}); give another folder") from None
    if run_id := given_id():
        (parent / run_id).mkdir(exist_ok=True)
        return parent / run_id
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise UserError(f"{parent}: cannot make a folder for the run")


def find_checkpoint(runs: Path, experiment: str, which: str) -> Path:
    """The `last` or `best` checkpoint of the newest run of an experiment; `last` of the run with the given id, if any.

    Raises:
        UserError: there is none.
    """
    if not experiment:
        raise UserError(f"--ckpt_path {which}: of which experiment? Add --experiment NAME or --config FILE")
    run_id = given_id() if which == "last" else None
    found = (runs / experiment).glob(f"{glob.escape(run_id) if run_id else '*'}/checkpoints/{which}.ckpt")
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, path), default=None)
    if newest is None:
        raise UserError(
            f"--ckpt_path {which}: no run {f'{run_id!r} ' if run_id else ''}of experiment {experiment!r} has a "
            f"checkpoint (looked for {runs / experiment}/{run_id or '*'}/checkpoints/{which}.ckpt); "
            "start one without --ckpt_path"
        )
    return newest


def save_config(path: Path, text: str) -> None:
    """Save a configuration; an older, different one of the same run is kept under a numbered name."""
    if path.is_file() and path.read_text() != text:
        number = 1
        while (older := path.with_name(f"config.{number}.yaml")).exists():
            number += 1
        path.rename(older)
    path.write_text(text)
