"""What re-encoding by `mbt shard` gains: size of a clip, and the time from the disk to 8 pictures and 8 s of sound.

    python benchmarks/shards.py [--repeats 20] [--clips FILE ...] [--copies 32] [--save]

The clips (10 s, 340x256, 25 pictures a second, H.264 in groups of 12, AAC stereo; textures that move, with grain) are
made here, or given by `--clips` (both streams, 9 s or more). `mbt shard` makes `mp4-intra` and `jpeg-shards` of them
with its own defaults. Then every row reads windows of clips drawn at random, in turns in one run, through the stores
that training reads. All rows read from memory (page cache): a slow disk adds its own time for the KB of a clip.

`--copies` says how many rows of the manifest there are of each clip, so that records lie in several chunks. "record
alone" is litdata's random access without decoding.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import data_peers as peers
import measure
import torch

from mbt_lightning.cli.shard import shard
from mbt_lightning.data.manifest.manifest import Manifest, ManifestRow, read_manifest, write_manifest
from mbt_lightning.data.store import store_of

SECONDS = 8.0
FORMATS = ("mp4-intra", "jpeg-shards")
BATCH = 8


def size_of(manifest: Manifest) -> float:
    """KB a clip, of all that lies beside the manifest."""
    files = [path for path in manifest.path.parent.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / len(manifest.split("train")) / 1000


def reader(manifest: Manifest, decode: bool = True):
    """A function that reads `BATCH` windows, every time others."""
    store, examples, numbers = store_of(manifest), manifest.split("train"), random.Random(0)

    def read() -> None:
        for _ in range(BATCH):
            media = store.open(examples[numbers.randrange(len(examples))], ("video", "audio"))
            start = numbers.random() * (media.seconds - SECONDS)
            if decode:
                media.read_frames(start, SECONDS, 8)
                media.read_audio(start, SECONDS, 16_000)

    return read


def main() -> None:
    parser = measure.arguments(__doc__, repeats=20)
    parser.add_argument("--clips", nargs="+", default=[], help="media files of your own, instead of the one made here")
    parser.add_argument("--copies", type=int, default=32, help="how often each clip is in the data set, default 32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        clips = [Path(clip) for clip in options.clips] or [folder / "clip.mp4"]
        if not options.clips:
            peers.make_clip(str(clips[0]))
        rows = []
        for i in range(len(clips) * options.copies):
            file = folder / "files" / f"{i}{clips[i % len(clips)].suffix}"
            shutil.copy(clips[i % len(clips)], file)
            rows.append(ManifestRow(str(i), None, None, None, str(file), None, None, None, ["a"], "train"))
        source = folder / "files" / "manifest.parquet"
        write_manifest(source, rows, ["a"])
        manifests = {"files as they are": read_manifest(source)}
        for kind in FORMATS:
            shard(str(source), kind, str(folder / kind))
            manifests[kind] = read_manifest(folder / kind / "manifest.parquet")
        tasks = {kind: reader(manifest) for kind, manifest in manifests.items()}
        tasks["jpeg-shards, record alone"] = reader(manifests["jpeg-shards"], decode=False)
        times = {k: t.scaled(1 / BATCH) for k, t in measure.interleaved(tasks, options.repeats).items()}
        sizes = {kind: f"{size_of(manifest):.0f}" for kind, manifest in manifests.items()}
        first = times["files as they are"]
        rows = [
            [kind, sizes.get(kind, "–"), *t.cells(), f"{1000 / t.busy.min():.0f}", t.over(first)]
            for kind, t in times.items()
        ]
        header = ["a clip", "KB", *measure.CLOCKS, "clips/s per core", "to the files"]
        words = f"{len(clips)} clip(s) {'given' if options.clips else 'made'}, {options.copies} times each"
        text = f"### 8 pictures and 8 s of sound, windows at random ({words})\n\n{measure.table(header, rows)}"
    text += "\n\nRatios: of the least busy times (median of the ratios)."
    measure.report("shards", text, options, ["torch", "av", "decord", "litdata", "simplejpeg"])


if __name__ == "__main__":
    main()
