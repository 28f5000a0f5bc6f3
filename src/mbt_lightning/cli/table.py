"""`mbt table`: runs, or a sweep, as a table with figures, and as one page of HTML. Does not wait for torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.planned_runs import Plan, read_folders
from mbt_lightning.table.columns import columns_of
from mbt_lightning.table.compare import Comparison, compare
from mbt_lightning.table.figures import draw
from mbt_lightning.table.html_page import GENERATOR, page
from mbt_lightning.table.notes import notes_of
from mbt_lightning.table.write import latex, markdown, point_rows, print_table, run_rows, write_csv

MAKE_RUNS = "make one by `mbt fit --config experiments/base.yaml`, or many by `mbt sweep sweeps/demo.yaml`"
MATPLOTLIB = "figures need matplotlib: pip install 'mbt-lightning[table]'"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are the program's."""

    def error(self, message: str) -> NoReturn:
        """Refuse the options."""
        raise UserError(f"{self.prog}: {message}")


def parser() -> Parser:
    """The options of `mbt table`."""
    options = Parser(
        prog="mbt table",
        description="Put runs side by side: a table with mean and standard deviation over seeds, and figures.",
        epilog="Runs that differ in more than what is swept are listed apart, with the settings that differ.",
        allow_abbrev=False,
    )
    options.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="folders of runs, at any depth; default: runs, where no W&B is asked",
    )
    options.add_argument("--wandb", metavar="ENTITY/PROJECT[/SWEEP]", help="read the runs of a W&B project or sweep")
    options.add_argument("--out", default="ablation", metavar="FOLDER", help="where files go; default: ablation")
    options.add_argument(
        "--score", metavar="NAME", help="the score to judge by, e.g. top5; default: the task's main one"
    )
    options.add_argument("--html", action="store_true", help="write index.html too: one page that needs no network")
    options.add_argument("--no-figures", action="store_true", help="leave out the figures")
    return options


def main(arguments: Sequence[str]) -> None:
    """Print and write the table.

    Args:
        arguments: what stands behind `mbt table`.

    Raises:
        UserError: options that make no sense, a file that cannot be read, nothing to show.
    """
    options = parser().parse_args(list(arguments))
    runs, plans = read(options.folders, options.wandb)
    found = compare(runs, plans, options.score)
    check(found, options.score, options.wandb or ", ".join(options.folders or ["runs"]))
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot make this folder ({error.strerror}); name another") from None
    columns, sections = columns_of(found), notes_of(found)
    print_table(found, columns, sections)

    figures: list[str] = []
    if not options.no_figures:
        try:
            figures = draw(found, out)
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            print(MATPLOTLIB)
    (out / "table.md").write_text(markdown(found, columns, sections, figures), encoding="utf-8")
    (out / "table.tex").write_text(latex(found, columns), encoding="utf-8")
    write_csv(out / "table.csv", point_rows(found))
    write_csv(out / "runs.csv", run_rows(found))
    written = ["table.md", "table.tex", "table.csv", "runs.csv", *(f"{name}.png, .svg" for name in figures)]
    if options.html:
        (out / "index.html").write_text(page(found, columns, sections, out, figures), encoding="utf-8")
        written.append("index.html")
    elif is_ours(out / "index.html"):
        (out / "index.html").unlink()  # of an earlier call, perhaps of other runs
    print(f"written to {out}/: {', '.join(written)}")


def is_ours(path: Path) -> bool:
    """Whether a file is a page that was written by `mbt table`."""
    return path.is_file() and GENERATOR.encode() in path.read_bytes()[:2000]


def read(folders: Sequence[str], wandb: str | None) -> tuple[list[Run], list[Plan]]:
    """The runs that are asked for.

    Args:
        folders: folders of runs.
        wandb: a project or sweep of W&B.
    """
    runs, plans = read_folders(folders or ([] if wandb else ["runs"]))
    if wandb:
        from mbt_lightning.table.wandb_runs import read_wandb  # W&B, seconds

        found, varied = read_wandb(wandb)
        runs, plans = runs + found, plans + varied
    return runs, plans


def check(found: Comparison, score: str | None, place: str) -> None:
    """Refuse to make a table of nothing, or of a score that there is not."""
    if not found.points:
        others = len(found.unplaced) + len(found.evaluations)
        why = f"none of {others} runs there is a training with a configuration" if others else "no runs there"
        raise UserError(f"{place}: {why}; {MAKE_RUNS}")
    scores = {
        name: max(values, default=0)
        for name in {name for point in found.points for run in point.runs for name in run.test}
        if name.startswith("fused/") and (values := [v for point in found.points for v in point.values(name)])
    }
    names = [name for name, most in scores.items() if most <= 1 and not name.startswith("fused/classes_with_positives")]
    if score and found.main in scores and found.main not in names:
        choice = abbreviate(sorted(n[6:] for n in names), 20)
        raise UserError(f"--score {score}: is a count, not a score from 0 to 1; there are {choice}")
    if score and names and found.main not in names:
        raise UserError(f"--score {score}: no run has it; there are {abbreviate(sorted(n[6:] for n in names), 20)}")
