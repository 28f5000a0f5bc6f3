"""A run's own folder and what is kept in it."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from mbt_lightning.errors import UserError
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.runs.state import RunState, write_json
from mbt_lightning.training.wandb_logger import WandbRun


def given_id() -> str | None:
    """The run's id that was given from outside: by W&B (`WANDB_RUN_ID`), or else by whoever starts it (`MBT_RUN_ID`).

    The same id is the same run, which finds its folder again.

    Raises:
        UserError: it cannot be the name of a folder.
    """
    for name in ("WANDB_RUN_ID", "MBT_RUN_ID"):
        if run_id := os.environ.get(name):
            if Path(run_id).name != run_id or run_id == "..":
                raise UserError(f"{name} is {run_id!r}: a run's id is the name of its folder, without slashes")
            return run_id
    return None


def new_run_folder(runs: Path, experiment: str) -> Path:
    """Make `<runs>/<experiment>/<run id>/`; no two runs get the same, however closely they start.

    The id is the one given from outside, if there is one; else the time, to the second, with a number behind it if
    that is taken.
    """
    parent = runs / experiment
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--runs {runs}: cannot make folders there ({error.strerror}); name another") from None
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
    """The `last` or `best` checkpoint of the newest run of an experiment; `last` of the run whose id is given, if any.

    Raises:
        UserError: there is none.
    """
    if not experiment:
        raise UserError(f"--ckpt_path {which}: of which experiment? Name it by --experiment NAME or --config FILE")
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


class MetricsCsv(Logger):
    """Writes every logged value to `metrics.csv`: a row a step, a column a name, appended to when a run goes on.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.written = -math.inf
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.path.parent.parent.name

    @property
    def version(self) -> str:
        """The run's id."""
        return self.path.parent.name

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration has a file of its own."""

    @rank_zero_only
    def go_back_to(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed run logs it again."""
        kept = [row for row in self.rows if int(row["step"]) <= step]
        self.rows = [{k: v for k, v in row.items() if not k.startswith("test/")} for row in kept]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step."""
        step = int(step or 0)
        if not self.rows or int(self.rows[-1]["step"]) != step:
            self.rows.append({"step": step})
        self.rows[-1].update(metrics)

    def save(self) -> None:
        """Write the file, at most every few seconds (Lightning asks at every step)."""
        if time.monotonic() - self.written > 5:
            self.write()

    @rank_zero_only
    def write(self) -> None:
        """Write the file; it is complete at every moment."""
        self.written = time.monotonic()
        columns = list(dict.fromkeys(["step", *sorted({name for row in self.rows for name in row})]))
        unfinished = self.path.with_suffix(".csv.new")
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        unfinished.replace(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.write()


class RunRecorder(L.Callback):
    """Keeps `config.yaml` and `summary.json` in the run's folder, and the configuration in every checkpoint.

    Args:
        folder: the run's folder; None on a process that is not told, which then asks the first.
        config: the resolved configuration as plain data.
        text: the same as YAML text, as it is saved.
        state: of the run, which begins when everything is built.
    """

    def __init__(self, folder: Path | None, config: dict[str, Any], text: str, state: RunState):
        self.folder = folder
        self.state = state
        self.config = config
        self.text = text
        self.clips = 0
        self.seconds = 0.0
        self.since = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Agree on the folder and save the configuration."""
        self.folder = trainer.strategy.broadcast(self.folder)
        assert self.folder is not None
        for callback in trainer.checkpoint_callbacks:
            callback.dirpath = callback.dirpath or str(self.folder / "checkpoints")
        if trainer.is_global_zero:
            self.state.begin(self.folder)
            save_config(self.folder / "config.yaml", self.text)
            for logger in wandb_runs(trainer):
                logger.describe(self.config)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Put what is needed to build the model again into the checkpoint, as plain data."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.write()  # a run that is resumed from here must find all that came before
        spec = pl_module.spec
        checkpoint["mbt_lightning"] = {
            "config": self.config,
            "trained": {"clips": self.clips, "seconds": self.seconds},
            "spec": {"inputs": {m: list(s) for m, s in spec.inputs.items()}}
            | {"classes": list(spec.classes), "groups": list(spec.groups)},
        }

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Count on where the training was stopped: its figures are those of all its parts."""
        if trainer.state.fn == TrainerFn.FITTING:
            trained = checkpoint["mbt_lightning"].get("trained", {"clips": 0, "seconds": 0.0})
            self.clips, self.seconds = trained["clips"], trained["seconds"]

    def on_train_start(self, trainer, pl_module) -> None:
        """Drop the logged steps that a resumed run will log again; keep what the starting weights were."""
        self.since = time.perf_counter()
        if trainer.is_global_zero and (fit := self.summary().get("fit")):
            self.write(trainer, pl_module, {"fit": fit | {"finished": False}})
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.go_back_to(trainer.global_step)
        if pl_module.init_report and trainer.is_global_zero:
            assert self.folder is not None
            (self.folder / "init.txt").write_text(pl_module.init_report.text(), encoding="utf-8")

    def on_train_epoch_start(self, trainer, pl_module) -> None:  # noqa: D102
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # noqa: D102
        now = time.perf_counter()
        self.seconds += now - self.since
        self.since = now
        self.clips += len(batch) * trainer.world_size

    def on_fit_end(self, trainer, pl_module) -> None:
        """Write down the training's figures."""
        self.write_fit(trainer, pl_module, finished=True)

    def on_exception(self, trainer, pl_module, exception) -> None:
        """Write down how far an interrupted training came."""
        if trainer.state.fn == TrainerFn.FITTING and self.clips:
            self.write_fit(trainer, pl_module, finished=False)

    def write_fit(self, trainer: L.Trainer, pl_module: L.LightningModule, finished: bool) -> None:
        """Write down the training's figures."""
        if trainer.is_global_zero:
            fit: dict[str, Any] = {"epochs": trainer.current_epoch, "steps": trainer.global_step, "finished": finished}
            if self.seconds:
                fit |= {"clips_per_second": self.clips / self.seconds, "training_seconds": self.seconds}
            self.write(trainer, pl_module, {"fit": self.summary().get("fit", {}) | fit})

    def on_test_end(self, trainer, pl_module) -> None:
        """Write down the test's scores."""
        if trainer.is_global_zero:
            self.write(trainer, pl_module, {"test": numbers(trainer, "test/")})

    def on_validation_end(self, trainer, pl_module) -> None:
        """Write down the scores of a validation of its own."""
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.VALIDATING:
            self.write(trainer, pl_module, {"val": numbers(trainer, "val/")})

    def summary(self) -> dict[str, Any]:
        """What `summary.json` says so far."""
        assert self.folder is not None
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, part: dict[str, Any]) -> None:
        """Add a part to `summary.json`, beside what every run states."""
        assert self.folder is not None
        summary = self.summary()
        data = trainer.datamodule
        coverage = data.manifest.coverage
        summary |= {
            "experiment": self.config.get("experiment"),
            "run": self.folder.name,
            "seed": data.seed,
            "parameters": count_parameters(pl_module.network),
            "gflops_per_clip": gflops_per_clip(pl_module.network, pl_module.spec.inputs),
            "peak_memory_gb": max(peak_memory_gb(), summary.get("peak_memory_gb") or 0.0),
            "processes": trainer.world_size,
            "machine": machine(trainer),
            "versions": versions(),
            "git_commit": git_commit(),
            "data": {
                "name": name_of(data),
                "manifest": str(data.manifest.path),
                "hash": data.manifest.digest,
                "dataset": data.manifest.metadata.get("dataset"),
                "variant": data.manifest.metadata.get("variant"),
                "subset": data.manifest.metadata.get("subset", {}).get("list_hash"),
                "classes": len(data.manifest.classes),
                "clips": {split: len(rows) for split, rows in data.manifest.splits.items()},
                "official": {split: official for split, (_, official) in coverage.items()},
                "coverage": {split: used / official for split, (used, official) in coverage.items()},
                "left_out": data.manifest.left_out,
            },
        } | part
        write_json(self.folder / "summary.json", without_nan(summary))
        for logger in wandb_runs(trainer):
            logger.log_summary(without_nan(summary))


