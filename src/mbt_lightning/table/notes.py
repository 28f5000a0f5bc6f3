"""What must be said below a table: what is not in it, what stands for what, and what its numbers can bear."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from mbt_lightning.errors import abbreviate, duration
from mbt_lightning.runs.read import Run, is_finite
from mbt_lightning.table import paper
from mbt_lightning.table.columns import NONE, coverage_of, is_on_part
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.points import Point, seed_of, show, state_of
from mbt_lightning.table.significance import PairedComparison, paired_comparisons

SCIPY = "The paired t-test needs scipy: pip install 'mbt-lightning[table]'"


class Section(NamedTuple):
    """Lines under a heading.

    Args:
        title: the heading.
        lines: a sentence or a listed thing each.
    """

    title: str
    lines: list[str]


def notes_of(found: Comparison) -> list[Section]:
    """All sections that have something to say."""
    sections = [
        Section("How to read it", reading(found)),
        Section("Best against best", best_against_best(found)),
        Section("The same point", same_points(found)),
        Section("Without a score", [line for point in found.points for line in unscored(point)]),
        Section("Counted once", counted_once(found)),
        Section("Apart: runs that differ in more than what is swept", apart(found)),
        Section("Not read", not_read(found)),
        Section("The paper", papers(found)),
    ]
    return [section for section in sections if section.lines]


def reading(found: Comparison) -> list[str]:
    """Data, settings and code that all rows share, and the cost of all."""
    runs = [run for point in found.points for run in point.runs]
    lines = []
    data = {str(p.settings.get("data.manifest")): data_of(p.runs[0]) for p in reversed(found.points) if p.runs}
    lines += [f"Data: {told}." for told in reversed(data.values())]
    if len(data) > 1:
        lines.append("Their test sets may differ: only rows of one data set are compared below.")
    epochs = {show(run.config["trainer"].get("max_epochs")) for run in runs if run.config.get("trainer")}
    lines += [f"Epochs: {', '.join(sorted(epochs))}."] if epochs else []
    swept = ", ".join(found.swept) or "nothing"
    lines.append(f"Swept: {swept}. Everything else but the seed is equal in all rows.")
    lines.append(
        f"Scores are {found.score} on {found.split}, per cent: mean ± sample standard deviation over the seeds. Bold: "
        "the best mean. GFLOPs are billions of multiply-adds of one clip; as coded: those of the authors' code."
    )
    if any((c := p.config["data"]).get("val_split") == (c.get("test_split") or "test") for p in found.points):
        lines.append("The epoch was chosen on the split that is reported, so the scores are optimistic.")
    seconds = [sum(point.about("fit", "training_seconds")) for point in found.points]
    if sum(seconds):
        lines.append(f"Training of the runs with a score ({len(runs)}) took {duration(sum(seconds))} in all.")
    if any(part is not None and part < 1 for point in found.points for part in coverage_of(point)):
        lines.append("Clips are missing (coverage): scores on other parts of the data set are not comparable to these.")
    return lines + unreadable_clips(runs) + mixed_code(runs)


def unreadable_clips(runs: Sequence[Run]) -> list[str]:
    """The runs whose test met clips that could not be read."""
    told = [
        f"{run.source} ({run.test['bad_clips']:g})" for run in runs if is_finite(n := run.test.get("bad_clips")) and n
    ]
    return [f"Clips of the test could not be read: {abbreviate(told)}."] if told else []


def data_of(run: Run) -> str:
    """A run's data set in a line."""
    data = run.summary.get("data") or {}
    clips = ", ".join(f"{n} {split}" for split, n in (data.get("clips") or {}).items())
    return f"{run.config['data'].get('manifest')}, {clips} clips, hash {data.get('hash', 'unknown')}"


