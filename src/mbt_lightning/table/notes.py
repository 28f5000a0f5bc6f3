"""The notes below a table: how to read it, what is not in it, and what its numbers can show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from mbt_lightning.errors import abbreviate, duration
from mbt_lightning.runs.read import Run, is_finite, part_of
from mbt_lightning.table import paper
from mbt_lightning.table.columns import NONE, is_on_part
from mbt_lightning.table.compare import Comparison
from mbt_lightning.table.points import Point
from mbt_lightning.table.run_frame import seed_of, state_of
from mbt_lightning.table.significance import paired_comparisons
from mbt_lightning.table.strategies import show


class Section(NamedTuple):
    """Lines under a heading.

    Args:
        title: the heading.
        lines: a sentence or a listed item each.
    """

    title: str
    lines: list[str]


def notes_of(found: Comparison) -> list[Section]:
    """All sections that are not empty."""
    sections = [
        Section("How to read this table", reading(found)),
        Section("Paired comparisons", comparisons(found)),
        Section("Rows that stand for several points of the sweep", same_points(found)),
        Section("Runs without a score", [line for point in found.points for line in unscored(found, point)]),
        Section("Duplicates: settings and seed of another run", duplicates(found)),
        Section("Excluded: settings or training differ beyond what is swept", excluded(found)),
        Section("Not read", not_read(found)),
        Section("The paper", papers(found)),
    ]
    return [section for section in sections if section.lines]


def reading(found: Comparison) -> list[str]:
    """Data, settings and code of all rows, and the cost of all."""
    runs = [run for point in found.points for run in point.runs]
    data = {str(p.settings.get("data.manifest")): data_of(p.runs[0]) for p in reversed(found.points) if p.runs}
    lines = [f"Data: {text}." for text in reversed(data.values())]
    if len(data) > 1:
        lines.append("Their test sets may differ: only rows of the same data set are compared below.")
    epochs = {show(run.config["trainer"].get("max_epochs")) for run in runs if run.config.get("trainer")}
    lines += [f"Epochs: {', '.join(sorted(epochs))}."] if epochs else []
    lines.append(
        f"Swept: {', '.join(found.swept) or 'nothing'}. All other settings but the seed are equal in all rows."
    )
    lines.append(
        f"Scores are {found.score} on {found.split}, per cent: mean ± sample standard deviation over the seeds. Bold: "
        "the best mean. GFLOPs are billions of multiply-adds of one clip; as coded: those of the authors' code."
    )
    if any((c := p.config["data"]).get("val_split") == (c.get("test_split") or "test") for p in found.points):
        lines.append("The epoch was chosen on the split that is reported, so the scores are optimistic.")
    shared = {run.source: part_of(run.summary, "fit").get("shared_clips") for run in runs}
    if leaks := [f"{source} ({n} of {pair})" for source, pairs in shared.items() for pair, n in (pairs or {}).items()]:
        lines.append(f"Clips are in two splits, so the scores are optimistic: {abbreviate(leaks)}.")
    if seconds := sum(point.statistic("summary/fit.training_seconds", "sum") or 0 for point in found.points):
        lines.append(f"Training the {len(runs)} runs with a score took {duration(seconds)} in total.")
    if any(part is not None and part < 1 for p in found.points for part in (p.coverage("train"), p.test_coverage)):
        lines.append("Clips are missing (coverage): scores on other parts of the data set are not comparable to these.")
    return lines + unreadable_clips(runs) + mixed_code(runs)


def unreadable_clips(runs: Sequence[Run]) -> list[str]:
    """The runs that could not read some clips in training or test."""
    lines = []
    for name, part in {"Test": "test", "Training": "fit"}.items():
        numbers = {run.source: part_of(run.summary, part).get("bad_clips") for run in runs}
        if counts := [f"{source} ({n:g})" for source, n in numbers.items() if is_finite(n) and n]:
            lines.append(f"{name} clips that could not be read: {abbreviate(counts)}.")
    return lines


def data_of(run: Run) -> str:
    """A run's data set in a line."""
    data = run.summary.get("data") or {}
    clips = ", ".join(f"{n} {split}" for split, n in (data.get("clips") or {}).items())
    return f"{run.config['data'].get('manifest')}, {clips} clips, hash {data.get('hash', 'unknown')}"


def mixed_code(runs: Iterable[Run]) -> list[str]:
    """Commits, versions of packages and machines, where they differ between the runs."""
    lines = []
    commits = Counter(" and ".join(dict.fromkeys(map(short_commit, environments(run)))) for run in runs)
    if len(commits) > 1:
        lines.append(f"The runs are from several commits: {abbreviate(counted(commits))}.")
    versions: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for environment in environments(run):
            for name, version in (environment.get("versions") or {}).items():
                versions[name].add(str(version))
    mixed = [f"{name} {', '.join(sorted(found))}" for name, found in versions.items() if len(found) > 1]
    lines += [f"The runs used several versions: {'; '.join(mixed)}."] if mixed else []
    machines = Counter(machine_of(run) for run in runs)
    if len(machines) > 1:
        names = abbreviate(counted(machines))
        lines.append(f"The runs are from several machines, so training times are not comparable: {names}.")
    return lines


def counted(names: Counter[str]) -> list[str]:
    """Names with the number of their runs."""
    return [f"{name} ({n} run{'s' * (n > 1)})" for name, n in names.items()]


def machine_of(run: Run) -> str:
    """What a run was computed on; hosts with the same device are alike."""
    machine = run.summary.get("machine") or {}
    gpus = machine.get("num_gpus")
    return f"{gpus} x " * bool(gpus) + str(machine.get("device") or "unknown")


