"""Run folders as the program leaves them, with made-up scores, for the tests of what reads them."""

import copy
import csv
import json
from pathlib import Path

import yaml

from mbt_lightning.config.settings import identity_settings, nested
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.planned_runs import read_folders
from mbt_lightning.table import paper
from mbt_lightning.table.columns import Column, columns_of
from mbt_lightning.table.compare import Comparison, compare
from mbt_lightning.table.notes import notes_of

CONFIG = yaml.safe_load("""
seed_everything: 0
trainer: {accelerator: auto, max_epochs: 8, max_steps: -1, limit_train_batches: null, accumulate_grad_batches: 1}
model:
  task: {class_path: mbt_lightning.Multilabel}
  modalities: [rgb, spectrogram]
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.0015, weight_decay: 0.05}}
  mixup: null
  init: null
  fusion: {class_path: mbt_lightning.Bottleneck, init_args: {num_bottlenecks: 4, update: sequential}}
  fusion_layer: 8
  size: {dim: 48, depth: 12, num_heads: 2, mlp_ratio: 4.0}
  patches: {rgb: [1, 16, 16], spectrogram: [16, 16]}
  share_encoder: false
  head: {class_path: mbt_lightning.ClsHead, init_args: {representation_size: null}}
  drop_path: 0.0
data:
  manifest: demo
  media_root: null
  classes: null
  val_split: val
  test_split: test
  inputs:
    rgb: {class_path: mbt_lightning.Rgb, init_args: {num_frames: 8, window_seconds: null, frame_size: 32}}
    spectrogram:
      class_path: mbt_lightning.Spectrogram
      init_args:
        transform:
          class_path: mbt_lightning.LogMel
          init_args: {sample_rate: 16000, num_mels: 64, mean: -1.8, std: 3.4}
        augment: null
  window_seconds: 1.6
  synchronous: true
  num_test_views: 1
  batch_size: 32
  num_workers: 2
experiment: made
runs: runs
ckpt_path: null
""")

CROSS = {"class_path": "mbt_lightning.CrossAttention"}
JOINT = {"class_path": "mbt_lightning.JointSelfAttention"}


def bottleneck(num_bottlenecks: int = 4, update: str = "sequential") -> dict:
    chosen = {"num_bottlenecks": num_bottlenecks, "update": update}
    return {"class_path": "mbt_lightning.Bottleneck", "init_args": chosen}


STRATEGIES = {"Bottleneck": bottleneck(), "CrossAttention": CROSS, "JointSelfAttention": JOINT}


def changed(config: dict, **settings) -> dict:
    """A configuration with other settings, their dots as two underscores: model__fusion_layer=4."""
    config = copy.deepcopy(config)
    for name, value in settings.items():
        *path, last = name.split("__")
        place = config
        for key in path:
            place = place[key]
        place[last] = value
    return config


def configuration(**settings) -> dict:
    return changed(CONFIG, **settings)


def gflops_of(config: dict) -> tuple[float, float | None]:
    """Made-up costs of a clip: as run, and as coded by the authors, who have no joint self-attention."""
    model = config["model"]
    name = model["fusion"]["class_path"].rpartition(".")[2] if len(model["modalities"]) > 1 else ""
    fused = 12 - model["fusion_layer"]
    cost = 0.0275 + 0.0003 * fused * (1 + list(STRATEGIES).index(name)) if name in STRATEGIES else 0.014
    return cost, None if name == "JointSelfAttention" and fused else 1.1 * cost


def summary_of(config: dict, score: float, **parts) -> dict:
    """A summary with this fused score; relations are harder, and each modality alone is worse."""
    scores = {
        f"{m}/mAP{group}": min(1.0, max(0.0, score - loss - below))
        for m, loss in {**{m: 0.1 for m in config["model"]["modalities"]}, "fused": 0.0}.items()
        for group, below in {"": 0.0, "/video": -0.02, "/relation": 0.08}.items()
    }
    data = {"manifest": "demo/manifest.csv", "hash": "34c0ae25bf84ffff", "classes": 12}
    data |= {"clips": {"train": 1024, "test": 512}, "coverage": {"train": 1.0, "test": 1.0}}
    as_run, as_coded = gflops_of(config)
    return {
        "seed": config["seed_everything"],
        "parameters": 756684,
        "gflops_per_clip": as_run,
        "gflops_as_coded": as_coded,
        "peak_memory_gb": 1.25,
        "git_commit": "abc",
        "versions": {"torch": "2.12.1"},
        "data": data | parts.pop("data", {}),
        "fit": {"epochs": 8, "steps": 256, "finished": True, "training_seconds": 60.0},
        "test": {"score": score, "loss": 1.0, **scores},
    } | parts


