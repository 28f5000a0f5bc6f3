"""The columns of a table of points, as numbers and as they are written. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mbt_lightning.errors import duration
from mbt_lightning.table.compare import Comparison, natural
from mbt_lightning.table.points import Point

NONE = "–"
"""What stands where there is no value."""


@dataclass
class Column:
    """A column of the table.

    Args:
        title: its heading.
        cells: a text a point.
        keys: a number or text a point to sort by; None where there is no value.
        is_number: whether it is aligned to the right.
        best: places of the best cells.
        about: what it is, in a sentence.
        rank: how soon a narrow terminal does without it; the largest first.
    """

    title: str
    cells: list[str]
    keys: list[float | str | None]
    is_number: bool = True
    best: set[int] = field(default_factory=set)
    about: str = ""
    rank: int = 0


def columns_of(found: Comparison) -> list[Column]:
    """All columns, from what is compared to what it costs."""
    points = found.points
    first = [words("strategy", points, lambda p: p.strategy)]
    layers = [p.fusion_layer for p in points]
    first.append(
        Column("L_f", [NONE if n is None else str(n) for n in layers], list(layers), about="First fused layer.")
    )
    for key in found.axes:
        column = words(axis_title(key), points, lambda p, key=key: p.labels[key])  # type: ignore[misc]
        column.keys = [natural(p.settings.get(key))[1] or p.labels[key] for p in points]
        column.is_number = all(isinstance(value, float) for value in column.keys)
        first.append(column)
    seeds = Column("seeds", [p.count for p in points], [float(len(p.runs)) for p in points])
    seeds.about = "Runs with a score, a seed each."
    scores = [score_column(found, found.main, found.score, "Of the mean of the modalities' logits.")]
    if len(found.modalities) > 1:
        for m in found.modalities:
            about = f"Of the logits of {m} alone, in the same model."
            scores.append(score_column(found, f"{m}/{found.score}", m, about))
            scores[-1].rank = 2
    for group in found.groups:
        about = f"Fused score of the classes in the group {group}."
        scores.append(score_column(found, f"{found.main}/{group}", group, about))
        scores[-1].rank = 1
    return [*first, seeds, *scores, *paper_columns(points), *cost_columns(points)]


def words(title: str, points: Iterable[Point], get: Callable[[Point], str]) -> Column:
    """A column of words."""
    cells = [get(point) for point in points]
    return Column(title, cells, list(cells), is_number=False)


def axis_title(key: str) -> str:
    """What a swept setting is called in a heading."""
    return {
        "data.window_seconds": "window (s)",
        "data.manifest": "data",
        "model.share_encoder": "one encoder",
        "model.init": "starting weights",
    }.get(key, key.rpartition(".")[2].replace("_", " "))


def score_column(found: Comparison, name: str, title: str, about: str) -> Column:
    """Mean and standard deviation of a score, per cent."""
    means = [point.mean(name) for point in found.points]
    stds = [point.std(name) for point in found.points]
    cells = [per_cent(mean, std) for mean, std in zip(means, stds, strict=True)]
    for place, point in enumerate(found.points):
        if 0 < (n := len(point.values(name))) < len(point.runs):
            cells[place] += f" (n = {n})"
    known = [mean for mean in means if mean is not None]
    most = per_cent(max(known, default=None))
    best = {
        i for i, mean in enumerate(means) if len(known) > 1 and mean is not None and per_cent(mean) == most
    }  # as it is read
    return Column(title, cells, list(means), best=best, about=f"{about} Test, per cent, mean ± standard deviation.")


def per_cent(mean: float | None, std: float | None = None) -> str:
    """A fraction per cent, with its standard deviation if there is one."""
    if mean is None:
        return NONE
    return f"{100 * mean:.2f}" + (f" ± {100 * std:.2f}" if std is not None else "")


def paper_columns(points: Sequence[Point]) -> list[Column]:
    """The paper's number and the distance to it, if any point has one."""
    if not any(point.paper for point in points):
        return []
    theirs, gaps = Column("paper", [], []), Column("difference", [], [])
    for point in points:
        number = point.paper
        spread = f" ± {number.std:.2f}" if number and number.std is not None else ""
        theirs.cells.append(f"{number.score:g}{spread} [{number.source}]" if number else NONE)
        theirs.keys.append(number.score if number else None)
        gap = paper_gap(point)
        gaps.cells.append(NONE if gap is None else f"{gap:+.2f}" + "*" * is_on_part(point))
        gaps.keys.append(gap)
    theirs.about = "arXiv:2107.00135v3, where the setting is the paper's. Figures are digitised."
    gaps.about = "Ours less the paper's, in points of per cent; *: clips of the official test set are missing."
    return [theirs, gaps]


def is_on_part(point: Point) -> bool:
    """Whether clips of the official test set were missing in a run of a point."""
    part = coverage_of(point)[1]
    return part is not None and part < 1


def paper_gap(point: Point) -> float | None:
    """A point's score less the paper's, per cent; None if the paper has none for it."""
    mean = point.mean(f"fused/{point.paper.metric}") if point.paper else None
    return None if mean is None or point.paper is None else 100 * mean - point.paper.score


def cost_columns(points: Sequence[Point]) -> list[Column]:
    """What a point costs: parameters, multiply-adds, time, memory, and how much of the data there was."""
    parameters = [mean_of(point.about("parameters")) for point in points]
    seconds = [mean_of(point.about("fit", "training_seconds")) for point in points]
    memory = [mean_of(point.about("peak_memory_gb")) for point in points]
    ours, theirs = [p.gflops for p in points], [p.gflops_as_coded for p in points]
    covered = [coverage_of(point) for point in points]
    least = [min(filter(None, pair), default=None) if any(pair) else None for pair in covered]
    return [
        Column("parameters (M)", [short(n and n / 1e6) for n in parameters], list(parameters), rank=3),
        Column(
            "GFLOPs", [short(n) for n in ours], list(ours), about="Multiply-adds of a clip, as this program runs it."
        ),
        Column(
            "as coded",
            [short(n) for n in theirs],
            list(theirs),
            about="GFLOPs in the authors' code, which runs cross-attention at about twice its cost.",
            rank=3,
        ),
        Column(
            "training",
            [took(n) for n in seconds],
            list(seconds),
            about="Mean of a run.",
            rank=4,
        ),
        Column("memory (GB)", [short(n) for n in memory], list(memory), about="Peak, mean of the runs.", rank=4),
        Column(
            "coverage (%)",
            [" / ".join(NONE if part is None else f"{100 * part:.4g}" for part in pair) for pair in covered],
            list(least),
            about="Usable part of the official clips to train on / to test on.",
            rank=4,
        ),
    ]


def coverage_of(point: Point) -> tuple[float | None, float | None]:
    """The least part of the official training and test clips that a run of a point had."""
    splits = ("train", point.config["data"].get("test_split", "test"))
    train, test = (min(point.about("data", "coverage", split), default=None) for split in splits)
    return train, test


def mean_of(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing."""
    return fmean(values) if values else None


def short(value: float | None) -> str:
    """A number with four figures."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 1000 else f"{value:#.4g}".rstrip(".")


def took(seconds: float | None) -> str:
    """A length of time, if it is known."""
    return NONE if seconds is None else duration(seconds)
