"""`mbt sweep`: a W&B sweep file run without an account, on one machine, several, or a cluster."""

from __future__ import annotations

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mbt_lightning.errors import UserError, duration
from mbt_lightning.sweep.ledger import Ledger, TrialStatus
from mbt_lightning.sweep.plan import Planner, check_options
from mbt_lightning.sweep.progress import SweepProgress, labels_of
from mbt_lightning.sweep.resolved import Resolved
from mbt_lightning.sweep.sweep_file import SweepFile, read_sweep
from mbt_lightning.sweep.workers import Workers, gpu_sets


def main(arguments: list[str]) -> None:
    """Run a sweep, or resume it.

    Args:
        arguments: the words after `mbt sweep`.

    Raises:
        UserError: a file or options that make no sense.
    """
    options, extra = parse(arguments)
    sweep = read_sweep(options.file)
    check_options(sweep, extra)
    count = options.count or sweep.run_cap
    if sweep.method != "grid" and not count:
        raise UserError(f"{sweep.path}: a {sweep.method} search needs an end: give --count N, or run_cap in the file")
    ledger = Ledger(Path(options.runs) / checked_name(options.name or sweep.name))
    planner = Planner(sweep, ledger, resolve, extra, count or 0, options.seed)
    plan = planner.plan(write=not options.dry_run)
    print_plan(sweep, plan, count)
    if options.dry_run:
        from mbt_lightning.sweep.dry_run import print_estimate

        print_estimate(planner, len(gpu_sets(options.workers)), options.rate)
        return
    start_at_most = options.count if sweep.method == "grid" else None
    if options.launcher == "slurm":
        from mbt_lightning.sweep.slurm import Jobs

        crew: Any = Jobs(planner, options.slurm, options.retries, start_at_most, options.workers)
    else:
        crew = Workers(planner, gpu_sets(options.workers), options.retries, start_at_most)
    stopped_by = watch(crew, planner)
    print_end(ledger, labels_of(planner.made), crew.statuses, stopped_by)


def resolve(words: Sequence[str], points: Sequence[Mapping[str, Any]]) -> list[Resolved]:
    """Resolve points by the program's own parser, which takes torch and seconds to import."""
    from mbt_lightning.cli import resolve as program

    return program.resolve(words, points)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options of the sweep, and words for every trial."""
    parser = argparse.ArgumentParser(
        prog="mbt sweep",
        usage="mbt sweep FILE [OPTION ...] [--config FILE ...] [--SETTING VALUE ...]",
        description="Run every trial of a W&B sweep file as an `mbt fit` of its own, without an account. Run the same "
        "command to resume: finished trials are kept, interrupted ones continue. Several machines that share the "
        "folder of the runs share the work.",
        epilog="Experiment files and settings that are not listed here go to every trial; swept values win over files.",
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("file", metavar="FILE", nargs="?", help="a sweep file, as for `wandb sweep`")
    add("--name", help="name of the sweep and of its runs' folder; default: that of the file")
    add("--runs", default="runs", metavar="FOLDER", help="folder that all runs' folders lie in (runs)")
    workers = "trials (slurm: jobs) at a time; default: one a GPU, or one a core without GPUs (slurm: one a trial)"
    add("--workers", type=int, metavar="N", help=workers)
    add("--retries", type=int, default=0, metavar="N", help="retry trials that have failed at most N times (0)")
    count = "random, bayes: points of the search; grid: start at most N trials now"
    add("--count", type=int, metavar="N", help=count)
    add("--seed", type=int, default=0, metavar="N", help="of a random or bayes search (0)")
    add("--dry-run", action="store_true", help="print the trials and their costs; run none")
    rate = "of --dry-run: speed of training; default: measured on finished runs"
    add("--rate", type=float, metavar="GFLOPS", help=rate)
    add("--launcher", choices=("here", "slurm"), default="here", help="where trials run (here)")
    slurm = (
        "of --launcher slurm: submitit's parameters, e.g. timeout_min=600 gpus_per_node=8 nodes=2 slurm_partition=gpu; "
        "cluster=local runs the jobs on this machine"
    )
    add("--slurm", nargs="+", default=[], metavar="NAME=VALUE", help=slurm)
    try:
        options, extra = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(error) from None
    if options.file is None:
        raise UserError("which sweep? Give a file, e.g. sweeps/demo.yaml")
    for name in ("count", "retries"):
        value = getattr(options, name)
        if value is not None and value < (name == "count"):
            raise UserError(f"--{name} is {value}: give {int(name == 'count')} or more")
    if options.slurm and options.launcher != "slurm":
        raise UserError("--slurm: give --launcher slurm with it")
    return options, extra


def watch(crew: Any, planner: Planner) -> int | None:
    """Run the trials and show the progress; returns the signal that ended it, if one did."""
    caught: list[int] = []

    def stop(number: int, frame: Any) -> None:
        if caught:
            sys.exit(128 + number)  # asked twice: the trials die with this process
        caught.append(number)
        crew.stopping.set()
        print("stopping: the running trials save their state (repeat to leave at once)", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def labels() -> Mapping[str, str]:
        return labels_of(planner.made)

    try:
        with SweepProgress(labels, planner.sweep.metric, planner.sweep.goal, planner.score, crew.num_workers) as show:
            crew.run(show)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return caught[0] if caught else None


def print_plan(sweep: SweepFile, plan: Mapping[str, Any], count: int | None) -> None:
    """Print how many points and trials there are."""
    num_points, num_trials = len(plan["points"]), len(plan["trials"])
    same = f", {num_trials} of them different experiments" if num_trials < num_points else ""
    of_how_many = f" (of {count})" if sweep.method == "bayes" else ""
    print(f"sweep {plan['name']}: {num_points} points{of_how_many}{same}", flush=True)
    if sweep.early_terminate:
        print("early_terminate works only in W&B: here every trial runs to its end", flush=True)


def checked_name(name: str) -> str:
    """The name of a sweep, which its runs' folder and their `experiment` have.

    Raises:
        UserError: a name that cannot be both.
    """
    last = Path(name).name
    if last in ("", "..") or not isinstance(yaml.safe_load(last), str):
        raise UserError(f"--name {name}: give a word that names a folder and is no number, truth value or null")
    return name


def print_end(
    ledger: Ledger, labels: Mapping[str, str], statuses: Mapping[str, TrialStatus], stopped_by: int | None
) -> None:
    """Print the result; exit with 1 if trials failed, with 128 + number of the signal if one ended the sweep."""
    count = Counter(status.name for status in statuses.values())
    seconds = sum(status.seconds for status in statuses.values())
    print(f"{count['done']} of {len(statuses)} trials done ({duration(seconds)} of work): {ledger.folder}", flush=True)
    failed = [(trial, status) for trial, status in statuses.items() if status.name == "failed"]
    if failed:
        retries = max(status.failures for _, status in failed)
        table = Table("trial", "point", "failed", title=f"{len(failed)} failed; retry with --retries {retries}")
        for trial, status in failed:
            table.add_row(trial, escape(labels.get(trial, "")), escape(status.message))
        Console().print(table)
        for trial, status in failed:
            print(ledger.claim_file(trial, status.attempts).with_suffix(".log"))
    if stopped_by:
        print("interrupted; run the same command to resume")
        sys.exit(128 + stopped_by)
    if failed:
        sys.exit(1)