def make_run(folder: Path, score: float | None = 0.7, state: dict | None = None, parts: dict | None = None, **settings):
    """Write a run's folder; without a score it has no summary. Returns the folder."""
    config = configuration(**settings)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    if score is not None:
        (folder / "summary.json").write_text(json.dumps(summary_of(config, score, **(parts or {}))))
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
    with open(folder / "metrics.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "epoch", "train/loss", "val/score"])
        for step in range(1, 33):
            rows.writerow([step * 8, step // 4, 5 / step, "" if step % 4 else 0.01 * step])
    return folder


def make_plan(folder: Path, points: list[tuple[dict, str]], trials: dict[str, dict]) -> None:
    """Write a sweep's plan: (values, trial) of every point; settings of every trial."""
    names = list(dict.fromkeys(name for values, _ in points for name in values))
    content = {
        "name": folder.name,
        "metric": {"name": "test/score", "goal": "maximize"},
        "parameters": names,
        "points": [{"values": values, "trial": trial} for values, trial in points],
        "trials": {name: {"settings": identity_settings(config), "words": []} for name, config in trials.items()},
    }
    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep" / "plan.json").write_text(json.dumps(content))


def make_sweep(folder: Path, layers=(0, 2, 4, 6, 8, 10, 12), seeds=(0, 1, 2)) -> None:
    """A whole sweep of strategy by L_f by seed; scores by a rule."""
    points, trials = [], {}
    for name, fusion in STRATEGIES.items():
        for layer in layers:
            for seed in seeds:
                trial = f"late-{seed}" if layer == 12 else f"{name}-{layer}-{seed}".lower()
                values = {"model.fusion": name, "model.fusion_layer": layer, "seed_everything": seed}
                settings = {"model__fusion": fusion, "model__fusion_layer": layer, "seed_everything": seed}
                points.append((values, trial))
                if trial not in trials:
                    trials[trial] = configuration(**settings)
                    best = {"Bottleneck": 8, "CrossAttention": 10, "JointSelfAttention": 6}[name]
                    score = 0.72 - 0.002 * abs(layer - best) - 0.01 * (name != "Bottleneck") - 0.05 * (layer == 12)
                    score += 0.004 * ((seed * 7 + layer * 3) % 5 - 2)
                    make_run(folder / trial, score, **settings)
    make_plan(folder, points, trials)


def made(seed: int = 0, score: float = 0.7, parts: dict | None = None, state: str = "finished", **settings) -> Run:
    """A run without a folder."""
    config = configuration(seed_everything=seed, **settings)
    name = f"run-{score}-{seed}"
    return Run(name, f"runs/made/{name}", state, config, summary_of(config, score, **(parts or {})))


def unscored(name: str, state: str = "failed", message: str = "boom", **settings) -> Run:
    """A run without a folder and without a score."""
    return Run(name, f"runs/{name}", state, configuration(**settings), {}, message)


MINI = {"dataset": "audioset", "variant": "mini", "subset": None}
"""What a summary holds about the paper's main data set."""


def paper_setting(dataset: str = "audioset_mini", **settings) -> dict:
    """The paper's best setting on a data set."""
    return changed(nested(paper.recipe(dataset)), **settings)


def paper_run(name: str, score: float, data: dict | None = None, **settings) -> Run:
    """A run in the paper's setting."""
    config = paper_setting(**settings)
    return Run(name, f"runs/{name}", "finished", config, summary_of(config, score, data=MINI | (data or {})))


def compared(*folders: Path, score: str | None = None) -> Comparison:
    return compare(*read_folders(folders), score)


def notes(found: Comparison, title: str) -> str:
    """The notes under a heading, which starts like this."""
    return "\n".join(line for s in notes_of(found) if s.title.startswith(title) for line in s.lines)


def columns_by_title(found: Comparison) -> dict[str, Column]:
    return {column.title: column for column in columns_of(found) if column.title}


def cells(found: Comparison) -> dict[str, list[str]]:
    """What each column shows, by its heading."""
    return {title: [column.text(p) for p in found.points] for title, column in columns_by_title(found).items()}
