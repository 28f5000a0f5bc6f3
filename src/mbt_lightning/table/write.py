"""A table of points in the formats that it is read in: terminal, Markdown, LaTeX and CSV. Without torch."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbt_lightning.config.settings import flat
from mbt_lightning.runs.read import Run
from mbt_lightning.table.columns import Column, mean_of, paper_gap
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.notes import Section
from mbt_lightning.table.points import Point, seed_of, state_of

# ---------------------------------------------------------------------------------------------------------------------
# Terminal
# ---------------------------------------------------------------------------------------------------------------------


def print_table(found: Comparison, columns: Sequence[Column], sections: Sequence[Section]) -> None:
    """Print the table, in parts where the terminal is too narrow for all scores, and what must be said of it."""
    console = Console()
    parts = parts_of(columns, console.width)
    for title, part in zip([f"{found.score} on {found.split}, per cent", *[None] * len(parts)], parts, strict=False):
        table = Table(title=title)
        for column in part:
            table.add_column(heading(column), justify="right" if column.is_number else "left", no_wrap=True)
        for place, point in enumerate(found.points):
            cells = [escape(column.cells[place]) for column in part]
            table.add_row(
                *(f"[bold]{c}[/]" if place in column.best else c for c, column in zip(cells, part, strict=True))
            )
            if place + 1 < len(found.points) and found.points[place + 1].kind != point.kind:
                table.add_section()
        console.print(table)
    if hidden := [column.title for column in columns if not any(column in part for part in parts)]:
        console.print(f"[dim]not shown for want of width: {escape(', '.join(hidden))}[/]", highlight=False)
    for section in sections:
        console.print(f"[bold]{escape(section.title)}[/]")
        for line in section.lines:
            console.print(f"- {escape(line)}", highlight=False, soft_wrap=True)


def heading(column: Column) -> str:
    """A title that may take two lines."""
    return escape(column.title.replace(" ", "\n", 1))


def parts_of(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """The columns as parts that fit into a width: one, and more where scores would not be shown.

    Every further part begins with what names its rows.
    """
    parts = [fitting(columns, width)]
    names = [column for column in columns if column.title in ("strategy", "L_f") or not column.is_number]
    left = [column for column in columns if column.rank <= 1 and column not in parts[0]]
    while left:
        part = fitting([*names, *left], width)
        shown = [column for column in part if column in left] or left[:1]
        parts.append([*names, *shown])
        left = [column for column in left if column not in shown]
    return parts


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into a width, in their order; those of the highest rank give way first."""
    room = width - 1
    chosen: list[Column] = []
    for column in sorted(columns, key=lambda c: c.rank):
        widest = max(len(text) for text in [*column.cells, *heading(column).split("\n")]) + 3
        if widest <= room or len(chosen) < 2:
            chosen.append(column)
            room -= widest
    return [column for column in columns if column in chosen]


# ---------------------------------------------------------------------------------------------------------------------
# Markdown and LaTeX
# ---------------------------------------------------------------------------------------------------------------------


def markdown(found: Comparison, columns: Sequence[Column], sections: Sequence[Section], figures: Sequence[str]) -> str:
    """The table, the figures and the sections as a Markdown page."""

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_text(cell) for cell in cells) + " |"

    lines = [f"# {markdown_text(found.score)} by fusion strategy", "", row([column.title for column in columns])]
    lines.append("|" + "|".join("---:" if column.is_number else "---" for column in columns) + "|")
    for place in range(len(found.points)):
        cells = [markdown_text(column.cells[place]) for column in columns]
        bold = [f"**{c}**" if place in column.best else c for c, column in zip(cells, columns, strict=True)]
        lines.append("| " + " | ".join(bold) + " |")
    for name in figures:
        lines += ["", f"![{name.replace('_', ' ')}]({name}.png)"]
    for section in sections:
        lines += ["", f"## {section.title}", "", *(f"- {markdown_text(line)}" for line in section.lines)]
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "≤": r"$\leq$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
"""What has a meaning in LaTeX or no letter in its usual fonts."""


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is; L_f as the paper writes it, and nothing outside of ASCII that it may not know."""
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    escaped = re.sub(r"\bL\\_f\b", r"$L_f$", escaped)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def latex(found: Comparison, columns: Sequence[Column]) -> str:
    r"""The table for a paper, with booktabs' rules: `\usepackage{booktabs}`, then `\input` this file."""

    def row(cells: Sequence[str]) -> str:
        return "  " + " & ".join(cells) + r" \\"

    title = latex_text(f"{found.score} on {found.split}")
    lines = [
        r"% Needs \usepackage{booktabs}. Written by mbt table.",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        f"\\caption{{{title}, per cent: mean and standard deviation over seeds.}}",
        r"\begin{tabular}{" + "".join("r" if column.is_number else "l" for column in columns) + "}",
        r"  \toprule",
        row([latex_text(column.title) for column in columns]),
        r"  \midrule",
    ]
    for place, point in enumerate(found.points):
        if place and found.points[place - 1].kind != point.kind:
            lines.append(r"  \addlinespace")
        cells = [latex_text(column.cells[place]) for column in columns]
        lines.append(
            row([rf"\textbf{{{c}}}" if place in column.best else c for c, column in zip(cells, columns, strict=True)])
        )
    return "\n".join([*lines, r"  \bottomrule", r"\end{tabular}", r"\end{table}", ""])


