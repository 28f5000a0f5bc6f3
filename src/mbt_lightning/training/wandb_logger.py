"""A Weights & Biases run that cannot stop the training."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from mbt_lightning.config.settings import flat
from mbt_lightning.errors import UserError, one_line
from mbt_lightning.training.wandb_exit import FINISH_SECONDS, bounded, finish_setting, log_line

X_AXIS = "trainer/global_step"
"""The x-axis of all metrics: unlike W&B's own step it stays the global step when a run is resumed."""

EMPTY = "{}"
"""Replaces an empty mapping in a run's configuration: W&B drops those."""


class WandbRun(WandbLogger):
    """A Weights & Biases run: the resolved configuration, all metrics, and at the end the content of `summary.json`.

    Only the first process of a run has one. If W&B cannot be reached in time, the run is kept offline under the same
    id; later errors are reported once. `wandb_exit.finish` ends it with the program.

    Args:
        project: W&B's project; a sweep's own takes precedence.
        entity: user or team of the project; default: yours.
        name: name in W&B's tables; default: `WANDB_NAME`, else the run's id.
        group: name shared by several runs; default: `WANDB_RUN_GROUP`.
        tags: words to find the run by.
        notes: a text about it.
        resume: whether a run with the same id may exist (`allow`) and is resumed, must exist (`must`) or not (`never`).
        save_dir: folder of W&B's local files; null: the run's own folder.
        log_model: whether checkpoints are uploaded: at the end (true), each when written (`all`), or never (false).
        offline: whether to contact no server, like `WANDB_MODE=offline`.
        init_seconds: time limit of the start of the run, in seconds; `WANDB_INIT_TIMEOUT` takes precedence.
        finish_seconds: time limit of the last uploads, in seconds; `WANDB_FINISH_TIMEOUT` takes precedence.
    """

    def __init__(
        self,
        project: str = "mbt",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        resume: Literal["allow", "must", "never"] = "allow",
        save_dir: str | None = None,
        log_model: bool | Literal["all"] = False,
        offline: bool = False,
        init_seconds: float = 60.0,
        finish_seconds: float = FINISH_SECONDS,
    ):
        where: dict[str, Any] = {"project": project, "entity": entity, "save_dir": save_dir or ".", "offline": offline}
        about: dict[str, Any] = {"name": name, "group": group, "tags": tags, "notes": notes}
        super().__init__(log_model=log_model, resume=resume, **where, **about)
        self.init_seconds = init_seconds
        self.finish_seconds = finish_seconds
        self.has_failed = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's object of the run, created on first access.

        Raises:
            UserError: nobody is logged in to W&B.
        """
        if self._experiment is None:
            self._experiment = self.init()
        return self._experiment

    @rank_zero_only
    def describe(self, config: Mapping[str, Any]) -> None:
        """Send the resolved configuration, and define the x-axis of the metrics."""
        run = self.experiment

        def send() -> None:
            run.config.update(for_wandb(config, locked=swept()), allow_val_change=True)
            run.define_metric(X_AXIS)
            run.define_metric("*", step_metric=X_AXIS, step_sync=True)

        self.carefully(send)

    def init(self) -> Any:
        """Start or resume the run at W&B; keep it offline if that fails."""
        import wandb

        arguments = {key: value for key, value in self._wandb_init.items() if value is not None}
        if os.environ.get("WANDB_SWEEP_ID"):  # the sweep determines both; W&B warns of other values
            arguments = {key: value for key, value in arguments.items() if key not in ("project", "entity")}
        folder = Path(arguments["dir"])
        is_own = os.environ.get("MBT_RUN_FOLDER") == str(folder)
        if "WANDB_RUN_ID" not in os.environ:
            arguments["id"] = (earlier_id(folder) if is_own else None) or secrets.token_hex(4)
        if "WANDB_NAME" not in os.environ and is_own:
            arguments.setdefault("name", folder.name)
        settings = finish_setting(self.finish_seconds)
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            settings["init_timeout"] = self.init_seconds
        if not {"WANDB_QUIET", "WANDB_SILENT"} & os.environ.keys():
            settings["quiet"] = True
        if self._offline:
            arguments["mode"] = "offline"
        try:
            return wandb.init(**arguments, settings=wandb.Settings(**settings))
        except Exception as error:
            if isinstance(error, wandb.errors.UsageError | wandb.errors.AuthenticationError):
                raise UserError(f"W&B: {one_line(error)} (WANDB_MODE=offline needs no account)") from error
            log_line(f"W&B cannot be reached, this run is kept offline: {one_line(error)}")
            bounded(wandb.teardown, 30)  # its helper process still holds the run's id, or is dead
            arguments["mode"] = "offline"
            return wandb.init(**arguments, settings=wandb.Settings(**settings))

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        self.carefully(lambda: self.experiment.summary.update({"summary": dict(summary)}))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the finite values: JSON has no NaN, which a class without positives has for a score."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.carefully(lambda: WandbLogger.log_metrics(self, finite, step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `describe` has sent the whole configuration."""

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.carefully(lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    def finalize(self, status: str) -> None:
        """Upload the checkpoints, if requested; the W&B run itself ends with the program."""
        self.carefully(lambda: WandbLogger.finalize(self, status))

    def carefully(self, work: Callable[[], object]) -> None:
        """Call a function of W&B; its first error is reported, and none reaches the training."""
        try:
            work()
        except Exception as error:
            if not self.has_failed:
                log_line(f"W&B failed, training continues without it: {type(error).__name__}: {one_line(error)}")
            self.has_failed = True


def earlier_id(folder: Path) -> str | None:
    """The id of the newest W&B run started from a run's folder; its files are named `*-<time>-<id>`."""
    found = sorted(path.name for path in folder.glob("wandb/*run-*-*") if path.is_dir() and not path.is_symlink())
    newest = max(found, key=lambda name: name.partition("run-")[2], default=None)
    return newest.split("-")[-1] if newest else None


def swept() -> set[str]:
    """Names of the settings that a W&B sweep has chosen for this run, which nobody else may write."""
    path = Path(os.environ.get("WANDB_SWEEP_PARAM_PATH", ""))
    if not os.environ.get("WANDB_SWEEP_ID") or not path.is_file():
        return set()
    return set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def for_wandb(config: Mapping[str, Any], locked: set[str]) -> dict[str, Any]:
    """A configuration in W&B's form: flat, without locked settings, empty mappings as text."""
    return {name: EMPTY if value == {} else value for name, value in flat(config).items() if name not in locked}