def wandb_runs(trainer: L.Trainer) -> list[WandbRun]:
    """The loggers that want the whole of a run, not its metrics only."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]


def numbers(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The logged values whose name starts with `prefix`, without it."""
    return {k[len(prefix) :]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}


def without_nan(value: Any) -> Any:
    """The same plain data with null for what is not a number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_config(path: Path, text: str) -> None:
    """Save a configuration; an older, different one of the same run is kept under a numbered name."""
    if path.is_file() and path.read_text() != text:
        number = 1
        while (older := path.with_name(f"config.{number}.yaml")).exists():
            number += 1
        path.rename(older)
    path.write_text(text)


def name_of(data: Any) -> str | None:
    """Name of a data module's data set, with its variant, as far as the manifest says; `demo` for the embedded one."""
    if data.manifest_path == "demo":
        return "demo"
    about = data.manifest.metadata
    return "/".join(str(about[key]) for key in ("dataset", "variant") if about.get(key)) or None


def machine(trainer: L.Trainer) -> dict[str, Any]:
    """What the run is computed on: the host, the GPU or CPU by its model's name, and how many GPUs."""
    root = trainer.strategy.root_device
    is_gpu = root.type == "cuda"
    device = torch.cuda.get_device_name(root) if is_gpu else cpu_name()
    return {"host": platform.node(), "device": device, "num_gpus": trainer.world_size if is_gpu else 0}


def cpu_name() -> str:
    """The processor's model."""
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory_gb() -> float:
    """Most memory that was in use: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("mbt-lightning", "torch", "torchaudio", "lightning", "torchmetrics", "av", "decord", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the project's working copy, `+changes` behind it if there are any; None outside of one."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
