"""Resuming a run with the same id: from which checkpoint, and whether it is the same experiment."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import identity_settings, is_under
from mbt_lightning.data.manifest.manifest import Manifest
from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.process import rank
from mbt_lightning.runs.read import read_json
from mbt_lightning.training.checkpoint import StoredCheckpoint, read_checkpoint

RESUME_FROM = "MBT_RESUME_FROM"
"""Environment variable: the first process's choice, for those that Lightning starts; empty: from scratch."""

MAY_CHANGE = (
    "trainer",
    *(f"model.{name}" for name in ("optimizer", "warmup_fraction", "label_smoothing", "mixup", "drop_path", "init")),
    *(f"data.{name}" for name in ("batch_size", "sampler", "manifest", "media_root")),
)
"""Settings that may differ where another run's training is continued; the clips must be the same, by their hash."""


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
    if gaps := gaps_between(stored.about["config"], ours):
        raise UserError(
            f"run {stored.path.parent.parent} was started with other settings: {abbreviate(gaps, 3, '; ')}; "
            "use the same settings, or another id (MBT_RUN_ID, WANDB_RUN_ID)"
        )


def refuse_another_experiment(stored: StoredCheckpoint, ours: Mapping[str, Any]) -> None:
    """Refuse to continue another run's training with another model, data or seed.

    Raises:
        UserError: such a setting differs.
    """
    if gaps := gaps_between(stored.about["config"], ours, but=MAY_CHANGE):
        raise UserError(
            f"{stored} was trained with other settings: {abbreviate(gaps, 3, '; ')}; its training cannot be "
            f"continued with these; to start a new training from its weights, give --model.init Checkpoint "
            f"--model.init.path {stored} in the place of --ckpt_path"
        )


def refuse_other_data(trained_on: str | None, manifest: Manifest) -> None:
    """Refuse to continue a training on other clips than those of the given hash; None: it is not known."""
    if trained_on not in (None, manifest.digest):
        raise UserError(
            f"{manifest.path} has the hash {manifest.digest}, and the training that is continued was on data of the "
            f"hash {trained_on}: give the same data, or start anew from its weights (--model.init Checkpoint)"
        )


def refuse_finished(stored: StoredCheckpoint, max_epochs: int | None, max_steps: int) -> None:
    """Refuse to train on where nothing is left to train.

    Raises:
        UserError: the checkpoint has reached the last epoch or step.
    """
    epochs = stored.content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    steps = stored.content["global_step"]
    for name, done, limit in (("max_epochs", epochs, max_epochs), ("max_steps", steps, max_steps)):
        if limit is not None and 0 <= limit <= done:
            raise UserError(
                f"{stored} has trained to {name[4:-1]} {done} and trainer.{name} is {limit}: nothing is left to train; "
                f"give a larger --trainer.{name}, or score it with `mbt test --ckpt_path {stored}`"
            )


def changed_settings(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a score can depend on and that have changed, with their earlier values."""
    before, now = identity_settings(there), identity_settings(here)
    return {name: before.get(name) for name in before | now if before.get(name) != now.get(name)}


def gaps_between(there: Mapping[str, Any], here: Mapping[str, Any], but: tuple[str, ...] = ()) -> list[str]:
    """The same in words, without some settings."""
    now = identity_settings(here)
    return [
        f"{name} is {value!r} there and {now.get(name)!r} here"
        for name, value in changed_settings(there, here).items()
        if not is_under(name, but)
    ]


def is_trained(folder: Path) -> bool:
    return bool(read_json(folder / "summary.json").get("fit", {}).get("finished"))
