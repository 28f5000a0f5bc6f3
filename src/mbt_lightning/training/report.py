"""The printed results of a run: tables of scores and of predictions."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from lightning.pytorch import Trainer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mbt_lightning.disk import csv_text
from mbt_lightning.runs.diverged import NON_FINITE, divergence
from mbt_lightning.training.module import AudioVisualClassifier
from mbt_lightning.training.recorder import numbers


def print_scores(trainer: Trainer, stage: str, folder: Path | None) -> None:
    if not trainer.is_global_zero:
        return
    values, data = numbers(trainer, f"{stage}/"), trainer.datamodule  # type: ignore[attr-defined]
    _, official = data.manifest.coverage[{"val": data.val_split, "test": data.test_split}[stage]]
    logits = list(dict.fromkeys(k.split("/")[0] for k in values if "/" in k))
    scores = list(dict.fromkeys(k.split("/", 1)[1] for k in values if "/" in k))
    table = Table(title=f"{stage}: {values['clips']:.0f} clips, {values.get('bad_clips', 0):.0f} unreadable")
    table.add_column("score", overflow="fold")
    for name in logits:
        table.add_column(name, justify="right", overflow="fold")
    for score in scores:
        digits = 0 if score.startswith("classes") else 3
        shown = [values[f"{name}/{score}"] for name in logits]
        table.add_row(score.replace("_", " "), *("–" if math.isnan(x) else f"{x:.{digits}f}" for x in shown))
    Console().print(table)
    share = values["clips"] / official
    print(f"scored {values['clips']:.0f} of {official} official clips ({share:.1%}); data {data.manifest.digest}")
    if problem := divergence(values):
        print(problem)
    print(f"summary: {folder}/summary.json")


def print_predictions(trainer: Trainer, model: AudioVisualClassifier, folder: Path, top: int = 5) -> None:
    """Print the most probable classes of every file, and write all probabilities to `predictions.csv`."""
    index, logits, _ = model.predictions
    probabilities = model.task.probabilities(logits["fused"])
    examples = trainer.predict_dataloaders.dataset.examples  # type: ignore[union-attr]
    classes = model.spec.classes
    names = [Path(example.clip_id).name for example in examples]
    if len(set(names)) < len(names):
        names = [example.clip_id for example in examples]
    best = probabilities.topk(min(top, len(classes)))
    table = Table(Column("file", overflow="fold"), *(f"top {k + 1}" for k in range(best.indices.shape[1])))
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *map(csv_text, classes)])
        for i, row, values, places in zip(index.tolist(), probabilities, best.values, best.indices, strict=True):
            writer.writerow([csv_text(examples[i].clip_id), *(f"{p:.6f}" for p in row.tolist())])
            table.add_row(
                escape(names[i]),
                *(escape(f"{classes[c]} {p:.2f}") for p, c in zip(values.tolist(), places.tolist(), strict=True)),
            )
    Console().print(table)
    lost = int((~logits["fused"].isfinite().all(-1)).sum())
    if problem := divergence({NON_FINITE: lost, "clips": len(index)}):
        print(problem)
    print(f"all probabilities: {folder / 'predictions.csv'}")
