"""What a run prints at its end: tables of scores and of predictions."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from lightning.pytorch import Trainer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mbt_lightning.runs.diverged import NON_FINITE, divergence
from mbt_lightning.training.module import AudioVisualClassifier
from mbt_lightning.training.recorder import numbers


def print_scores(trainer: Trainer, stage: str, folder: Path | None) -> None:
    """Print a row of scores for each modality and for their fusion."""
    if not trainer.is_global_zero:
        return
    values, data = numbers(trainer, f"{stage}/"), trainer.datamodule  # type: ignore[attr-defined]
    used, official = data.manifest.coverage[{"val": data.val_split, "test": data.test_split}[stage]]
    rows = list(dict.fromkeys(k.split("/")[0] for k in values if "/" in k))
    columns = list(dict.fromkeys(k.split("/", 1)[1] for k in values if "/" in k))
    table = Table(title=f"{stage}: {values['clips']:.0f} clips, {values.get('bad_clips', 0):.0f} unreadable")
    table.caption = f"{used} of {official} official clips ({used / official:.1%}), data {data.manifest.digest}"
    table.add_column("logits of")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        scores = {c: values[f"{row}/{c}"] for c in columns}
        digits = {c: 0 if c.startswith("classes") else 3 for c in columns}
        table.add_row(row, *("–" if math.isnan(x) else f"{x:.{digits[c]}f}" for c, x in scores.items()))
    Console().print(table)
    if told := divergence(values):
        print(told)
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
        writer.writerow(["file", *classes])
        for i, row, values, places in zip(index.tolist(), probabilities, best.values, best.indices, strict=True):
            writer.writerow([examples[i].clip_id, *(f"{p:.6f}" for p in row.tolist())])
            table.add_row(
                escape(names[i]),
                *(escape(f"{classes[c]} {p:.2f}") for p, c in zip(values.tolist(), places.tolist(), strict=True)),
            )
    Console().print(table)
    lost = int((~logits["fused"].isfinite().all(-1)).sum())
    if told := divergence({NON_FINITE: lost, "clips": len(index)}):
        print(told)
    print(f"all probabilities: {folder / 'predictions.csv'}")
