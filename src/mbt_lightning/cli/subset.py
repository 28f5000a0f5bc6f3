"""`mbt subset`: a manifest with a part of the training clips, from a list of ids or drawn with less skew."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from mbt_lightning.cli.parser import Parser, tool_parser
from mbt_lightning.data.balanced_subset import choose_balanced, list_hash, seeded_order
from mbt_lightning.data.manifest.formats import (
    READERS,
    ManifestRow,
    check_suffix,
    check_text,
    to_list,
    warn_of_own_columns,
)
from mbt_lightning.data.manifest.manifest import Manifest, read_manifest, relative, write_manifest
from mbt_lightning.errors import UserError

TRAIN = "train"


class Part(NamedTuple):
    """A part of the training clips: which of a batch are in it, its metadata, the same as text, and ids not found."""

    is_in: Callable[[pa.RecordBatch], pa.Array]
    about: dict[str, Any]
    lines: list[str]
    lost: list[str]


def main(arguments: Sequence[str]) -> None:
    subset(**vars(parser().parse_args(list(arguments))))


def parser() -> Parser:
    description = "Write a manifest with a part of another one's training clips."
    return tool_parser(subset, description, {"manifest": {"help": "the manifest, `.parquet`, `.jsonl` or `.csv`"}})


def subset(
    manifest: str,
    out: str,
    ids: str | None = None,
    num_clips: int | None = None,
    seed: int = 0,
    media_root: str | None = None,
    classes: str | None = None,
) -> None:
    """Write a manifest with a part of the training clips, and all rows of the other splits.

    The part is a list (`ids`), or a number of clips in which rare classes come first (`num_clips`; the rule is in
    `mbt_lightning.data.balanced_subset`). Ids that are not in the manifest are written to `<out>.report.txt`.

    Args:
        manifest: the manifest.
        out: the new manifest, `.parquet`, `.jsonl` or `.csv`.
        ids: text file with one clip_id or source_id per line; a source selects all its training clips.
        num_clips: number of usable training clips to choose.
        seed: of the choice.
        media_root: folder that relative media paths start from, if it is not the manifest's: they stay as they are.
        classes: the class list, if it is not the manifest's own.

    Raises:
        UserError: invalid options or files, a list without any known id, or too many clips.
    """
    source, path = Path(manifest), Path(out)
    check_suffix(path)
    if path.exists() and source.exists() and path.samefile(source):
        raise UserError(f"--out {out}: is the manifest itself; give another name")
    if (ids is None) == (num_clips is None):
        raise UserError("which training clips? Give either --ids FILE or --num_clips N")
    full = read_manifest(source, media_root, classes)
    warn_of_own_columns(source)
    part = draw(full, num_clips, seed) if num_clips is not None else look_up(full, Path(str(ids)))

    moved = source.parent if media_root is None else None
    kept = Kept()
    rows = kept.rows(source, part.is_in, moved, path.parent)
    origin = {"manifest": source.name, "hash": full.digest}
    if earlier := full.metadata.get("subset"):
        origin["subset"] = earlier
    about = full.about | {"subset": part.about | {"source": origin}}

    def finish() -> Iterator[ManifestRow]:
        """The rows; after the last one, their counts are added to the metadata."""
        yield from rows
        about["official"] = dict(kept.official)
        about["subset"] |= {"clips": kept.official[TRAIN], "usable": len(kept.train_ids)}
        about["subset"] |= {"list_hash": list_hash(kept.train_ids)}
        about["subset"] |= {"positives": {name: kept.positives[name] for name in full.classes}}

    write_manifest(path, finish(), full.classes, full.groups, about)
    print_report(full, path, kept, part)


class Kept:
    """The rows that are kept, and counts of them, of usable training clips and of their classes."""

    def __init__(self) -> None:
        self.official, self.positives = Counter[str](), Counter[str]()
        self.train_ids: list[str] = []

    def rows(
        self, source: Path, is_in: Callable[[pa.RecordBatch], pa.Array], moved: Path | None, folder: Path
    ) -> Iterator[ManifestRow]:
        """Read a manifest again, without the training clips outside the part; `moved`: old start of media paths."""
        stays = moved is None or os.path.realpath(moved) == os.path.realpath(folder)

        def rebased(media: str | None) -> str | None:
            if stays or media is None or os.path.isabs(media):
                return media
            return relative(os.path.join(str(moved), media), folder)

        for batch in batches(source):
            chosen = pc.or_(pc.fill_null(pc.not_equal(batch["split"], TRAIN), True), is_in(batch))
            for cells in zip(*map(to_list, batch.filter(chosen).columns), strict=True):
                row = ManifestRow(*cells)
                self.official[row.split or ""] += 1
                if row.split == TRAIN and row.status == "ok":
                    self.train_ids.append(str(row.clip_id))
                    self.positives.update(row.labels)
                yield row._replace(video=rebased(row.video), audio=rebased(row.audio))


def batches(path: Path) -> Iterator[pa.RecordBatch]:
    return (rows.batch for rows in READERS[path.suffix](path))


def draw(full: Manifest, num_clips: int, seed: int) -> Part:
    train = full.split(TRAIN)
    clip_ids = train.part(0, len(train))["clip_id"]
    chosen = choose_balanced(seeded_order(to_list(clip_ids), seed), *train.labelled(), len(full.classes), num_clips)
    chosen_ids = set(to_list(clip_ids.take(pa.array(chosen.clips))))

    def is_in(batch: pa.RecordBatch) -> pa.Array:
        return pc.and_(among(batch["clip_id"], chosen_ids), pc.equal(batch["status"], "ok"))

    n = chosen.per_class
    short = int((np.bincount(train.labelled()[1], minlength=len(full.classes)) < n).sum())
    lines = [f"n = {n}: every class has at least {n - 1} positives, or all of its clips"] * (n > 1)
    lines += [f"classes with fewer than n clips, all of them included: {short}"] * (short > 0)
    about = {"method": "balanced", "seed": seed, "num_clips": num_clips, "per_class": n}
    return Part(is_in, about, lines, [])


def look_up(full: Manifest, path: Path) -> Part:
    places = read_ids(path)
    found, elsewhere = set[str](), dict[str, str]()
    for batch in batches(full.path):
        splits = to_list(batch["split"])
        for column in ("clip_id", "source_id"):
            for name, split in zip(to_list(batch[column]), splits, strict=True):
                if name in places and split == TRAIN:
                    found.add(name)
                elif name in places:
                    elsewhere[name] = split
    if not found:
        raise UserError(
            f"{path}: none of its {len(places)} ids is the clip_id or source_id of a training clip of {full.path}, "
            f"e.g. {next(iter(places))!r}"
        )
    lost = [
        f"{path}:{line}: {name}: "
        + (f"in split {elsewhere[name]} only" if name in elsewhere else "not in the manifest")
        for name, line in places.items()
        if name not in found
    ]

    def is_in(batch: pa.RecordBatch) -> pa.Array:
        return pc.or_(among(batch["clip_id"], found), among(batch["source_id"], found))

    about = {"method": "ids", "file": path.name, "ids": len(places), "found": len(found)}
    lines = [f"ids: {len(found)} of {len(places)} in {path} are training clips or their sources"]
    return Part(is_in, about, lines, lost)


def among(cells: pa.Array, names: Set[str]) -> pa.Array:
    """Which cells are in a set; Arrow's own `is_in` would hash a large set again for every batch."""
    return pa.array([cell in names for cell in to_list(cells)], pa.bool_())


