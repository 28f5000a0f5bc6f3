"""A table in the formats that it is read in: terminal, Markdown, LaTeX and CSV. Without torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbt_lightning.disk import csv_text
from mbt_lightning.table.columns import Column, shown_frame
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.notes import Section
from mbt_lightning.table.points import Point
from mbt_lightning.table.run_frame import group_of, key_of

if TYPE_CHECKING:
    import pandas as pd

# ---------------------------------------------------------------------------------------------------------------------
# Terminal
# ---------------------------------------------------------------------------------------------------------------------


def print_table(found: Comparison, columns: Sequence[Column], sections: Sequence[Section]) -> None:
    """Print the table, in parts where the terminal is too narrow for all scores, and the notes on it."""
    console = Console()
    shown = [column for column in columns if column.title]
    parts = parts_of(shown, found.points, console.width)
    for number, part in enumerate(parts):
        table = Table(title=None if number else f"{found.score} on {found.split}, per cent")
        for column in part:
            justify = "right" if column.is_number(found.points) else "left"
            table.add_column(heading(column), justify=justify, no_wrap=True)  # type: ignore[arg-type]
        rows = shown_frame(found, part, "\0{}".format)
        for place, row in enumerate(rows.itertuples(index=False, name=None)):
            table.add_row(*(f"[bold]{escape(cell[1:])}[/]" if cell[:1] == "\0" else escape(cell) for cell in row))
            if place + 1 in group_starts(found.points):
                table.add_section()
        console.print(table)
    if hidden := [column.title for column in shown if not any(column in part for part in parts)]:
        console.print(f"[dim]hidden (terminal too narrow): {escape(', '.join(hidden))}[/]", highlight=False)
    for section in sections:
        console.print(f"[bold]{escape(section.title)}[/]")
        for line in section.lines:
            console.print(f"- {escape(line)}", highlight=False, soft_wrap=True)


def group_starts(points: Sequence[Point]) -> set[int]:
    """The places at which another kind of strategy starts."""
    kinds = [point.strategy.kind for point in points]
    return {i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]}


def heading(column: Column) -> str:
    """A title that may take two lines."""
    return escape(column.title.replace(" ", "\n", 1))


def parts_of(columns: Sequence[Column], points: Sequence[Point], width: int) -> list[list[Column]]:
    """The columns as parts that fit into a width: one, and more where scores would not be shown.

    Every further part starts with what names its rows.
    """
    parts = [fitting(columns, points, width)]
    names = [column for column in columns if column.title == "L_f" or not column.is_number(points)]
    left = [column for column in columns if column.rank <= 1 and column not in parts[0]]
    while left:
        part = fitting([*names, *left], points, width)
        shown = [column for column in part if column in left] or left[:1]
        parts.append([*names, *shown])
        left = [column for column in left if column not in shown]
    return parts


def fitting(columns: Sequence[Column], points: Sequence[Point], width: int) -> list[Column]:
    """The columns that fit into a width, in their order; those of the highest rank are left out first."""
    room = width - 1
    chosen: list[Column] = []
    for column in sorted(columns, key=lambda c: c.rank):
        texts = [*map(column.text, points), *heading(column).split("\n")]
        widest = max(map(len, texts)) + 3
        if widest <= room or len(chosen) < 2:
            chosen.append(column)
            room -= widest
    return [column for column in columns if column in chosen]


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def alignment(found: Comparison, columns: Sequence[Column]) -> list[str]:
    """`right` for each shown column of numbers, `left` for words."""
    return ["right" if column.is_number(found.points) else "left" for column in columns if column.title]


def markdown(found: Comparison, columns: Sequence[Column], sections: Sequence[Section], figures: Sequence[str]) -> str:
    """The table, the figures and the notes as a Markdown page."""
    frame = shown_frame(found, columns, "\0{}\0".format).map(markdown_text).rename(columns=markdown_text)
    table = frame.to_markdown(index=False, disable_numparse=True, colalign=alignment(found, columns))
    lines = [f"# {markdown_text(found.score)} by fusion strategy", "", table.replace("\0", "**")]
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
"""What has a meaning in LaTeX or is missing from its usual fonts."""


def latex_text(text: str) -> str:
    """Text that LaTeX shows as it is, with L_f as the paper writes it."""
    escaped = "".join(LATEX.get(sign, sign) for sign in " ".join(text.split()))
    escaped = re.sub(r"\bL\\_f\b", r"$L_f$", escaped)
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def latex(found: Comparison, columns: Sequence[Column]) -> str:
    r"""The table for a paper, with booktabs' rules: `\usepackage{booktabs}`, then `\input` this file."""
    frame = shown_frame(found, columns, "\0{}".format).map(latex_text).rename(columns=latex_text)
    frame = frame.replace(r"^\x00(.*)$", r"\\textbf{\1}", regex=True)
    for start in group_starts(found.points):
        frame.iloc[start, 0] = "\\addlinespace\n" + frame.iloc[start, 0]
    title = latex_text(f"{found.score} on {found.split}")
    table = frame.to_latex(
        index=False,
        escape=False,
        caption=f"{title}, per cent: mean and standard deviation over seeds.",
        column_format="".join(side[0] for side in alignment(found, columns)),
    )
    table = table.replace("\\begin{tabular}", "\\centering\\small\\setlength{\\tabcolsep}{3pt}\n\\begin{tabular}", 1)
    return f"% Needs \\usepackage{{booktabs}}. Written by mbt table.\n{table}"


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV; what is unknown is empty, floats keep all their digits, no text is a formula."""
    safe = frame.rename(columns=csv_text)
    for place, kind in enumerate(frame.dtypes):
        if kind.kind == "O":  # a column of numbers keeps its type
            cells = [csv_text(cell) if isinstance(cell, str) else cell for cell in frame.iloc[:, place]]
            safe.isetitem(place, np.array([*cells, None], dtype=object)[:-1])
    return safe.to_csv(index=False, lineterminator="\n")


RUN_NUMBERS = {
    "parameters": "parameters",
    "gflops_per_clip": "gflops_per_clip",
    "gflops_as_coded": "gflops_as_coded",
    "peak_memory_gb": "peak_memory_gb",
    "epochs": "fit.epochs",
    "steps": "fit.steps",
    "training_seconds": "fit.training_seconds",
}
"""Columns of `runs.csv` by their place in a run's summary."""


def run_values(found: Comparison) -> pd.DataFrame:
    """A row a run, those that are not counted too: what it is, the settings that differ among the runs, its scores."""
    import pandas as pd

    run, settings = found.frame["run"], group_of(found.frame, "setting")
    names = {point.number: point.strategy.name for point in found.points}
    about = run[["run", "source", "state", "message", "role", "seed", "git_commit", "data_hash"]]
    about = about.assign(strategy=run["point"].map(names))
    differing = settings[[name for name in settings if key_of(name) in found.varying]]
    differing = differing.loc[:, differing.nunique(dropna=False) > 1]
    scores = group_of(found.frame, "test").add_prefix("test/")
    costs = (
        group_of(found.frame, "summary").reindex(columns=list(RUN_NUMBERS.values())).set_axis(list(RUN_NUMBERS), axis=1)
    )
    return pd.concat([about, differing, scores, costs], axis=1)
