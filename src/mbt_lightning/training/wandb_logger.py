"""A run of Weights & Biases that cannot stop the training that it watches."""

from __future__ import annotations

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
from mbt_lightning.training.wandb_exit import FINISH_SECONDS, bounded, finish_setting, say

X_AXIS = "trainer/global_step"
"""The metric that all others are drawn over: unlike W&B's own step it does not count on when a run is resumed."""

EMPTY = "{}"
"""What stands for an empty mapping in a run's configuration: W&B drops those."""


class WandbRun(WandbLogger):
    """A run of Weights & Biases: the resolved configuration, the metrics as they come, and at the end `summary.json`.

    Only the first process of a run has one. Where W&B cannot be reached in time the run is kept offline, under the id
    that it would have had; what goes wrong later is said once. `wandb_end.finish` ends it with the program.

    Args:
        project: W&B's project; a sweep's own comes before it.
        entity: user or team that the project belongs to; default: yours.
        name: name in W&B's tables; default: the run's id, or what `WANDB_NAME` says.
        group: name that several runs share; default: what `WANDB_RUN_GROUP` says.
        tags: words to find the run by.
        notes: a text about it.
        resume: whether a run that is known under its id goes on (`allow`), must be there (`must`) or not (`never`).
        save_dir: folder of W&B's local files; null: the run's own folder.
        log_model: whether checkpoints are uploaded: at the end (true), each when it is written (`all`), or never.
        offline: whether to talk to no server at all, as `WANDB_MODE=offline` does.
        init_seconds: how long W&B may take to begin, in seconds; `WANDB_INIT_TIMEOUT` comes before it.
        finish_seconds: how long its last uploads may take, in seconds; `WANDB_FINISH_TIMEOUT` comes before it.
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
        super().__init__(
            name=name,
            save_dir=save_dir or ".",
            offline=offline,
            project=project,
            log_model=log_model,
            resume=resume,
            entity=entity,
            group=group,
            tags=tags,
            notes=notes,
        )
        self.init_seconds = init_seconds
        self.finish_seconds = finish_seconds
        self.told = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's own record of the run, begun when it is first asked for.

        Raises:
            UserError: nobody is logged in to W&B.
        """
        if self._experiment is None:
            self._experiment = self.init()
        return self._experiment

    @rank_zero_only
    def describe(self, config: Mapping[str, Any]) -> None:
        """Put the resolved configuration into the run, and say what its metrics are drawn over.

        Args:
            config: the configuration as nested plain data.
        """
        run = self.experiment

        def tell() -> None:
            run.config.update(for_wandb(config, locked=swept()), allow_val_change=True)
            run.define_metric(X_AXIS)
            run.define_metric("*", step_metric=X_AXIS, step_sync=True)

        self.carefully(tell)

    def init(self) -> Any:
        """Begin the run at W&B, or go on with it; keep it offline if that fails."""
        import wandb

        arguments = {key: value for key, value in self._wandb_init.items() if value is not None}
        if os.environ.get("WANDB_SWEEP_ID"):  # the sweep says where; W&B warns of any other word
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
            say(f"W&B cannot be reached, this run is kept offline: {one_line(error)}")
            bounded(wandb.teardown, 30)  # its helper process still holds the run's id, or may be dead itself
            arguments["mode"] = "offline"
            return wandb.init(**arguments, settings=wandb.Settings(**settings))

    @rank_zero_only
    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Put the content of `summary.json` into the run's summary, under `summary`."""
        self.carefully(lambda: self.experiment.summary.update({"summary": dict(summary)}))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send values of a step; returns at once."""
        self.carefully(lambda: WandbLogger.log_metrics(self, metrics, step))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole configuration is there already, see `begin`."""

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Upload a checkpoint, if that is wanted."""
        self.carefully(lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    def finalize(self, status: str) -> None:
        """Upload the checkpoints, if that is wanted; the run itself goes on until the program ends."""
        self.carefully(lambda: WandbLogger.finalize(self, status))

    def carefully(self, work: Callable[[], object]) -> None:
        """Do something with W&B; what goes wrong is said once and is not the training's concern."""
        try:
            work()
        except Exception as error:
            if not self.told:
                say(f"W&B fails, the training goes on without it: {type(error).__name__}: {one_line(error)}")
            self.told = True


def earlier_id(folder: Path) -> str | None:
    """The id of the newest run of W&B that was begun from a run's folder; its files are named `*-<time>-<id>`."""
    found = sorted(path.name for path in folder.glob("wandb/*run-*-*") if path.is_dir() and not path.is_symlink())
    newest = max(found, key=lambda name: name.partition("run-")[2], default=None)
    return newest.split("-")[-1] if newest else None


def swept() -> set[str]:
    """Names of the settings that a sweep has chosen for this run, which nobody else may write."""
    path = Path(os.environ.get("WANDB_SWEEP_PARAM_PATH", ""))
    if not os.environ.get("WANDB_SWEEP_ID") or not path.is_file():
        return set()
    return set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def for_wandb(config: Mapping[str, Any], locked: set[str]) -> dict[str, Any]:
    """A configuration as W&B can keep it: flat, without what is locked, empty mappings as text."""
    return {name: EMPTY if value == {} else value for name, value in flat(config).items() if name not in locked}
