"""The table as one page of HTML that needs no network: sortable, with figures, settings and curves. Without torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mbt_lightning.config.settings import RUNTIME_ONLY, flat
from mbt_lightning.runs.read import Curves, Run
from mbt_lightning.table.columns import Column
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.notes import Section, name_of
from mbt_lightning.table.points import SEED, seed_of, state_of

GENERATOR = '<meta name="generator" content="mbt table">'
"""By which a page is known as one of ours."""

CURVES = ("train/loss", "val/loss", "val/score")
"""What is drawn of a run, beside the groups of classes."""

MOST_VALUES = 300_000
"""Of all curves of a page together; more would make it slow to open."""


def page(
    found: Comparison, columns: Sequence[Column], sections: Sequence[Section], folder: Path, figures: Sequence[str]
) -> str:
    """The whole page.

    Args:
        found: the table's points.
        columns: its columns.
        sections: what must be said of them.
        folder: where the figures' SVG files lie.
        figures: their names.
    """
    parts = {
        "GENERATOR": GENERATOR,
        "TITLE": escape(f"{found.score} by fusion strategy"),
        "LEAD": escape(f"{found.score} on {found.split}, per cent, mean ± standard deviation over seeds."),
        "TABLE": table(found, columns),
        "FIGURES": "".join(figure(folder / f"{name}.svg", name) for name in figures),
        "NOTES": "".join(
            f"<h2>{escape(s.title)}</h2>\n<ul>{''.join(f'<li>{escape(line)}</li>' for line in s.lines)}</ul>\n"
            for s in sections
        ),
        "DATA": embedded(content(found, columns)),
    }
    if figures:
        parts["FIGURES"] = f'<h2>Figures</h2>\n<div class="figures">{parts["FIGURES"]}</div>'
    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return re.sub("%%([A-Z]+)%%", lambda match: parts[match[1]], template)


def embedded(data: Any) -> str:
    """JSON that may stand inside of a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def table(found: Comparison, columns: Sequence[Column]) -> str:
    """Head and body of the table; the first cell of a row opens it."""

    def kind(column: Column) -> str:
        return ' class="number"' if column.is_number else ""

    heads = "".join(
        f'<th scope="col" aria-sort="none"{kind(c)} title="{escape(c.about)}"><button>{escape(c.title)}</button></th>'
        for c in columns
    )
    rows = []
    for place, point in enumerate(found.points):
        begins = place and found.points[place - 1].kind != point.kind
        first, *others = columns
        name = f'<th scope="row"><button aria-expanded="false">{escape(first.cells[place])}</button></th>'
        cells = []
        for column in others:
            classes = " ".join(["number"] * column.is_number + ["best"] * (place in column.best))
            cells.append(f'<td class="{classes}">{escape(column.cells[place])}</td>')
        rows.append(f'<tr class="point{" kind" if begins else ""}" data-row="{place}">{name}{"".join(cells)}</tr>')
    return f"<thead><tr>{heads}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"


def figure(path: Path, name: str) -> str:
    """An SVG file as a part of the page; its ids are made its own, since several figures share one page."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    label = escape(name.replace("_", " "))
    return f'<figure>{text.replace("<svg", f"""<svg role="img" aria-label="{label}" """, 1)}</figure>\n'


def content(found: Comparison, columns: Sequence[Column]) -> dict[str, Any]:
    """What the page's own program needs: keys to sort by, and of every row its settings and curves.

    Settings that most rows share are there once; each row has those in which it differs.
    """
    configs = [{name: told(value) for name, value in flat(point.config).items()} for point in found.points]
    names = dict.fromkeys(name for config in configs for name in config)
    common = {name: Counter(c[name] for c in configs if name in c).most_common(1)[0][0] for name in names}
    runs = [run for point in found.points for run in [*point.runs, *point.unscored]]
    wanted = [*CURVES, *(f"val/{found.main}/{group}" for group in found.groups)]
    most = max(20, min(200, MOST_VALUES // max(1, len(runs) * len(wanted))))
    rows = []
    for place, (point, config) in enumerate(zip(found.points, configs, strict=True)):
        own = {name: value for name, value in config.items() if value != common[name]}
        rows.append(
            {
                "keys": [column.keys[place] for column in columns],
                "name": name_of(point),
                "settings": {name: value for name, value in own.items() if matters(name)},
                "others": {name: value for name, value in own.items() if not matters(name)},
                "absent": [name for name in common if name not in config],
                "runs": [about(run, wanted, most) for run in [*point.runs, *point.unscored]],
            }
        )
    return {"columns": [{"number": column.is_number} for column in columns], "common": common, "rows": rows}


def matters(name: str) -> bool:
    """Whether a setting tells points apart: the seed and what belongs to the machine do not."""
    return name != SEED and not any(name == other or name.startswith(f"{other}.") for other in RUNTIME_ONLY)


def told(value: Any) -> str:
    """A setting's value as it would stand in a file."""
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
