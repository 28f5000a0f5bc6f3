"""How long one clip takes from the file to the model's input, beside peers and the limit of the machine.

    python benchmarks/data.py [--repeats 20] [--clip FILE] [--save]

What is timed: `read_clip` of 8 pictures and the sound out of 8 s, by every decoder, with and without a ready `probe`;
then the rest of a training sample, by the batch. The clip is made here (10 s, 340x256, 25 pictures a second, H.264 in
groups of 12, AAC stereo 44.1 kHz; textures that move, with grain) or given by `--clip` (both streams, 9 s or more).

Peers that read: decord's `get_batch` and PyAV's whole sound, both bare: no time line, no checks; and PyAV alone,
decoding every picture up to the last wanted one. Peers of the rest: what stands beside each row.

Limits: for reading, the pictures that any decoder must go through (from a key frame to each wanted picture) at libav's
own rate in one thread, and all the sound decoded; no colours converted, nothing resampled. For the rest, copying what
goes in (for crops also what comes out); for the spectrogram, the Fourier transforms alone.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import data_peers as peers
import measure
import numpy as np
import torch
import torchaudio

from mbt_lightning.data.augment import RandomResizedCrop, crop_resize, random_crop_boxes
from mbt_lightning.data.dataset import Sample, collate
from mbt_lightning.data.media.decode import read_clip
from mbt_lightning.data.media.frames import DECODERS
from mbt_lightning.data.media.probe import probe
from mbt_lightning.data.sampling import frame_times, frames_on_display
from mbt_lightning.data.spectrogram import LogMel
from mbt_lightning.data.streams import AudioStream, VideoStream, shrink

START, WINDOW, NUM_FRAMES = 1.0, 8.0, 8
BARE, NAIVE = "peer: decord + PyAV, bare", "peer: PyAV, picture after picture"


def reading(path: str, repeats: int) -> str:
    info = probe(path)
    seconds, keys = info.video.seconds, info.video.key_seconds
    indices = frames_on_display(frame_times(START, WINDOW, NUM_FRAMES), seconds).tolist()
    begins = np.searchsorted(seconds, keys[np.searchsorted(keys, seconds[indices] + 1e-6) - 1] - 1e-6)
    needed = len({n for begin, end in zip(begins, indices, strict=True) for n in range(begin, end + 1)})
    tasks = {"probe": partial(probe, path), NAIVE: partial(peers.naive, path, indices)}
    read = partial(read_clip, path, start_seconds=START, window_seconds=WINDOW, num_frames=NUM_FRAMES)
    for decoder, readers in DECODERS.items():
        if decoder == readers[0].name and readers[0].why_not():
            continue
        tasks[f"read_clip, {decoder}"] = partial(read, decoder=decoder)
        tasks[f"read_clip, {decoder}, probe at hand"] = partial(read, decoder=decoder, info=info)
    if peers.decord:
        tasks[BARE] = partial(peers.bare, path, indices)
    else:
        print("decord is not installed: its rows are left out\n")
    floors = {"floor: demux": partial(peers.demux, path), "floor: all pictures": partial(peers.decode, path, "video")}
    floors["floor: all sound"] = partial(peers.decode, path, "audio")
    times = measure.interleaved({**tasks, **floors}, repeats)
    limit = times["floor: all pictures"].scaled(needed / len(seconds)) + times["floor: all sound"]
    times[f"limit: {needed} of {len(seconds)} pictures, all sound"] = limit
    rows = [
        [name, *t.cells(), f"{1000 / t.busy.min():.1f}", t.over(times.get(BARE)), t.over(times[NAIVE]), t.over(limit)]
        for name, t in times.items()
    ]
    header = ["a clip", *measure.CLOCKS, "clips/s per core", "to decord + PyAV", "to PyAV", "to limit"]
    return measure.table(header, rows)


def the_rest(path: str, repeats: int, batch: int, device: str) -> str:
    """From decoded clips to inputs: shrinking and collating in the worker, the rest batched on the device."""
    clip = read_clip(path, start_seconds=START, window_seconds=WINDOW, num_frames=NUM_FRAMES)
    # Each sample its own memory, as they come from the decoder.
    samples = [
        Sample(torch.zeros(527), i, 0, {VideoStream(): clip.frames.clone(), AudioStream(): clip.waveform.clone()})
        for i in range(batch)
    ]
    (frames, sizes), waveform = collate(samples).to(device).content.values()
    smaller = shrink(clip.frames, 224)
    log_mel, crop = LogMel().to(device), RandomResizedCrop()
    boxes = random_crop_boxes(sizes, generator=torch.Generator().manual_seed(0))
    windows = waveform.unfold(1, log_mel.window_samples, log_mel.hop_samples)
    mel = torchaudio.transforms.MelSpectrogram(16000, 1024, 400, 160, n_mels=128).to(device)
    result = crop(frames, sizes, 224)
    tasks = {  # row: ours, its peer's name, the peer, the limit, clips in a call
        "shrink 256 to 224": (
            lambda: shrink(clip.frames, 224),
            "in float32",
            partial(peers.shrink_in_float, clip.frames, smaller.shape[1:3]),
            clip.frames.clone,
            1,
        ),
        f"collate {batch}": (
            lambda: collate(samples),
            "two torch.stack",
            lambda: [torch.stack(contents) for contents in zip(*(s.content.values() for s in samples), strict=True)],
            lambda: [frames.clone(), waveform.clone()],
            batch,
        ),
        "LogMel": (
            lambda: log_mel(waveform),
            "torchaudio MelSpectrogram, log",
            lambda: (mel(waveform) + 1e-6).log(),
            lambda: torch.fft.rfft(windows, n=log_mel.fft_samples),
            batch,
        ),
        "crop_resize to 224": (
            lambda: crop_resize(frames, boxes, 224),
            "interpolate, clip after clip",
            partial(peers.crop_clip_by_clip, frames, boxes, 224),
            lambda: [frames.clone(), result.clone()],
            batch,
        ),
        "RandomResizedCrop, flip, colour": (
            lambda: crop(frames, sizes, 224),
            "torchvision v2, clip after clip",
            peers.torchvision_crop(frames),
            lambda: [frames.clone(), result.clone()],
            batch,
        ),
    }
    calls = {(name, i): f for name, row in tasks.items() for i, f in enumerate((row[0], row[2], row[3])) if f}
    times = measure.interleaved(calls, repeats, device)
    times = {key: t.scaled(1 / tasks[key[0]][4]) for key, t in times.items()}
    rows = [
        [name, *t.cells(), f"{1000 / t.busy.min():.0f}", peer, t.over(times.get((name, 1))), t.over(times[name, 2])]
        for name, (_, peer, *_) in tasks.items()
        for t in [times[name, 0]]
    ]
    header = ["a clip", *measure.CLOCKS, "clips/s per core", "peer", "to peer", "to limit"]
    return measure.table(header, rows)


def main() -> None:
    parser = measure.arguments(__doc__, repeats=20)
    parser.add_argument("--clip", help="a media file of your own, instead of the one made here")
    parser.add_argument("--batch", type=int, default=16, help="clips in a batch, default 16")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = options.clip or str(Path(folder) / "clip.mp4")
        if not options.clip:
            peers.make_clip(path)
        size = f"{Path(path).stat().st_size / 1000:.0f} KB, {'given' if options.clip else 'made'}"
        parts = [f"### Reading a clip ({size}): {NUM_FRAMES} pictures and the sound of {WINDOW:g} s"]
        parts += [reading(path, options.repeats), f"### The rest of a sample, batch {options.batch}"]
        parts += [the_rest(path, options.repeats, options.batch, options.device)]
    parts += ["Ratios: of the least busy times (median of the ratios)."]
    measure.report(
        "data", "\n\n".join(parts), options, ["torch", "torchaudio", "torchvision", "av", "decord", "torchcodec"]
    )


if __name__ == "__main__":
    main()
