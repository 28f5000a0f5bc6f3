"""`mbt prepare`: official annotations and a folder of media to a manifest, and a report of what was lost on the way.

The same steps for every data set: parse the official files, index the media folder once, match names, probe files,
decide each clip's status, write the manifest, report.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mbt_lightning.cli import Parser
from mbt_lightning.data.manifest import ManifestRow, write_manifest
from mbt_lightning.data.prepare import DATASETS
from mbt_lightning.data.prepare.clips import OfficialClip, Parsed
from mbt_lightning.data.prepare.media import Match, Media, MediaIndex, resolve
from mbt_lightning.data.prepare.probe import Probed, probe_media
from mbt_lightning.errors import UserError, some

STREAMS = ("video", "audio")


def main(arguments: Sequence[str]) -> None:
    """Run `mbt prepare`."""
    known = "; ".join(f"{name}: {dataset.help}" for name, dataset in DATASETS.items())
    parser = Parser(prog="mbt prepare", description="Make a manifest of official annotations and a folder of media.")
    parser.add_argument("dataset", choices=list(DATASETS), help=known)
    parser.add_argument("--annotations", nargs="+", default=[], metavar="FILE", help="official annotation files")
    parser.add_argument("--labels", nargs="+", default=[], metavar="FILE", help="official class lists")
    parser.add_function_arguments(prepare, skip={"dataset", "annotations", "labels"})
    prepare(**vars(parser.parse_args(list(arguments))))


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
    """Write the manifest of a data set, and `<manifest>.report.txt` with every row that was lost and why.

    Args:
        dataset: name of the data set.
        annotations: official annotation files.
        labels: official class lists.
        media: folder of the media files.
        out: the manifest, `.parquet`, `.jsonl` or `.csv`.
        split: split of annotation files that do not tell it themselves: train, val, test or your own.
        variant: which variant of the data set.
        needs: streams that a clip must have: video, audio or both.
        min_part: part of a clip's official segment that must be there, above 0, at most 1.
        refuse_leaks: whether a source that stands in two splits ends the program; else it is reported.
        max_lost: part of the official clips that may be lost before the program ends with exit code 2.
        strict: whether files are also decoded as a whole and damage is reported; hours for large sets.
        num_workers: processes that look into the files.
        timeout_seconds: time limit of one file.

    Raises:
        UserError: files that make no sense, or more lost than allowed.
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
        raise UserError(f"{dataset}: no clip in {', '.join(annotations) or media}")
    leaks = leaked(parsed.clips)
    if leaks and refuse_leaks:
        raise UserError(f"{len(leaks)} sources stand in two splits, e.g. {some(leaks, 3)}; leave out --refuse_leaks")
    index = MediaIndex(root)
    matches = [index.match(clip) for clip in parsed.clips]
    wanted = dict.fromkeys(file for match in matches for file in (match.video, match.audio) if file)
    cache = path.with_name(f"{path.name}.probed.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    probed = probe_media(wanted, cache, num_workers, timeout_seconds, strict)

    lost: list[str] = []
    counts: dict[str, Counter[str]] = {}
    rows = written(parsed.clips, matches, probed, needs, min_part, path.parent, lost, counts)
    about = {
        "dataset": dataset,
        "variant": variant,
        "official": dict(Counter(clip.split for clip in parsed.clips)),
        "options": {"needs": list(needs), "min_part": min_part, "split": split, "media": str(root)},
    }
    write_manifest(path, rows, parsed.classes, parsed.groups, about)
    damaged = [f"{file}: damaged: {found.damage}" for file, found in probed.items() if found.damage]
    report = path.with_name(f"{path.name}.report.txt")
    lines = [*(f"{row.where}: refused: {row.reason}" for row in parsed.refused), *lost, *damaged]
    lines += [f"leak: {leak}" for leak in leaks] + [f"note: {note}" for note in parsed.notes]
    report.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print_report(dataset, parsed, counts, index, leaks, len(damaged))
    print(f"manifest: {path}\nevery row that was lost, and why: {report}")
    used = sum(count["ok"] for count in counts.values())
    if 1 - used / len(parsed.clips) > max_lost:
        raise UserError(
            f"{len(parsed.clips) - used} of {len(parsed.clips)} clips are lost, more than max_lost {max_lost}"
        )


def written(
    clips: Sequence[OfficialClip],
    matches: Sequence[Match],
    probed: dict[str, Probed],
    needs: Sequence[str],
    min_part: float,
    folder: Path,
    lost: list[str],
    counts: dict[str, Counter[str]],
) -> Iterator[ManifestRow]:
    """The manifest's rows, one by one; what is remarkable goes into `lost`, statuses by split into `counts`."""
    for clip, match in zip(clips, matches, strict=True):
        found: Media = resolve(clip, match, probed, needs, min_part)
        counts.setdefault(clip.split, Counter())[found.status] += 1
        if found.status != "ok" or found.reason:
            lost.append(f"{clip.annotation}: {clip.clip_id}: {found.status}{found.reason and ': ' + found.reason}")
        yield ManifestRow(
            clip.clip_id,
            clip.source_id,
            clip.start_seconds,
            clip.end_seconds,
            relative(found.video, folder),
            relative(found.audio, folder),
            found.start_seconds,
            found.end_seconds,
            clip.labels,
            clip.split,
            found.status,
            clip.annotation,
        )


def relative(path: str | None, folder: Path) -> str | None:
    """A media path from the manifest's folder if it lies in it, else absolute."""
    if path is None:
        return None
    full = os.path.abspath(path)
    inside = os.path.relpath(full, os.path.abspath(folder))
    return full if inside.startswith("..") else inside


def leaked(clips: Sequence[OfficialClip]) -> list[str]:
    """The sources that have clips in two splits."""
    first: dict[str, OfficialClip] = {}
    leaks = []
    for clip in clips:
        other = first.setdefault(clip.source_id, clip)
        if other.split != clip.split:
            leaks.append(f"{clip.source_id} ({other.split} at {other.annotation}, {clip.split} at {clip.annotation})")
    return leaks


def print_report(
    dataset: str,
    parsed: Parsed,
    counts: dict[str, Counter[str]],
    index: MediaIndex,
    leaks: Sequence[str],
    num_damaged: int,
) -> None:
    """Print a row a split with what became of its clips, and what else is remarkable."""
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
        "sources in two splits": len(leaks),
        "files damaged (strict)": num_damaged,
    }
    facts |= {f"files ignored ({reason})": number for reason, number in index.ignored.items()}
    for what, number in facts.items():
        if number:
            print(f"{what}: {number}")
    for row in parsed.refused[:3]:
        print(f"  {row.where}: {row.reason}")
    for note in parsed.notes:
        print(f"note: {note}")
    for role in ("train", "test"):
        without = classes_without(parsed, role)
        if without and role in counts:
            print(f"classes without a clip in {role}: {some(without)}")


def classes_without(parsed: Parsed, split: str) -> list[str]:
    """The classes that no official clip of a split has."""
    there = {label for clip in parsed.clips if clip.split == split for label in clip.labels}
    return [name for name in parsed.classes if name not in there]
