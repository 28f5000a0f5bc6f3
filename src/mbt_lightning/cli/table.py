"""`mbt table`: runs, or a sweep, as a table with figures, and as one page of HTML. Does not wait for torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mbt_lightning.disk import write_text
from mbt_lightning.errors import UserError, abbreviate
from mbt_lightning.runs.read import Run
from mbt_lightning.sweep.planned_runs import Plan, read_folders

if TYPE_CHECKING:
    from mbt_lightning.table.compare import Comparison

MAKE_RUNS = "make one by `mbt fit --config experiments/base.yaml`, or many by `mbt sweep sweeps/demo.yaml`"
PACKAGES = ("bokeh", "jinja2", "matplotlib", "pandas", "scipy", "tabulate")


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
        epilog="Runs whose settings differ beyond the swept ones are excluded and listed, with these settings.",
        allow_abbrev=False,
    )
    options.add_argument(
        "folders",
        nargs="*",
        metavar="FOLDER",
        help="folders of runs, at any depth; default: runs, unless --wandb is given",
    )
    options.add_argument("--wandb", metavar="ENTITY/PROJECT[/SWEEP]", help="read the runs of a W&B project or sweep")
    options.add_argument("--out", default="ablation", metavar="FOLDER", help="where files go; default: ablation")
    options.add_argument(
        "--score", metavar="NAME", help="the score to judge by, e.g. top5; default: the task's main one"
    )
    options.add_argument("--html", action="store_true", help="also write index.html, one page that needs no network")
    options.add_argument("--no-figures", action="store_true", help="draw no figures")
    return options


def main(arguments: Sequence[str]) -> None:
    """Print and write the table.

    Args:
        arguments: the words after `mbt table`.

    Raises:
        UserError: wrong options, a file that cannot be read, no runs, a package that is not installed.
    """
    options = parser().parse_args(list(arguments))
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"mbt table needs {', '.join(missing)}: pip install 'mbt-lightning[table]'")
    from mbt_lightning.table import html_page, write
    from mbt_lightning.table.columns import columns_of, value_frame
    from mbt_lightning.table.compare import compare
    from mbt_lightning.table.figures import draw
    from mbt_lightning.table.notes import notes_of

    runs, plans = read(options.folders, options.wandb)
    found = compare(runs, plans, options.score)
    check(found, options.score, options.wandb or ", ".join(options.folders or ["runs"]))
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot make this folder ({error.strerror}); name another") from None
    columns, sections = columns_of(found), notes_of(found)
    write.print_table(found, columns, sections)

    figures = [] if options.no_figures else draw(found, out)
    write_text(out / "table.md", write.markdown(found, columns, sections, figures))
    write_text(out / "table.tex", write.latex(found, columns))
    write_text(out / "table.csv", write.csv(value_frame(found, columns)))
    write_text(out / "runs.csv", write.csv(write.run_values(found)))
    written = ["table.md", "table.tex", "table.csv", "runs.csv", *(f"{name}.png, .svg, .pdf" for name in figures)]
    if options.html:
        write_text(out / "index.html", html_page.page(found, columns, sections, out, figures))
        written.append("index.html")
    elif html_page.is_ours(out / "index.html"):
        (out / "index.html").unlink()  # of an earlier call, perhaps of other runs
    print(f"written to {out}/: {', '.join(written)}")


def read(folders: Sequence[str], wandb: str | None) -> tuple[list[Run], list[Plan]]:
    """The runs in some folders, and those of a project or sweep of W&B."""
    runs, plans = read_folders(folders or ([] if wandb else ["runs"]))
    if wandb:
        from mbt_lightning.table.wandb_runs import read_wandb  # W&B, seconds

        found, varied = read_wandb(wandb)
        runs, plans = runs + found, plans + varied
    return runs, plans


def check(found: Comparison, score: str | None, place: str) -> None:
    """Refuse to make a table of nothing, or of an unknown score."""
    if not found.points:
        others = len(found.unread) + len(found.evaluations)
        why = f"none of {others} runs there is a training with a configuration" if others else "no runs there"
        raise UserError(f"{place}: {why}; {MAKE_RUNS}")
    most = {
        name: max(means)
        for name in found.scores
        if (means := [mean for p in found.points if (mean := p.mean(name)) is not None])
    }
    names = sorted(
        name.removeprefix("fused/")
        for name, value in most.items()
        if name.startswith("fused/") and value <= 1 and not name.startswith("fused/classes_with_positives")
    )
    if score and names and score not in names:
        why = "is a count, not a score from 0 to 1" if found.main in most else "no run has it"
        raise UserError(f"--score {score}: {why}; there are {abbreviate(names, 20)}")