def mixed_code(runs: Iterable[Run]) -> list[str]:
    """What differs between the runs that is no setting: commits and versions of packages."""
    lines = []
    commits: dict[str, int] = Counter(short_commit(run) for run in runs)
    if len(commits) > 1:
        told = [f"{commit} ({n} runs)" for commit, n in commits.items()]
        lines.append(f"The runs are of several commits: {abbreviate(told)}.")
    versions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for name, version in (run.summary.get("versions") or {}).items():
            versions[name].add(version)
    mixed = [f"{name} {', '.join(sorted(found))}" for name, found in versions.items() if len(found) > 1]
    lines += [f"The runs are of several versions: {'; '.join(mixed)}."] if mixed else []
    machines: dict[str, int] = Counter(machine_of(run) for run in runs)
    if len(machines) > 1:
        told = [f"{name} ({n} run{'s' * (n > 1)})" for name, n in machines.items()]
        lines.append(f"The runs are of several machines, so training times are not comparable: {abbreviate(told)}.")
    return lines


def machine_of(run: Run) -> str:
    """What a run was made on, not where: hosts with the same device are alike."""
    machine = run.summary.get("machine") or {}
    gpus = machine.get("num_gpus") or 0
    return f"{gpus} x " * (gpus > 0) + str(machine.get("device") or "unknown")


def short_commit(run: Run) -> str:
    """A commit in ten letters, and whether anything was changed since."""
    commit, changed, _ = str(run.summary.get("git_commit") or "unknown").partition("+")
    return commit[:10] + changed + ("changes" if changed else "")


def best_against_best(found: Comparison) -> list[str]:
    """The best point of the best strategy against that of every other, in sentences."""
    try:
        fought, lines = paired_comparisons(found), []
    except ModuleNotFoundError:
        return [SCIPY]
    for one in fought:
        lines.append(f"{name_of(one.one)} against {name_of(one.other)}: {verdict(one)}.")
    as_good = dict.fromkeys(name for one in fought for name in names(one.as_good))
    if as_good:
        lines.append(f"As good as those of their strategy that stand here: {'; '.join(as_good)}.")
    if any(one.is_chosen for one in fought):
        lines.append(
            "The best point of a strategy is chosen among several by the test score that is compared here, so these "
            "differences are optimistic, and their p is too small."
        )
    if len(fought) > 1:
        lines.append(f"p is of each comparison by itself; there are {len(fought)} of them.")
    return lines


def name_of(point: Point) -> str:
    """A point in a few words."""
    is_layer = point.fusion_layer is not None and point.kind != "late fusion"
    others = [f"{key.rpartition('.')[2]} {label}" for key, label in point.labels.items()]
    return ", ".join([point.strategy, *([f"L_f = {point.fusion_layer}"] if is_layer else []), *others])


def verdict(one: PairedComparison) -> str:
    """The outcome in words."""
    if one.difference is None:
        return "no seed in common"
    told = f"{100 * one.difference:+.2f} points, paired over n = {one.seeds} seed{'s' * (one.seeds != 1)}"
    if one.is_tie:
        told = f"a tie, {told}"
    if one.seeds < 2:
        return f"{told}; no test: that takes two seeds or more"
    if one.p is None:
        return f"{told}; no test: the difference is the same for every seed"
    return f"{told}, p = {one.p:.2g}"


def same_points(found: Comparison) -> list[str]:
    """Rows that stand for several places of a sweep."""
    lines = []
    for point in found.points:
        if len(point.places) > 1:
            lines.append(f"{name_of(point)} is {len(point.places)} points of the sweep: {places_of(point)}.")
    late = [point for point in found.points if point.kind == "late fusion"]
    if late and not lines:
        lines.append("Late fusion is L_f = depth of every strategy.")
    return lines


