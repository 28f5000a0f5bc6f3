"""What `mbt shard` gains: the size of a clip, and the time to read 8 frames and 8 s of audio.

    python benchmarks/shards.py [--repeats 20] [--clips FILE ...] [--copies 32] [--save]

The clips (10 s, 340x256, 25 frames a second, H.264 in groups of 12, AAC stereo; moving textures with grain) are made
here, or given by `--clips` (both streams, 9 s or more). `mbt shard` re-encodes them as `mp4-intra` and `jpeg-shards`
with its defaults. Then every row of the table reads random windows of random clips, in turns within one run, through
the stores that training uses. All read from memory (page cache); a slow disk adds the time for a clip's KB.

`--copies` is the number of rows per clip in the manifest, so that records are spread over several chunks. "record only"
is litdata's random access without decoding.
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
    """KB per clip of all files in the manifest's folder."""
    files = [path for path in manifest.path.parent.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) / len(manifest.split("train")) / 1000


def reader(manifest: Manifest, decode: bool = True):
    """A function that reads `BATCH` windows, different ones in each call."""
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
    parser.add_argument("--clips", nargs="+", default=[], help="media files of your own instead of the one made here")
    parser.add_argument(
        "--copies", type=int, default=32, help="number of copies of each clip in the data set, default 32"
    )
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
        tasks["jpeg-shards, record only"] = reader(manifests["jpeg-shards"], decode=False)
        times = {k: t.scaled(1 / BATCH) for k, t in measure.interleaved(tasks, options.repeats).items()}
        sizes = {kind: f"{size_of(manifest):.0f}" for kind, manifest in manifests.items()}
        first = times["files as they are"]
        rows = [
            [kind, sizes.get(kind, "–"), *t.cells(), f"{1000 / t.busy.min():.0f}", t.over(first)]
            for kind, t in times.items()
        ]
        header = ["a clip", "KB", *measure.CLOCKS, "clips/s per core", "to the files"]
        words = f"{len(clips)} clip(s) {'given' if options.clips else 'made'}, {options.copies} times each"
        text = f"### 8 frames and 8 s of audio, random windows ({words})\n\n{measure.table(header, rows)}"
    text += "\n\nRatios: of the least busy times (median of the ratios)."
    measure.report("shards", text, options, ["torch", "av", "decord", "litdata", "simplejpeg"])


if __name__ == "__main__":
    main()
