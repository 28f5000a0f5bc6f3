"""What one worker of the data module delivers, beside a bare loop over the decoder that gets the same.

    python benchmarks/loader.py [--repeats 5] [--clips 48] [--save]

A clip is 8 pictures and 8 s of sound at 16 kHz from the middle of a file of 10 s (340x256, 25 pictures a second, H.264
in groups of 12, AAC stereo 44.1 kHz, made here; every clip a file of its own). The worker is a DataLoader's, as in
training: it draws windows, finds out the times of all pictures, checks, cuts, shrinks, collates and hands batches of 8
to the parent. The bare loop knows beforehand which pictures it wants: it opens the file, takes them by number, decodes
the sound of the window with PyAV and resamples it by the same filter; it checks nothing.

Both take turns, epoch by epoch. Clips a second are by the clock; clips a CPU second are the worker's own (of the bare
loop this process's), which a busy machine disturbs less.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import data_peers as peers
import measure
import numpy as np
import torch

from mbt_lightning.data.datamodule import AudioVisualData
from mbt_lightning.data.manifest.manifest import ManifestRow, write_manifest
from mbt_lightning.data.media.probe import probe
from mbt_lightning.data.modalities import Rgb, Spectrogram
from mbt_lightning.data.sampling import frame_times, frames_on_display

WINDOW, NUM_FRAMES, BATCH = 8.0, 8, 8
START = 1.0


def make_data(folder: Path, num_clips: int) -> Path:
    """A manifest of so many files of equal content."""
    peers.make_clip(str(folder / "0.mp4"))
    for number in range(1, num_clips):
        shutil.copy(folder / "0.mp4", folder / f"{number}.mp4")
    rows = [
        ManifestRow(str(n), str(n), None, None, f"{n}.mp4", None, START, START + WINDOW, ["a"], "train")
        for n in range(num_clips)
    ]
    write_manifest(folder / "manifest.parquet", rows, ["a"])
    return folder / "manifest.parquet"


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_epoch(files: list[str], indices: list[int], read) -> tuple[float, float]:
    """Clips a second by the clock and by CPU time of a loop over the files."""
    wall, busy = time.perf_counter(), time.process_time()
    for file in files:
        read(file, indices)
        peers.window_of_sound(file, START, WINDOW)
    return len(files) / (time.perf_counter() - wall), len(files) / (time.process_time() - busy)


def loader_epoch(loader, num_clips: int) -> tuple[float, float]:
    """The same of an epoch of a DataLoader whose worker runs already."""
    wall, seen, busy = time.perf_counter(), 0, None
    iterator = iter(loader)
    pid = iterator._workers[0].pid
    busy = cpu_seconds(pid)
    for batch in iterator:
        (frames, _), waveform = batch.content.values()
        assert not batch.bad and frames.shape[1] == NUM_FRAMES and waveform.shape[1] == WINDOW * 16000
        seen += len(batch.index)
    assert seen == num_clips
    return seen / (time.perf_counter() - wall), seen / (cpu_seconds(pid) - busy)


def main() -> None:
    parser = measure.arguments(__doc__, repeats=5)
    parser.add_argument("--clips", type=int, default=48, help="clips in an epoch, a multiple of 8, default 48")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_data(Path(folder), options.clips)
        files = [str(Path(folder) / f"{n}.mp4") for n in range(options.clips)]
        indices = frames_on_display(frame_times(START, WINDOW, NUM_FRAMES), probe(files[0]).video.seconds).tolist()
        runs, pairs = {}, {}
        for name, read in peers.READERS.items():
            inputs = {"rgb": Rgb(NUM_FRAMES, decoder=name), "spectrogram": Spectrogram()}
            data = AudioVisualData(str(manifest), val_split=None, inputs=inputs, num_workers=1, batch_size=BATCH)
            loader = data.loader(data.dataset("train", num_views=0), data.sampler)
            loader_epoch(loader, options.clips)  # starts the worker
            runs[f"worker, {name}"] = partial(loader_epoch, loader, options.clips)
            runs[f"bare loop, {name}"] = partial(bare_epoch, files, indices, read)
            pairs[f"worker, {name}"] = f"bare loop, {name}"
        rates = {name: [] for name in runs}
        for _ in range(options.repeats):
            for name, run in runs.items():
                rates[name].append(run())
    rates = {name: np.array(values) for name, values in rates.items()}
    rows = []
    for name, values in rates.items():
        ratio = ["–", "–"]
        if peer := pairs.get(name):
            ratio = [f"{part:.2f}" for part in np.median(values / rates[peer], axis=0)]
        best, middle = values.max(0), np.median(values, axis=0)
        rows.append([name, f"{best[0]:.1f}", f"{middle[0]:.1f}", ratio[0], f"{middle[1]:.1f}", ratio[1]])
    header = ["reader", "clips/s best", "median", "to bare loop", "clips/CPU s median", "to bare loop"]
    text = f"### {options.clips} clips an epoch, one process\n\n{measure.table(header, rows)}"
    text += "\n\nRatios: median of the ratios of neighbouring epochs; 1 is the bare loop's rate, more is faster."
    measure.report("loader", text, options, ["torch", "torchaudio", "av", "decord"])


if __name__ == "__main__":
    main()
