"""The columns of a table, each defined once: its name in CSV, its heading, its values and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbt_lightning.errors import duration
from mbt_lightning.table.compare import Comparison, axis_title
from mbt_lightning.table.points import Point, by_number
from mbt_lightning.table.run_frame import state_of

if TYPE_CHECKING:
    import pandas as pd

NONE = "–"
"""Shown where there is no value."""

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        name: in `table.csv`.
        get: a point's value: a number, or words; None where there is none.
        title: the heading; empty for a column of `table.csv` only.
        show: a point's value as it is shown; None: the value itself.
        sort: what a point is sorted by; None: the value.
        about: what it is, in a sentence.
        rank: how soon it is hidden in a narrow terminal; the largest first.
        is_score: whether its values are compared and the best is marked.
        std: the standard deviation of a score.
    """

    name: str
    get: Callable[[Point], Value]
    title: str = ""
    show: Callable[[Point], str] | None = None
    sort: Callable[[Point], Value] | None = None
    about: str = ""
    rank: int = 0
    is_score: bool = False
    std: Callable[[Point], float | None] | None = None

    def text(self, point: Point) -> str:
        """A point's value as it is shown."""
        if self.show:
            return self.show(point)
        value = self.get(point)
        return NONE if value is None else str(value)

    def key(self, point: Point) -> Value:
        """What a point is sorted by."""
        return (self.sort or self.get)(point)

    def is_number(self, points: Sequence[Point]) -> bool:
        """Whether all its values are numbers."""
        return all(not isinstance(self.key(point), str) for point in points)

    def best(self, points: Sequence[Point]) -> set[int]:
        """Places of the best scores, as they are read: those that are shown alike are alike."""
        values = [self.get(point) for point in points]
        known = [value for value in values if isinstance(value, float)]
        if not self.is_score or len(known) < 2:
            return set()
        most = per_cent(max(known))
        return {i for i, value in enumerate(values) if isinstance(value, float) and per_cent(value) == most}


def columns_of(found: Comparison) -> list[Column]:
    """All columns, from what is compared to what it costs; those without a title are in `table.csv` only."""
    columns = [
        Column("strategy", lambda p: p.strategy.name, "strategy"),
        Column("modalities", lambda p: " ".join(p.strategy.modalities)),
        Column("fusion_layer", lambda p: p.strategy.fusion_layer, "L_f", about="First fused layer."),
        Column("num_bottlenecks", lambda p: p.strategy.num_bottlenecks),
        *(axis_column(key) for key in found.axes),
        Column("seeds", lambda p: len(p.runs), "seeds", lambda p: p.seeds, about="Runs with a score, a seed each."),
        Column("without_score", lambda p: len(p.unscored)),
        Column("states", lambda p: "; ".join(f"{state_of(r)}: {r.why}".strip(": ") for r in p.unscored)),
        *([validation_column()] if any(p.validation is not None for p in found.points) else []),
        *score_columns(found),
        *(paper_columns() if any(p.paper for p in found.points) else []),
        *cost_columns(found),
        Column("sweep", lambda p: json.dumps(p.places) if p.places else None),
        Column("runs", lambda p: " ".join(run.name for run in p.runs)),
    ]
    return columns


def axis_column(key: str) -> Column:
    """A swept setting."""

    def sort(point: Point) -> Value:
        is_text, number, _ = by_number(point.settings.get(key))
        return point.labels[key] if is_text else number

    return Column(key, lambda p: p.labels[key], axis_title(key), sort=sort)


def validation_column() -> Column:
    """The score by which the epoch that is tested was chosen."""

    def std(point: Point) -> float | None:
        return point.statistic("summary/fit.val_score", "std")

    return Column(
        "validation mean",
        lambda p: p.validation,
        "validation",
        lambda p: per_cent(p.validation, std(p)),
        about="Main score on the validation split, of the epoch that is tested, per cent.",
        rank=2,
        std=std,
    )


def score_columns(found: Comparison) -> list[Column]:
    """The main score, those of each modality and of each group of classes, then the others for CSV."""
    shown = {found.main: (found.score, "Of the mean of the modalities' logits.", 0)}
    if len(found.modalities) > 1:
        for m in found.modalities:
            shown[f"{m}/{found.score}"] = (m, f"Of the logits of {m} alone, in the same model.", 2)
    for group in found.groups:
        shown[f"{found.main}/{group}"] = (group, f"Fused score of the classes in the group {group}.", 1)
    columns = []
    for name in [*shown, *sorted(set(found.scores) - shown.keys())]:
        title, about, rank = shown.get(name, ("", "", 0))
        columns += score_column(name, title, f"{about} Test, per cent, mean ± standard deviation.", rank)
    return columns


def score_column(name: str, title: str, about: str, rank: int) -> list[Column]:
    """Mean and standard deviation of a score."""

    def show(point: Point) -> str:
        text, n = per_cent(point.mean(name), point.std(name)), point.count(name)
        return text + (f" (n = {n})" if 0 < n < len(point.runs) else "")

    def mean(point: Point) -> Value:
        return point.mean(name)

    def std(point: Point) -> float | None:
        return point.std(name)

    return [
        Column(f"{name} mean", mean, title, show, about=about, rank=rank, is_score=True, std=std),
        Column(f"{name} std", std),
    ]


