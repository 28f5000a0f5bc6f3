"""A run's own folder and what is kept in it."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from mbt_lightning.disk import write_json
from mbt_lightning.model.authors_flops import gflops_as_coded
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.runs.folder import save_config
from mbt_lightning.runs.state import RunState
from mbt_lightning.training.metrics_csv import MetricsCsv
from mbt_lightning.training.wandb_logger import WandbRun


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
            "gflops_as_coded": gflops_as_coded(pl_module.network, pl_module.spec.inputs),
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
