"""The records of a run in its folder."""

from __future__ import annotations

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
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from mbt_lightning.disk import write_json
from mbt_lightning.model.authors_flops import gflops_as_coded
from mbt_lightning.model.flops import count_parameters, gflops_per_clip
from mbt_lightning.runs.folder import save_config
from mbt_lightning.runs.read import read_json
from mbt_lightning.runs.state import RunState
from mbt_lightning.training.metrics_csv import MetricsCsv
from mbt_lightning.training.resume import changed_settings, refuse_other_data
from mbt_lightning.training.wandb_logger import WandbRun


class RunRecorder(L.Callback):
    """Keeps `config.yaml` and `summary.json` in the run's folder, and the configuration in every checkpoint.

    Args:
        folder: the run's folder; None on other processes, which get it from the first.
        config: the resolved configuration as plain data.
        text: the same as YAML, as it is saved.
        state: of the run, which starts when everything is built.
    """

    def __init__(self, folder: Path | None, config: dict[str, Any], text: str, state: RunState):
        self.folder = folder
        self.state = state
        self.config = config
        self.text = text
        self.clips = 0
        self.seconds = 0.0
        self.since = 0.0
        self.history: list[dict[str, Any]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)
        assert self.folder is not None
        for callback in trainer.checkpoint_callbacks:
            callback.dirpath = callback.dirpath or str(self.folder / "checkpoints")
        if trainer.is_global_zero:
            self.state.start(self.folder)
            save_config(self.folder / "config.yaml", self.text)
            for logger in wandb_runs(trainer):
                logger.describe(self.config)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.write()  # a run resumed from here needs all earlier rows
        spec = pl_module.spec
        checkpoint["mbt_lightning"] = {
            "config": self.config,
            "trained": {"clips": self.clips, "seconds": self.seconds, "history": self.history}
            | {"data_hash": trainer.datamodule.manifest.digest},
            "spec": {"inputs": {m: list(s) for m, s in spec.inputs.items()}}
            | {"classes": list(spec.classes), "groups": list(spec.groups)},
        }

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        """Take over what was trained, and record under which other settings, or in which other run, it was."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        about = checkpoint["mbt_lightning"]
        trained = about.get("trained", {"clips": 0, "seconds": 0.0})
        self.clips, self.seconds = trained["clips"], trained["seconds"]
        refuse_other_data(trained.get("data_hash"), trainer.datamodule.manifest)
        stage: dict[str, Any] = {"steps": checkpoint["global_step"]}
        if changed := changed_settings(about["config"], self.config):
            stage["settings"] = changed
        if self.folder and not Path(trainer.ckpt_path).resolve().is_relative_to(self.folder.resolve()):
            stage["continued_from"] = str(trainer.ckpt_path)
        self.history = [*trained.get("history", []), *([stage] if len(stage) > 1 else [])]

    def on_train_start(self, trainer, pl_module) -> None:
        """Drop the logged steps that a resumed run will log again; save the report of the starting weights."""
        self.since = time.perf_counter()
        if trainer.is_global_zero and (fit := self.summary().get("fit")):
            self.write(trainer, pl_module, {"fit": fit | {"finished": False}})
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCsv):
                logger.rewind_to(trainer.global_step)
        if pl_module.init_report and trainer.is_global_zero:
            assert self.folder is not None
            (self.folder / "init.txt").write_text(pl_module.init_report.text(), encoding="utf-8")

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        now = time.perf_counter()
        self.seconds += now - self.since
        self.since = now
        self.clips += len(batch) * trainer.world_size

    def on_fit_end(self, trainer, pl_module) -> None:
        self.write_fit(trainer, pl_module, finished=True)

    def on_exception(self, trainer, pl_module, exception) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self.clips:
            self.write_fit(trainer, pl_module, finished=False)

    def write_fit(self, trainer: L.Trainer, pl_module: L.LightningModule, finished: bool) -> None:
        if trainer.is_global_zero:
            fit: dict[str, Any] = {"epochs": trainer.current_epoch, "steps": trainer.global_step, "finished": finished}
            if (lost := trainer.callback_metrics.get("train/bad_clips")) is not None:
                fit["bad_clips"] = float(lost)
            best = trainer.checkpoint_callback
            if isinstance(best, ModelCheckpoint) and best.monitor == "val/score" and best.best_model_score is not None:
                fit["val_score"] = float(best.best_model_score)
            if shared := trainer.datamodule.shared_clips():
                fit["shared_clips"] = {" and ".join(names): count for names, count in shared.items()}
            if self.history:
                fit["history"] = self.history
            if self.seconds:
                fit |= {"clips_per_second": self.clips / self.seconds, "training_seconds": self.seconds}
            self.write(trainer, pl_module, {"fit": self.summary().get("fit", {}) | fit})

    def on_test_end(self, trainer, pl_module) -> None:
        if trainer.is_global_zero:
            test = numbers(trainer, "test/")
            _, official = trainer.datamodule.manifest.coverage[trainer.datamodule.test_split]
            self.write(trainer, pl_module, {"test": test, "test_coverage": test["clips"] / official})

    def on_validation_end(self, trainer, pl_module) -> None:
        """Save the scores of `mbt validate`."""
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.VALIDATING:
            self.write(trainer, pl_module, {"val": numbers(trainer, "val/")})

    def summary(self) -> dict[str, Any]:
        assert self.folder is not None
        return read_json(self.folder / "summary.json")

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, part: dict[str, Any]) -> None:
        """Add a part to `summary.json`, next to the facts about every run."""
        assert self.folder is not None
        summary = self.summary()
        data = trainer.datamodule
        coverage = data.manifest.coverage
        here = {
            "processes": trainer.world_size,
            "machine": machine(trainer),
            "versions": versions(),
            "git_commit": git_commit(),
        }
        old = {name: summary[name] for name in here if name in summary}
        provenance = summary.setdefault("provenance", {"fit": [old]} if "fit" in summary and old else {})
        for name in part.keys() & {"fit", "val", "test"}:
            if here not in provenance.setdefault(name, []):
                provenance[name].append(here)
        summary |= provenance.get("fit", [here])[0]
        summary |= {
            "experiment": self.config.get("experiment"),
            "run": self.folder.name,
            "seed": data.seed,
            "parameters": count_parameters(pl_module.network),
            "gflops_per_clip": gflops_per_clip(pl_module.network, pl_module.spec.inputs),
            "gflops_as_coded": gflops_as_coded(pl_module.network, pl_module.spec.inputs),
            "peak_memory_gb": max(peak_memory_gb(), summary.get("peak_memory_gb") or 0.0),
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
    return [logger for logger in trainer.loggers if isinstance(logger, WandbRun)]


def numbers(trainer: L.Trainer, prefix: str) -> dict[str, float]:
    """The logged values whose names start with `prefix`, without it."""
    return {k[len(prefix) :]: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}


def without_nan(value: Any) -> Any:
    """The same plain data with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def name_of(data: Any) -> str | None:
    """Name and variant of a data module's data set, from its manifest; `demo` for the demo."""
    if data.manifest_path == "demo":
        return "demo"
    about = data.manifest.metadata
    return "/".join(str(about[key]) for key in ("dataset", "variant") if about.get(key)) or None


def machine(trainer: L.Trainer) -> dict[str, Any]:
    root = trainer.strategy.root_device
    is_gpu = root.type == "cuda"
    device = torch.cuda.get_device_name(root) if is_gpu else cpu_name()
    return {"host": platform.node(), "device": device, "num_gpus": trainer.world_size if is_gpu else 0}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")  # of Linux
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory_gb() -> float:
    """Peak memory use: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("mbt-lightning", "torch", "torchaudio", "lightning", "torchmetrics", "av", "decord", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the project's working copy, with `+changes` if there are any; None outside of one."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
