"""The table as one page of HTML that needs no network: sortable, with plots, settings and curves. Without torch.

The page is made from the template `page.html`; its plots are drawn by BokehJS, which it includes.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import RUNTIME_ONLY, SEED, flat, is_under
from mbt_lightning.runs.read import Curves, Run
from mbt_lightning.table.columns import Column
from mbt_lightning.table.compare import STRATEGY, Comparison
from mbt_lightning.table.notes import Section
from mbt_lightning.table.run_frame import seed_of, state_of
from mbt_lightning.table.strategies import STYLES, styles
from mbt_lightning.table.write import group_starts

GENERATOR = "mbt table"
"""The name of the program that a page is made by, in its head."""

CURVES = ("train/loss", "val/loss", "val/score")
"""Metrics whose curves are in the page, beside those of the groups of classes."""

MOST_VALUES = 300_000
"""In all curves of a page together; more would make it slow to open."""

SCRIPTS = ("bokeh.min.js", "bokeh-api.min.js")


def page(
    found: Comparison, columns: Sequence[Column], sections: Sequence[Section], folder: Path, figures: Sequence[str]
) -> str:
    """The whole page.

    Args:
        found: the table's points.
        columns: its columns.
        sections: the notes.
        folder: where the figures' SVG files are.
        figures: their names.
    """
    from jinja2 import Environment

    shown = [column for column in columns if column.title]
    best = [column.best(found.points) for column in shown]
    starts = group_starts(found.points)
    rows = [
        {
            "cells": [(column.text(point), place in best[i]) for i, column in enumerate(shown)],
            "starts_group": place in starts,
        }
        for place, point in enumerate(found.points)
    ]
    scripts = files("bokeh").joinpath("server/static/js")
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            generator=GENERATOR,
            score=found.score,
            split=found.split,
            columns=[(column, column.is_number(found.points)) for column in shown],
            rows=rows,
            figures=[(name.replace("_", " "), image(folder / f"{name}.svg")) for name in figures],
            sections=sections,
            data=content(found, shown),
            scripts=[scripts.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS],
        )
    )


def is_ours(path: Path) -> bool:
    """Whether a file is a page that was written by `mbt table`."""
    return path.is_file() and f'content="{GENERATOR}"'.encode() in path.read_bytes()[:2000]


def image(path: Path) -> str:
    """An SVG file as an address that contains it."""
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()


def content(found: Comparison, columns: Sequence[Column]) -> dict[str, Any]:
    """What the page's script needs: the values of the columns, and the settings and curves of every row.

    Settings that most rows share are there once; each row has those in which it differs.
    """
    configs = [{name: as_text(value) for name, value in flat(point.config).items()} for point in found.points]
    names = dict.fromkeys(name for config in configs for name in config)
    common = {name: Counter(c[name] for c in configs if name in c).most_common(1)[0][0] for name in names}
    runs = [run for point in found.points for run in [*point.runs, *point.unscored]]
    wanted = [*CURVES, *(f"val/{found.main}/{group}" for group in found.groups)]
    most = max(20, min(200, MOST_VALUES // max(1, len(runs) * len(wanted))))
    rows = []
    for point, config in zip(found.points, configs, strict=True):
        own = {name: value for name, value in config.items() if value != common[name]}
        rows.append(
            {
                "keys": [column.key(point) for column in columns],
                "stds": [column.std(point) if column.std else None for column in columns],
                "name": found.name_of(point),
                "kind": point.strategy.kind,
                "settings": {name: value for name, value in own.items() if is_identity(name)},
                "others": {name: value for name, value in own.items() if not is_identity(name)},
                "absent": [name for name in common if name not in config],
                "runs": [about(run, wanted, most) for run in [*point.runs, *point.unscored]],
            }
        )
    settings = ("strategy", *(name.rpartition(".")[2] for name in STRATEGY), *found.axes)
    return {
        "columns": [
            {
                "title": column.title,
                "isNumber": column.is_number(found.points),
                "isScore": column.is_score,
                "isSetting": column.name in settings,
            }
            for column in columns
        ],
        "common": common,
        "rows": rows,
        "styles": styles(point.strategy.kind for point in found.points),
        "colours": [colour for colour, _ in STYLES],
    }


def is_identity(name: str) -> bool:
    """Whether a setting distinguishes points: the seed and what belongs to the machine do not."""
    return name != SEED and not is_under(name, RUNTIME_ONLY)


def as_text(value: Any) -> str:
    """A setting's value as it is in a file."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def about(run: Run, wanted: Sequence[str], most: int) -> dict[str, Any]:
    """A run and its curves."""
    return {
        "seed": seed_of(run),
        "state": state_of(run),
        "message": run.why,
        "source": run.source,
        "curves": thinned(run.curves(), wanted, most),
    }


def thinned(curves: Curves, wanted: Sequence[str], most: int) -> dict[str, list[tuple[int, float]]]:
    """Some curves with at most so many points, evenly chosen, the first and the last among them."""
    found = {}
    for name in wanted:
        points = curves.get(name, [])
        if len(points) > most:
            points = [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
        if points:
            found[name] = [(step, float(f"{value:.5g}")) for step, value in points]
    return found