def per_cent(mean: float | None, std: float | None = None) -> str:
    """A fraction per cent, with its standard deviation if there is one."""
    if mean is None:
        return NONE
    return f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")


def paper_columns() -> list[Column]:
    """The paper's number and the distance to it."""

    def show(point: Point) -> str:
        if not (number := point.paper):
            return NONE
        spread = f" ± {number.std:.2f}" if number.std is not None else ""
        return f"{number.score:g}{spread} [{number.source}]"

    def gap(point: Point) -> str:
        value = paper_gap(point)
        return NONE if value is None else f"{value:+.2f}" + "*" * is_on_part(point)

    about = "arXiv:2107.00135v3, where the setting is the paper's. Figures are digitised."
    distance = "Ours minus the paper's, in points of per cent; *: clips of the official test set are missing."
    return [
        Column("paper", lambda p: p.paper.score / 100 if p.paper else None, "paper", show, about=about),
        Column("paper std", lambda p: p.paper.std / 100 if p.paper and p.paper.std is not None else None),
        Column("paper source", lambda p: p.paper.source if p.paper else None),
        Column("difference", lambda p: over(paper_gap(p), 100), "difference", gap, about=distance),
    ]


def is_on_part(point: Point) -> bool:
    """Whether clips of the official test set were missing in a run of a point."""
    return (part := point.test_coverage) is not None and part < 1


def paper_gap(point: Point) -> float | None:
    """A point's score minus the paper's, per cent; None if the paper has none for it."""
    mean = point.mean(f"fused/{point.paper.metric}") if point.paper else None
    return None if mean is None or point.paper is None else 100 * mean - point.paper.score


def cost_columns(found: Comparison) -> list[Column]:
    """What a point costs: parameters, multiply-adds, time, memory, and how much of the data there was."""

    def cost(name: str, title: str, source: str, factor: float = 1, about: str = "", rank: int = 4) -> Column:
        return Column(
            name,
            lambda p: p.statistic(f"summary/{source}"),
            title,
            lambda p: short(over(p.statistic(f"summary/{source}"), factor)),
            about=about,
            rank=rank,
        )

    def coverage(point: Point) -> tuple[float | None, float | None]:
        return point.coverage("train"), point.test_coverage

    seconds = "summary/fit.training_seconds"
    splits = dict.fromkeys(
        split for p in found.points for run in p.runs for split in (run.summary.get("data") or {}).get("coverage") or {}
    )
    return [
        cost("parameters", "parameters (M)", "parameters", 1e6, rank=3),
        Column(
            "gflops",
            lambda p: p.gflops,
            "GFLOPs",
            lambda p: short(p.gflops),
            about="Multiply-adds of a clip, as this program runs it.",
        ),
        Column(
            "gflops_as_coded",
            lambda p: p.gflops_as_coded,
            "as coded",
            lambda p: short(p.gflops_as_coded),
            about="GFLOPs in the authors' code, which runs cross-attention at about twice its cost.",
            rank=3,
        ),
        Column(
            "training_seconds mean",
            lambda p: p.statistic(seconds),
            "training",
            lambda p: NONE if (mean := p.statistic(seconds)) is None else duration(mean),
            about="Mean of a run.",
            rank=4,
        ),
        Column("training_seconds sum", lambda p: p.statistic(seconds, "sum")),
        cost("peak_memory_gb mean", "memory (GB)", "peak_memory_gb", about="Peak, mean of the runs."),
        Column(
            "coverage",
            lambda p: min((part for part in coverage(p) if part is not None), default=None),
            "coverage (%)",
            lambda p: " / ".join(NONE if part is None else f"{100 * part:.4g}" for part in coverage(p)),
            about="Usable part of the official clips to train on / to test on.",
            rank=4,
        ),
        *(Column(f"coverage {split}", lambda p, split=split: p.coverage(split)) for split in splits),  # type: ignore[misc]
    ]


def over(value: float | None, factor: float) -> float | None:
    """A value in another unit, if it is known."""
    return None if value is None else value / factor


def short(value: float | None) -> str:
    """A number with four figures."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 1000 else f"{value:#.4g}".rstrip(".")


def shown_frame(found: Comparison, columns: Sequence[Column], mark: Callable[[str], str] = str) -> pd.DataFrame:
    """The columns that have a title, as they are shown: a row a point.

    Args:
        found: the table's points.
        columns: its columns.
        mark: how the best scores are marked.
    """
    import pandas as pd

    cells = {}
    for column in columns:
        if column.title:
            best = column.best(found.points)
            texts = [column.text(point) for point in found.points]
            cells[column] = [mark(text) if place in best else text for place, text in enumerate(texts)]
    frame = pd.DataFrame(dict(enumerate(cells.values())))
    frame.columns = pd.Index([column.title for column in cells])
    return frame


def value_frame(found: Comparison, columns: Sequence[Column]) -> pd.DataFrame:
    """All columns as numbers with all their digits, or words: a row a point."""
    import pandas as pd

    values: dict[str, list[Any]] = {column.name: [column.get(point) for point in found.points] for column in columns}
    return pd.DataFrame(values, dtype=object)
