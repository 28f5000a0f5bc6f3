"""`mbt prepare`: from official annotations and a folder of media to a manifest, and a report of all losses.

The steps are the same for every data set: parse the official files, index the media folder once, match names, probe
files, decide the status of each clip, write the manifest, report.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

from mbt_lightning.cli.parser import Parser, tool_parser
from mbt_lightning.data.manifest.manifest import ManifestRow, relative, write_manifest
from mbt_lightning.data.media.probe import STREAMS
from mbt_lightning.datasets import DATASETS
from mbt_lightning.datasets.base import no_collector
from mbt_lightning.datasets.clips import OfficialClip, Parsed
from mbt_lightning.datasets.examine import probe_media
from mbt_lightning.datasets.match import Match, Media, MediaIndex, resolve
from mbt_lightning.disk import replacing
from mbt_lightning.errors import UserError, abbreviate

NO_FILE = Match(None, None)
"""Shared by all clips without a file: there may be millions."""


def main(arguments: Sequence[str]) -> None:
    with no_collector():
        prepare(**vars(parser().parse_args(list(arguments))))


def parser() -> Parser:
    known = "; ".join(f"{name}: {dataset.help}" for name, dataset in DATASETS.items())
    files = {"nargs": "+", "default": [], "metavar": "FILE"}
    own = {
        "dataset": {"choices": list(DATASETS), "help": known},
        "--annotations": files | {"help": "official annotation files"},
        "--labels": files | {"help": "official class lists"},
    }
    return tool_parser(prepare, "Make a manifest from official annotations and a folder of media.", own)


def prepare(
    dataset: str,
    annotations: Sequence[str],
    labels: Sequence[str],
    media: str,
    out: str,
    split: str | None = None,
    variant: str | None = None,
    needs: list[str] = ["video", "audio"],  # noqa: B006
    min_part: float = 0.9,
    refuse_leaks: bool = False,
    max_lost: float = 1.0,
    strict: bool = False,
    num_workers: int = 2,
    timeout_seconds: float = 20.0,
) -> None:
    """Write the manifest of a data set, and `<manifest>.report.txt` with every lost row and the reason.

    Args:
        dataset: name of the data set.
        annotations: official annotation files.
        labels: official class lists.
        media: folder of the media files.
        out: the manifest, `.parquet`, `.jsonl` or `.csv`.
        split: split of annotation files that do not give one: train, val, test or another name.
        variant: variant of the data set.
        needs: streams that a clip must have: video, audio or both.
        min_part: part of a clip's official segment that must be present, above 0, at most 1.
        refuse_leaks: stop if a clip or a source is in two splits. By default this is reported, and a clip stays only in
            the test split, else in the validation split.
        max_lost: part of the official clips that may be lost; more is an error (exit code 2).
        strict: also decode all files completely and report damage; takes hours for large data sets.
        num_workers: number of processes that probe files.
        timeout_seconds: time limit per file.

    Raises:
        UserError: invalid files, or more losses than allowed.
    """
    if not needs or set(needs) - set(STREAMS):
        raise UserError(f"needs is {needs}: give video, audio or both")
    for name, value in {"min_part": min_part, "max_lost": max_lost}.items():
        if not 0 < value <= 1:
            raise UserError(f"{name} is {value}: give a part above 0, at most 1")
    root, path = Path(media), Path(out)
    files = [Path(name) for name in annotations], [Path(name) for name in labels]
    parsed = DATASETS[dataset].parse(*files, split=split, variant=variant, media=root)
    if not parsed.clips:
        reasons = "; ".join(f"{refused.where}: {refused.reason}" for refused in parsed.refused[:3])
        why = f": {len(parsed.refused)} refused, e.g. {reasons}" if reasons else ""
        raise UserError(f"{dataset}: no clips in {', '.join(annotations) or media}{why}")
    leaks = parsed.leaks + shared_sources(parsed.clips)
    if leaks and refuse_leaks:
        raise UserError(f"{len(leaks)} leaks, e.g. {abbreviate(leaks, 3)}; correct the lists or drop --refuse_leaks")
    parsed.notes += [*other_sizes(parsed.clips, DATASETS[dataset].official), *same_but_for_case(parsed.clips)]
    index = MediaIndex(root)
    matches = [NO_FILE if (match := index.match(clip)) == NO_FILE else match for clip in parsed.clips]
    media_files = dict.fromkeys(file for match in matches for file in (match.video, match.audio) if file)
    cache = path.with_name(f"{path.name}.probed.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    probed = probe_media(media_files, cache, num_workers, timeout_seconds, strict)

    about = {
        "dataset": dataset,
        "variant": parsed.variant,
        "official": dict(Counter(clip.split for clip in parsed.clips)),
        "options": {"needs": list(needs), "min_part": min_part, "split": split, "media": str(root)},
    }
    report_path = path.with_name(f"{path.name}.report.txt")
    with replacing(report_path) as unfinished, open(unfinished, "w", encoding="utf-8") as report:
        report.writelines(f"{row.where}: refused: {row.reason}\n" for row in parsed.refused)
        outcome = Outcome(report)
        prefix = media_prefix(root, path.parent)
        rows = (
            outcome.row(clip, resolve(clip, match, probed, needs, min_part), root, prefix)
            for clip, match in zip(parsed.clips, matches, strict=True)
        )
        write_manifest(path, rows, parsed.classes, parsed.groups, about)
        damaged = [f"{file}: damaged: {found.damage}" for file, found in probed.items() if found.damage]
        lines = [*damaged, *(f"leak: {leak}" for leak in leaks), *(f"note: {note}" for note in parsed.notes)]
        report.writelines(f"{line}\n" for line in [*lines, *class_lines(outcome, parsed.classes)])
    print_report(dataset, parsed, outcome, index, leaks, len(damaged))
    print(f"manifest: {path}\nlost rows with reasons, and clips by class: {report_path}")
    used = sum(count["ok"] for count in outcome.statuses().values())
    if 1 - used / len(parsed.clips) > max_lost:
        raise UserError(
            f"{len(parsed.clips) - used} of {len(parsed.clips)} clips are lost, more than max_lost {max_lost}"
        )


class Outcome:
    """Writes losses to the report immediately, and counts clips by split, status and labels."""

    def __init__(self, report: TextIO) -> None:
        self.report = report
        self.clips: Counter[tuple[str, str, tuple[str, ...]]] = Counter()

    def row(self, clip: OfficialClip, found: Media, root: Path, prefix: str) -> ManifestRow:
        """The manifest's row of a clip; its file names start with `prefix` instead of the media folder `root`."""
        self.clips[clip.split, found.status, clip.labels] += 1
        if found.status != "ok" or found.reason:
            reason = found.reason and f": {found.reason}"
            self.report.write(f"{clip.annotation}: {clip.clip_id}: {found.status}{reason}\n")
        return ManifestRow(
            clip.clip_id,
            clip.source_id,
            clip.start_seconds,
            clip.end_seconds,
            found.video and prefix + found.video.removeprefix(f"{root}/"),
            found.audio and prefix + found.audio.removeprefix(f"{root}/"),
            found.start_seconds,
            found.end_seconds,
            clip.labels,
            clip.split,
            found.status,
            clip.annotation,
        )

    def statuses(self) -> dict[str, Counter[str]]:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for (split, status, _), number in self.clips.items():
            counts[split][status] += number
        return counts

    def by_class(self) -> dict[str, tuple[Counter[str], Counter[str]]]:
        """Per split, the official and the usable clips by class."""
        counts: defaultdict[str, tuple[Counter[str], Counter[str]]] = defaultdict(lambda: (Counter(), Counter()))
        for (split, status, labels), number in self.clips.items():
            for label in labels:
                official, usable = counts[split]
                official[label] += number
                usable[label] += number if status == "ok" else 0
        return counts


