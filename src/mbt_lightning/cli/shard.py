"""`mbt shard`: re-encode a data set once, so that training reads it several times faster.

The labelled segment of every usable clip is re-encoded, read back and compared with its source. After an interruption
the same command resumes. `DIR/manifest.parquet` is written last; training needs only its name.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from mbt_lightning.cli.parser import Parser
from mbt_lightning.data.manifest.formats import READERS, ManifestRow, to_list, warn_of_own_columns
from mbt_lightning.data.manifest.manifest import Manifest, read_manifest, write_manifest
from mbt_lightning.data.records import Example
from mbt_lightning.data.sharding.chunks import Chunks, Loose, Place
from mbt_lightning.data.sharding.reencode import WRITERS, Job, NoRoom, Target, Written
from mbt_lightning.data.worker_pool import Failure, WorkerProgress, run_in_workers
from mbt_lightning.disk import replacing
from mbt_lightning.errors import UserError

PLACES: dict[str, Callable[[Path], Place]] = {"mp4-intra": Loose, "jpeg-shards": Chunks}
REENCODE = "mbt_lightning.data.sharding.reencode:reencode"


def main(arguments: Sequence[str]) -> None:
    """Run `mbt shard`."""
    parser = Parser(prog="mbt shard", description="Re-encode a data set so that training reads it faster.")
    parser.add_argument("manifest", help="the manifest of the data set: .parquet, .jsonl or .csv")
    parser.add_argument("--format", choices=list(WRITERS), default="mp4-intra", help="format of the re-encoded clips")
    parser.add_function_arguments(shard, skip={"manifest", "format"})
    shard(**vars(parser.parse_args(list(arguments))))


def shard(
    manifest: str,
    format: str,
    out: str,
    fps: float = 5.0,
    short_side: int = 256,
    sample_rate: int = 16000,
    crf: int = 23,
    jpeg_quality: int = 90,
    media_root: str | None = None,
    classes: str | None = None,
    num_workers: int = 2,
    timeout_seconds: float = 120.0,
) -> None:
    """Write a folder with the re-encoded clips, their manifest, and a report of every lost clip with the reason.

    Args:
        manifest: the manifest of the data set.
        format: `mp4-intra` (small files that any program plays) or `jpeg-shards` (fastest to read; needs the extra
            `shards`).
        out: output folder.
        fps: number of frames a second that are kept.
        short_side: frames whose shorter side is longer than this are shrunk to it, in pixels.
        sample_rate: of the audio, in Hz.
        crf: quality of the frames in `mp4-intra`, 0 (best) to 51.
        jpeg_quality: quality of the frames in `jpeg-shards`, 1 to 100 (best).
        media_root: folder that the manifest's relative media paths start from; default: the manifest's.
        classes: the class list; default: the manifest's own.
        num_workers: number of processes that re-encode.
        timeout_seconds: time limit per clip, to which the length of its segment is added.

    Raises:
        UserError: an option is out of range or differs from an earlier run's, or the disk is full.
    """
    check_range("fps", fps, 0.1, 120)
    check_range("short_side", short_side, 16, 4096)
    check_range("sample_rate", sample_rate, 8000, 48000)  # supported by both AAC and FLAC
    check_range("crf", crf, 0, 51)
    check_range("jpeg_quality", jpeg_quality, 1, 100)
    check_range("num_workers", num_workers, 1, 1024)
    check_range("timeout_seconds", timeout_seconds, 1, 86400)
    WRITERS[format].check()
    source, folder = read_manifest(manifest, media_root, classes), Path(out)
    if (store := source.metadata.get("store", Place.store)) != Place.store:
        raise UserError(f"{source.path}: its clips are already {store}; give the manifest that they were made from")
    warn_of_own_columns(source.path)
    target = Target(fps, short_side, sample_rate, crf, jpeg_quality)
    options = {"format": format, "source": str(source.path.resolve()), "source_hash": source.digest, **asdict(target)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder)
        with FileLock(folder / ".lock", timeout=0):
            check_options(folder, options)
            root = str(media_root or source.path.parent)
            run(source, root, Run(folder, format, target, num_workers, timeout_seconds), options)
    except Timeout:
        raise UserError(f"{folder}: another mbt shard is writing into it; wait for it to finish") from None
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"{where}: cannot be written ({error.strerror}); when that is fixed, run the same command to resume"
        ) from error


def check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuse an option out of range."""
    if not least <= value <= most:
        raise UserError(f"{name} is {value}: give a number from {least} to {most}")


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else."""
    if not (folder / "shard.json").is_file() and any(path.name != ".lock" for path in folder.iterdir()):
        raise UserError(f"{folder}: is neither empty nor made by mbt shard; give another folder")


def check_options(folder: Path, options: dict[str, Any]) -> None:
    """Refuse a folder that was started with other options."""
    file = folder / "shard.json"
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        for name, value in options.items():
            if known.get(name) != value and name != "source":
                raise UserError(
                    f"{folder}: was started with {name} {known.get(name)}, not {value}; give another folder"
                )
        return
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


class Run(NamedTuple):
    """Settings of a run of `mbt shard`.

    Args:
        folder: output folder.
        format: a name in `WRITERS`.
        target: how clips are written.
        num_workers: number of processes that re-encode.
        timeout_seconds: time limit per clip, without its length.
    """

    folder: Path
    format: str
    target: Target
    num_workers: int
    timeout_seconds: float


def run(source: Manifest, root: str, run: Run, options: dict[str, Any]) -> None:
    """Re-encode the clips that are not done, and write manifest and report."""
    place = PLACES[run.format](run.folder)
    usable = sum(len(clips) for clips in source.splits.values())
    failed: dict[int, str] = {}
    found: list[Written] = []
    with WorkerProgress(True) as bar:
        bar.start("shard", usable - place.num_done, place.num_done)
        for rows in batches(source, root):
            jobs = [job(n, row, place, run) for n, row in rows if row.status == "ok" and not place.is_done(n)]
            for (number, *_, path), answer in run_in_workers(REENCODE, jobs, run.num_workers):
                if isinstance(answer, NoRoom):
                    raise OSError(0, answer.reason, path)
                if isinstance(answer, Failure):
                    failed[number] = answer.reason
                else:
                    place.take(number)
                    found.append(answer)
                bar.count(isinstance(answer, Failure))
    place.finish()
    path = run.folder / "manifest.parquet"
    lost: list[str] = []
    about = source.about | {"store": place.store, "shard": options}
    table = written(source, root, place, failed, lost)
    metadata = write_manifest(path, table, source.classes, source.groups, about)
    report = path.with_name(f"{path.name}.report.txt")
    report.write_text("".join(f"{line}\n" for line in lost), encoding="utf-8")
    print_report(run, metadata["counts"], found, lost)
    print(f"manifest: {path}\nlost clips and the reasons: {report}")


def batches(source: Manifest, root: str) -> Iterator[list[tuple[int, ManifestRow]]]:
    """All rows with their numbers and their media paths from `root`, some thousand at a time."""
    done = 0
    for rows in READERS[source.path.suffix](source.path):
        cells = [to_list(rows.batch[name]) for name in rows.batch.schema.names]
        batch = []
        for number, row in enumerate(zip(*cells, strict=True), done):
            full = ManifestRow(*row)
            video, audio = (os.path.abspath(os.path.join(root, x)) if x else None for x in (full.video, full.audio))
            batch.append((number, full._replace(video=video, audio=audio)))
        yield batch
        done += len(batch)


def job(number: int, row: ManifestRow, place: Place, run: Run) -> tuple[Job, float]:
    """The job of a row, and its time limit."""
    start, end = row.start_seconds or 0.0, row.end_seconds
    example = Example(str(row.clip_id), row.video, row.audio or row.video, start, end)
    limit = run.timeout_seconds + (end - start if end else 0.0)
    return Job(number, run.format, example, run.target, str(place.path(number))), limit


def written(
    source: Manifest, root: str, place: Place, failed: dict[int, str], lost: list[str]
) -> Iterator[ManifestRow]:
    """The rows of the new manifest; lost clips are added to `lost`."""
    for rows in batches(source, root):
        for number, row in rows:
            if row.status == "ok" and number in failed:
                row = row._replace(status="unreadable")
                lost.append(f"{row.clip_id}: unreadable: {failed[number]}")
            elif row.status == "ok":
                name = place.name(number)
                video, audio = (name, None) if row.video else (None, name)
                row = row._replace(video=video, audio=audio, start_seconds=None, end_seconds=None)
            else:
                lost.append(f"{row.clip_id}: {row.status} before")
            yield row


def print_report(run: Run, counts: dict[str, dict[str, int]], found: Sequence[Written], lost: Sequence[str]) -> None:
    """Print a summary."""
    statuses: Counter[str] = Counter()
    for by_status in counts.values():
        statuses.update(by_status)
    print(", ".join(f"{number} {status}" for status, number in statuses.items()))
    if found:
        size = np.mean([clip.num_bytes for clip in found]) / 1000
        psnr = [clip.psnr for clip in found if clip.psnr is not None]
        audio = [clip.correlation for clip in found if clip.correlation is not None]
        words = [f"{len(found)} clips written now, {size:.0f} KB each"]
        words += [f"frames {np.mean(psnr):.1f} dB, worst clip {min(psnr):.1f}"] if psnr else []
        words += [f"audio's correlation {np.mean(audio):.4f}, worst {min(audio):.4f}"] if audio else []
        print("; ".join(words))
    for line in [line for line in lost if not line.endswith(" before")][:3]:
        Console(highlight=False, soft_wrap=True).print(f"  {line}", markup=False)