def places_of(point: Point) -> str:
    """The places of a sweep that a row stands for: values of each parameter, if every combination of them is there."""
    names = dict.fromkeys(name for place in point.places for name in place)
    values = {name: list(dict.fromkeys(show(place.get(name, NONE)) for place in point.places)) for name in names}
    if prod(map(len, values.values())) == len(point.places):
        told = [f"{name} {' or '.join(found)}" for name, found in values.items()]
        return "; ".join(told)
    return " | ".join("; ".join(f"{name} {show(value)}" for name, value in place.items()) for place in point.places)


def unscored(point: Point) -> list[str]:
    """The runs of a point that have no score, and why; those that have not begun in one line."""
    lines = []
    for run in point.unscored:
        if run.state != "waiting":
            why = f": {run.why}" if run.why else ""
            lines.append(f"{name_of(point)}, seed {seed_of(run)}: {state_of(run)}{why} ({run.source})")
    waiting = [str(seed_of(run)) for run in point.unscored if run.state == "waiting"]
    seeds = f"seed{'s' * (len(waiting) > 1)} {', '.join(waiting)}"
    return [*lines, *([f"{name_of(point)}, {seeds}: waiting"] if waiting else [])]


def counted_once(found: Comparison) -> list[str]:
    """Runs of settings and seed that another run is counted for."""
    lines = []
    for point in found.points:
        counted = {seed_of(run): run for run in [*point.runs, *point.unscored]}
        for run in point.doubles:
            why = f", {run.why}" if run.why else ""
            lines.append(
                f"{name_of(point)}, seed {seed_of(run)}: {run.source} ({state_of(run)}{why}); counted is "
                f"{counted[seed_of(run)].source}"
            )
    return lines


def apart(found: Comparison) -> list[str]:
    """Runs that are not in the table, those that differ alike in one line."""
    alike: dict[str, list[Run]] = defaultdict(list)
    for run, gaps in found.apart:
        told = "; ".join(f"{name} {theirs} (here {ours})" for name, (theirs, ours) in gaps.items())
        alike[told].append(run)
    return [
        f"{len(runs)} run{'s' * (len(runs) > 1)}: {told}: {abbreviate([source_of(run) for run in runs])}"
        for told, runs in alike.items()
    ]


def source_of(run: Run) -> str:
    """Where a run is, and its state if it has no score."""
    return run.source if run.is_scored else f"{run.source} ({state_of(run)})"


def not_read(found: Comparison) -> list[str]:
    """Folders that could not be placed, or are no training's."""
    lines = [f"{run.source} ({state_of(run)}{': ' + run.why if run.why else ''}): {why}" for run, why in found.unplaced]
    if found.evaluations:
        sources = [run.source for run in found.evaluations]
        lines.append(
            f"{len(sources)} of `mbt test`, `validate` or `predict`, which trained nothing: {abbreviate(sources)}"
        )
    return lines


def papers(found: Comparison) -> list[str]:
    """Why the paper's numbers are not beside ours, where the data set is one of the paper's."""
    reasons: dict[str, list[Point]] = defaultdict(list)
    for point in found.points:
        data = (point.runs[0].summary.get("data") or {}) if point.runs else {}
        if point.paper is None and paper.dataset_of(data):
            why = paper.unmet(point.config, data) or ["the paper has no number for this setting"]
            reasons["; ".join(why)].append(point)
    lines = [f"No number of the paper for {abbreviate(names(points))}: {why}." for why, points in reasons.items()]
    if any(point.paper for point in found.points):
        lines.insert(0, "Paper: Nagrani et al., arXiv:2107.00135v3; numbers of figures are digitised.")
    parts = {coverage_of(p)[1] or 0 for p in found.points if p.paper and is_on_part(p)}
    if parts:
        left = " to ".join(dict.fromkeys(f"{100 * part:.4g}" for part in (min(parts), max(parts))))
        lines.insert(
            1, f"* Of the official test set {left} % was left, so the difference is not that of like with like."
        )
    return lines


def names(points: Sequence[Point]) -> list[str]:
    """Points in a few words each."""
    return [name_of(point) for point in points]