def media_prefix(root: Path, folder: Path) -> str:
    prefix = relative(root, folder)
    return "" if prefix == "." else f"{prefix}/"


def class_lines(outcome: Outcome, classes: Sequence[str]) -> Iterator[str]:
    splits = outcome.by_class()
    for name in classes:
        counts = (f"{split} {usable[name]} of {official[name]}" for split, (official, usable) in splits.items())
        yield f"class {name}: {', '.join(counts)}"


def missing_classes(outcome: Outcome, classes: Sequence[str]) -> Iterator[str]:
    """The classes that a split lacks: those without official clips, and those that lost all clips."""
    for split, (official, usable) in outcome.by_class().items():
        never = [name for name in classes if not official[name]]
        lost = [name for name in classes if official[name] and not usable[name]]
        for names, what in ((never, "without an official clip"), (lost, "that lost every clip")):
            if names:
                yield f"classes {what} in {split}: {len(names)}: {abbreviate(names)}"


def shared_sources(clips: Sequence[OfficialClip]) -> list[str]:
    """The sources with clips in two splits, with one place in each."""
    largest = Counter(clip.split for clip in clips).most_common(1)[0][0]
    others = {clip.source_id for clip in clips if clip.split != largest}
    places: dict[str, dict[str, str]] = {}
    for clip in clips:
        if clip.source_id in others:
            places.setdefault(clip.source_id, {}).setdefault(clip.split, clip.annotation)
    return [
        f"source {source} has clips in two splits: {', '.join(f'{split} ({at})' for split, at in splits.items())}"
        for source, splits in places.items()
        if len(splits) > 1
    ]