def environments(run: Run) -> list[Mapping[str, Any]]:
    """Commit, versions and machine of every part of a run: its training, which may have been resumed, and its test."""
    parts = part_of(run.summary, "provenance").values()
    return [environment for part in parts for environment in part] or [run.summary]


def short_commit(environment: Mapping[str, Any]) -> str:
    """A commit in ten letters, and whether there were uncommitted changes."""
    commit, changed, _ = str(environment.get("git_commit") or "unknown").partition("+")
    return commit[:10] + changed + ("changes" if changed else "")


def comparisons(found: Comparison) -> list[str]:
    """The best point of the best strategy against that of every other, in sentences."""
    pairs = paired_comparisons(found)
    lines = [f"{found.name_of(one.one)} against {found.name_of(one.other)}: {one.significance}." for one in pairs]
    as_good = dict.fromkeys(found.name_of(point) for one in pairs for point in one.as_good)
    if as_good:
        lines.append(f"With the same mean as the point of their strategy that is compared: {'; '.join(as_good)}.")
    chosen = {one.chosen_by for one in pairs}
    if "validation" in chosen:
        lines.append("The point of a strategy is the one with the best validation score; its test score is compared.")
    if "test" in chosen:
        lines.append(
            "The point of a strategy is the one with the best test score, as not all have a validation score: the "
            "differences are optimistic, and no p is given."
        )
    if (len(pairs) > 1 or "validation" in chosen) and any(one.p is not None for one in pairs):
        lines.append("p is corrected for the number of pairs of points (Bonferroni); the intervals are not.")
    return lines


def same_points(found: Comparison) -> list[str]:
    """Rows that are several places of a sweep."""
    lines = [
        f"{found.name_of(point)} is {len(point.places)} points of the sweep: {places_of(point)}."
        for point in found.points
        if len(point.places) > 1
    ]
    if not lines and any(point.strategy.is_late for point in found.points):
        lines.append("Late fusion is L_f = depth of every strategy.")
    return lines


def places_of(point: Point) -> str:
    """The places of a row in a sweep: the values of each parameter, if the row is every combination of them."""
    names = dict.fromkeys(name for place in point.places for name in place)
    values = {name: list(dict.fromkeys(show(place.get(name, NONE)) for place in point.places)) for name in names}
    if prod(map(len, values.values())) == len(point.places):
        return "; ".join(f"{name} {' or '.join(found)}" for name, found in values.items())
    return " | ".join("; ".join(f"{name} {show(value)}" for name, value in place.items()) for place in point.places)


def unscored(found: Comparison, point: Point) -> list[str]:
    """The runs of a point that have no score, and why; those that are waiting in one line."""
    lines = [
        f"{found.name_of(point)}, seed {seed_of(run)}: {state_and_reason(run, ': ')} ({run.source})"
        for run in point.unscored
        if run.state != "waiting"
    ]
    if waiting := [str(seed_of(run)) for run in point.unscored if run.state == "waiting"]:
        lines.append(f"{found.name_of(point)}, seed{'s' * (len(waiting) > 1)} {', '.join(waiting)}: waiting")
    return lines


def state_and_reason(run: Run, separator: str) -> str:
    """A run's state, and why if that is known."""
    return state_of(run) + (f"{separator}{run.why}" if run.why else "")


def duplicates(found: Comparison) -> list[str]:
    """Runs that are not counted, because another one of their settings and seed is."""
    lines = []
    for point in found.points:
        counted = {seed_of(run): run.source for run in [*point.runs, *point.unscored]}
        lines += [
            f"{found.name_of(point)}, seed {seed_of(run)}: {run.source} ({state_and_reason(run, ', ')}); counted is "
            f"{counted[seed_of(run)]}"
            for run in point.duplicates
        ]
    return lines


def excluded(found: Comparison) -> list[str]:
    """Runs that are not in the table, those that differ alike in one line."""
    alike: dict[str, list[str]] = defaultdict(list)
    for run, gaps in found.excluded:
        text = "; ".join(f"{name} {theirs} (here {ours})" for name, (theirs, ours) in gaps.items())
        alike[text].append(run.source if run.is_scored else f"{run.source} ({state_of(run)})")
    return [f"{len(runs)} run{'s' * (len(runs) > 1)}: {text}: {abbreviate(runs)}" for text, runs in alike.items()]


def not_read(found: Comparison) -> list[str]:
    """Folders whose configuration is not known, or that are no trainings."""
    lines = [f"{run.source} ({state_and_reason(run, ': ')}): {why}" for run, why in found.unread]
    if sources := [run.source for run in found.evaluations]:
        lines.append(f"{len(sources)} of `mbt test`, `validate` or `predict`, without training: {abbreviate(sources)}")
    return lines


def papers(found: Comparison) -> list[str]:
    """Why rows have no number of the paper, where the data set is one of the paper's."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for point in found.points:
        if point.paper is None and paper.dataset_of(point.data):
            why = paper.unmet(point.config, point.data) or ["the paper has no number for this setting"]
            reasons["; ".join(why)].append(found.name_of(point))
    lines = [f"No number of the paper for {abbreviate(names)}: {why}." for why, names in reasons.items()]
    parts = {point.test_coverage or 0 for point in found.points if point.paper and is_on_part(point)}
    if parts:
        left = " to ".join(dict.fromkeys(f"{100 * part:.4g}" for part in (min(parts), max(parts))))
        lines.insert(0, f"* Only {left} % of the official test set was available, so the difference is not exact.")
    if any(point.paper for point in found.points):
        lines.insert(0, "Paper: Nagrani et al., arXiv:2107.00135v3; numbers of figures are digitised.")
    return lines
