"""The generated demo: small real clips (H.264 and AAC in mp4) with relation classes that only fusion can recognise.

A clip shows a disc, red or blue, that drifts over a dark noisy background, and a flash, early or late; its audio is a
tone, high or low, with a burst of noise, early or late. These four facts are independent and define twelve classes:

- `video`: red disc, blue disc, early flash, late flash: visible in the frames;
- `audio`: high tone, low tone, early burst, late burst: audible;
- `relation`: whether the tone fits the colour (high with red, low with blue) or not, and whether burst and flash
  coincide or not. Each is an exclusive-or of a visible and an audible fact: neither modality alone predicts it, nor
  does any sum of one score per modality: of a model that only averages logits the AUC stays at chance, 0.5. (Average
  precision is no such bound: a sum can put one of the two matching cases first, and reaches 0.712.)
"""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from filelock import FileLock

from mbt_lightning.disk import cache_folder
from mbt_lightning.errors import UserError

VERSION = 2
SECONDS = 1.6
FRAME_RATE = 20
SAMPLE_RATE = 16000
SIZE = 64
FIRST_HALF, SECOND_HALF = (0.05, 0.35), (0.85, 1.15)
EVENT_SECONDS = 0.35

CLASSES = (
    ("red disc", "video"),
    ("blue disc", "video"),
    ("early flash", "video"),
    ("late flash", "video"),
    ("high tone", "audio"),
    ("low tone", "audio"),
    ("early burst", "audio"),
    ("late burst", "audio"),
    ("tone fits colour", "relation"),
    ("tone against colour", "relation"),
    ("burst with flash", "relation"),
    ("burst apart from flash", "relation"),
)
"""Name and group of every class, in index order."""


@dataclass(frozen=True)
class Facts:
    """The four independent facts of a clip."""

    red: bool
    early_flash: bool
    high: bool
    early_burst: bool

    def labels(self) -> list[str]:
        return [
            "red disc" if self.red else "blue disc",
            "early flash" if self.early_flash else "late flash",
            "high tone" if self.high else "low tone",
            "early burst" if self.early_burst else "late burst",
            "tone fits colour" if self.red == self.high else "tone against colour",
            "burst with flash" if self.early_flash == self.early_burst else "burst apart from flash",
        ]


@dataclass(frozen=True)
class DemoSize:
    """The number of clips per split, and the seed of all random draws."""

    train: int = 1024
    val: int = 128
    test: int = 512
    seed: int = 0


def demo_manifest(size: DemoSize = DemoSize(), cache: str | Path | None = None) -> Path:
    """Path of the demo's manifest; the clips are generated first if needed (once, about twenty seconds).

    Safe to call from several processes at once: one generates the clips, the others wait; unfinished clips of a killed
    process are never used. The same size and seed give the same clips.

    Args:
        size: number of clips per split, and the seed.
        cache: folder to keep them in; default `$MBT_CACHE`, else `~/.cache/mbt-lightning`.
    """
    root = Path(cache) if cache else cache_folder()
    folder = root / ("demo-v{}-{}-{}-{}-seed{}".format(VERSION, *astuple(size)))
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return manifest
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not manifest.is_file():
                unfinished = Path(tempfile.mkdtemp(prefix=".demo-", dir=root))
                try:
                    write_dataset(unfinished, size)
                    unfinished.chmod(0o755)
                    unfinished.rename(folder)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{root}: the embedded clips cannot be written there ({error.strerror or error}); set MBT_CACHE to a "
            "folder with 100 MB of space"
        ) from error
    return manifest


def write_dataset(folder: Path, size: DemoSize) -> None:
    rows = list(plan(size))
    (folder / "clips").mkdir()
    jobs = [(folder / row["video"], facts, seed) for row, facts, seed in rows]
    # Spawned: a fork of a process with threads (torch has some) may hang.
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        list(pool.map(write_clip_job, jobs, chunksize=32))
    with open(folder / "classes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "group"), *CLASSES])
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["clip_id", "video", "labels", "split"])
        writer.writeheader()
        writer.writerows(row for row, _, _ in rows)


def plan(size: DemoSize) -> Iterator[tuple[dict, Facts, int]]:
    """Yield manifest row, facts and seed of every clip; all combinations of facts are equally frequent in a split."""
    for number, split in enumerate(("train", "val", "test")):
        count = getattr(size, split)
        rng = np.random.default_rng([size.seed, number])
        codes = rng.permutation(np.arange(count) % 2 ** len(fields(Facts)))
        for index, code in enumerate(codes):
            facts = Facts(*(bool(code >> bit & 1) for bit in range(len(fields(Facts)))))
            name = f"{split}-{index:05d}"
            row = {"clip_id": name, "video": f"clips/{name}.mp4", "labels": "|".join(facts.labels()), "split": split}
            yield row, facts, int(rng.integers(2**31))


def write_clip_job(job: tuple[Path, Facts, int]) -> None:
    path, facts, seed = job
    rng = np.random.default_rng(seed)
    encode(path, render_frames(facts, rng), render_audio(facts, rng))


def render_frames(facts: Facts, rng: np.random.Generator) -> np.ndarray:
    seconds = np.arange(round(SECONDS * FRAME_RATE)) / FRAME_RATE
    place, speed = rng.uniform(0.3, 0.7, 2) * SIZE, rng.uniform(-0.12, 0.12, 2) * SIZE
    radius = rng.uniform(0.17, 0.28) * SIZE
    strong, weak = rng.uniform(170, 255), rng.uniform(0, 70, 2)
    colour = np.array([strong, *weak] if facts.red else [*weak, strong])
    background = rng.uniform(20, 60) + 12 * rng.standard_normal((SIZE, SIZE, 3))
    flash_start = rng.uniform(*(FIRST_HALF if facts.early_flash else SECOND_HALF))
    flash = rng.uniform(90, 140) * ((seconds >= flash_start) & (seconds < flash_start + EVENT_SECONDS))

    rows, columns = np.mgrid[:SIZE, :SIZE]
    frames = np.empty((len(seconds), SIZE, SIZE, 3))
    for i, t in enumerate(seconds):
        y, x = place + speed * t
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        frames[i] = np.where(disc[..., None], colour, background + flash[i])
    return np.clip(frames, 0, 255).astype(np.uint8)


def render_audio(facts: Facts, rng: np.random.Generator) -> np.ndarray:
    seconds = np.arange(round(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    pitch_hz = rng.uniform(1600, 2400) if facts.high else rng.uniform(300, 500)
    tone = sum(np.sin(2 * np.pi * pitch_hz * k * seconds + rng.uniform(0, 6)) / k for k in (1, 2, 3))
    burst_start = rng.uniform(*(FIRST_HALF if facts.early_burst else SECOND_HALF))
    burst = (seconds >= burst_start) & (seconds < burst_start + EVENT_SECONDS)
    noise = rng.standard_normal(len(seconds)) * (rng.uniform(0.003, 0.01) + rng.uniform(0.15, 0.25) * burst)
    return (rng.uniform(0.05, 0.15) * tone + noise).astype(np.float32)


def encode(path: Path, frames: np.ndarray, waveform: np.ndarray) -> None:
    import av

    with av.open(str(path), "w") as container:
        # With mbtree, even on one thread, libx264 is not reproducible for one clip in a hundred.
        settings = {"crf": "20", "g": "8", "threads": "1", "x264-params": "no-mbtree=1"}
        video = container.add_stream("libx264", rate=FRAME_RATE, options=settings)
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=64000)
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