def other_sizes(clips: Sequence[OfficialClip], official: Mapping[str, int]) -> Iterator[str]:
    """Notes on splits that differ in size from the official lists: a download may be incomplete."""
    for split, number in Counter(clip.split for clip in clips).items():
        if number != official.get(split, number):
            yield f"{split}: {number} clips are listed; all official lists together have {official[split]}"


def same_but_for_case(clips: Sequence[OfficialClip]) -> list[str]:
    """Notes on sources whose names differ in case only: many file systems keep only one of them."""
    # Millions of names would take more memory than their hashes, and there are hardly ever any such sources.
    exact, folded = (
        np.unique(np.fromiter((hash(key(clip.source_id)) for clip in clips), np.int64, len(clips)))
        for key in (str, str.lower)
    )
    if len(exact) == len(folded):
        return []
    same: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for clip in clips:
        same[clip.source_id.lower()][clip.source_id] = None
    return [f"sources differ by case only: {', '.join(group)}" for group in same.values() if len(group) > 1]


def print_report(
    dataset: str,
    parsed: Parsed,
    outcome: Outcome,
    index: MediaIndex,
    leaks: Sequence[str],
    num_damaged: int,
) -> None:
    counts = outcome.statuses()
    statuses = sorted({status for count in counts.values() for status in count} - {"ok"})
    table = Table(title=f"{dataset}: {len(parsed.clips)} clips, {len(parsed.classes)} classes")
    for column in ("split", "official", "ok", "part", *statuses):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, count in counts.items():
        part = f"{count['ok'] / count.total():.1%}"
        table.add_row(split, str(count.total()), str(count["ok"]), part, *(str(count[status]) for status in statuses))
    Console().print(table)
    facts = {
        "rows refused": len(parsed.refused),
        "exact repeats dropped": parsed.duplicates,
        "clips in two splits, dropped from one": len(parsed.leaks),
        "sources in two splits": len(leaks) - len(parsed.leaks),
        "files damaged (strict)": num_damaged,
    }
    facts |= {f"files ignored ({reason})": number for reason, number in index.ignored.items()}
    for what, number in facts.items():
        if number:
            print(f"{what}: {number}")
    for line in [*(f"{row.where}: {row.reason}" for row in parsed.refused[:3]), *leaks[:3]]:
        print(f"  {line}")
    for note in parsed.notes:
        print(f"note: {note}")
    for line in missing_classes(outcome, parsed.classes):
        print(line)