# ---------------------------------------------------------------------------------------------------------------------
# CSV
# ---------------------------------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with all columns that any of them has; what is None is empty, floats keep all their digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def point_rows(found: Comparison) -> list[dict[str, Any]]:
    """A row a point: every score's mean and standard deviation as fractions, and what it costs."""
    names = sorted({name for point in found.points for run in point.runs for name in run.test})
    rows = []
    for point in found.points:
        row: dict[str, Any] = {
            "strategy": point.strategy,
            "modalities": " ".join(point.modalities),
            "fusion_layer": point.fusion_layer,
            "num_bottlenecks": point.num_bottlenecks,
        }
        row |= {key: point.labels[key] for key in found.axes}
        row |= {"seeds": len(point.runs), "without_score": len(point.unscored)}
        row["states"] = "; ".join(f"{state_of(run)}: {run.why}".strip(": ") for run in point.unscored)
        for name in names:
            row |= {f"{name} mean": point.mean(name), f"{name} std": point.std(name)}
        row |= {
            "parameters": mean_of(point.about("parameters")),
            "gflops": point.gflops,
            "gflops_as_coded": point.gflops_as_coded,
            "training_seconds mean": mean_of(point.about("fit", "training_seconds")),
            "training_seconds sum": sum(point.about("fit", "training_seconds")) if point.runs else None,
            "peak_memory_gb mean": mean_of(point.about("peak_memory_gb")),
        }
        splits = dict.fromkeys(s for run in point.runs for s in (run.summary.get("data") or {}).get("coverage") or {})
        row |= {f"coverage {s}": min(point.about("data", "coverage", s), default=None) for s in splits}
        number, gap = point.paper, paper_gap(point)
        row |= {
            "paper": number and number.score / 100,
            "paper std": number.std / 100 if number and number.std is not None else None,
            "paper source": number and number.source,
            "difference": None if gap is None else gap / 100,
            "sweep": json.dumps(point.places) if point.places else None,
            "runs": " ".join(run.name for run in point.runs),
        }
        rows.append(row)
    return rows


def run_rows(found: Comparison) -> list[dict[str, Any]]:
    """A row a run, those that are not counted too: what it is, the settings that differ among the runs, its scores."""
    placed: list[tuple[Run, str, Point | None]] = []
    for point in found.points:
        placed += [(run, "counted", point) for run in point.runs]
        placed += [(run, "without a score", point) for run in point.unscored]
        placed += [(run, "counted once", point) for run in point.doubles]
    placed += [(run, "apart", None) for run, _ in found.apart]
    placed += [(run, "not read", None) for run, _ in found.unplaced]
    placed += [(run, "no training", None) for run in found.evaluations]
    settings = {id(run): flat(run.config) for run, _, _ in placed}
    values: dict[str, set[str]] = {}
    for chosen in settings.values():
        for name, value in chosen.items():
            values.setdefault(name, set()).add(json.dumps(value, default=str))
    differing = [name for name, known in values.items() if len(known) > 1]
    rows = []
    for run, role, owner in placed:
        summary, own = run.summary, settings[id(run)]
        row: dict[str, Any] = {"run": run.name, "source": run.source, "state": run.state, "message": run.why}
        row |= {"role": role, "seed": seed_of(run), "strategy": owner.strategy if owner else None}
        row |= {name: own.get(name) for name in differing}
        row |= {f"test/{name}": value for name, value in run.test.items()}
        row |= {name: summary.get(name) for name in ("parameters", "gflops_per_clip", "peak_memory_gb", "git_commit")}
        row |= {name: (summary.get("fit") or {}).get(name) for name in ("epochs", "steps", "training_seconds")}
        row["data hash"] = (summary.get("data") or {}).get("hash")
        rows.append(row)
    return rows