def read_ids(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise UserError(f"--ids {path}: no such file; give a text file with one clip_id or source_id per line")
    check_text(path)
    places: dict[str, int] = {}
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                places.setdefault(line.strip(), number)
    if not places:
        raise UserError(f"--ids {path}: is empty; write one clip_id or source_id per line")
    return places


def print_report(full: Manifest, path: Path, kept: Kept, part: Part) -> None:
    table = Table(title=f"{path}: a part of {full.path}")
    for column in ("split", "rows before", "rows after"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, by_status in full.counts.items():
        table.add_row(split, str(sum(by_status.values())), str(kept.official[split]))
    Console().print(table)
    print("\n".join(part.lines))
    usable, rows = len(kept.train_ids), kept.official[TRAIN]
    print(f"training clips: {usable} usable" + f" of {rows}" * (usable < rows))
    numbers = sorted((kept.positives[name], name) for name in full.classes)
    (fewest, rarest), (most, commonest) = numbers[0], numbers[-1]
    print(f"positives per class: {fewest} ({rarest}) to {most} ({commonest})")
    if part.lost:
        report = path.with_name(f"{path.name}.report.txt")
        report.write_text("".join(f"{line}\n" for line in part.lost), encoding="utf-8")
        print(f"ids without a training clip: {len(part.lost)}, all in {report}; the first:")
        print("\n".join(f"  {line}" for line in part.lost[:3]))
    print(f"manifest: {path}")
