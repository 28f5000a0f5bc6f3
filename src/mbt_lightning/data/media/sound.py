"""The audio of a file in a given window, placed by its timestamps: always decoded by PyAV."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import av
import numpy as np
import torch
import torchaudio.transforms
from numpy.typing import NDArray
from torch import Tensor

from mbt_lightning.data.media.probe import ClipError, MediaInfo, Track, best_stream, is_short, open_media

# Audio is decoded at the file's own rate and resampled once: torchaudio's windowed sinc with 64 zero crossings keeps
# 7.9 of 8 kHz and takes 4 ms a clip; libav's resampler, frame by frame, takes 15 ms and loses 8 dB there.
ZERO_CROSSINGS = 64
MAX_KERNEL = 4_000_000
MARGIN_SECONDS = 0.05  # audio beyond the window's ends, so that the resampling filter sees no step there
PREROLL_SECONDS = 0.5  # decoders need earlier data: MP3's bit reservoir, AAC's overlap, Opus' 80 ms
# Smaller deviations of timestamps are rounding (Matroska's milliseconds), not gaps.
MAX_DRIFT_SECONDS = 0.02
MP3_DECODER_DELAY = 529  # in samples, of every MP3 decoder; AVI, unlike others, cannot declare it
SAMPLE_RATES = range(1_000, 768_001)
SAMPLE_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


def read_waveform(
    info: MediaInfo, audio: Track, start_seconds: float, window_seconds: float, sample_rate: int
) -> tuple[Tensor, tuple[int, int]]:
    """The window's waveform, float32 mono, and the first and last + 1 sample that the file contains."""
    margin = math.ceil(MARGIN_SECONDS * sample_rate) / sample_rate
    first, last = start_seconds - margin, start_seconds + window_seconds + margin
    # A seek costs an index look-up and may land anywhere; near the start sequential reading is as fast.
    pieces, rate = None, sample_rate
    if first > audio.seconds[0] + 2 * PREROLL_SECONDS:
        with suppress(ClipError):
            pieces, rate = _decode_audio(info, audio, first, last, seek=True)
    if pieces is None:
        pieces, rate = _decode_audio(info, audio, first, last, seek=False)

    late = MP3_DECODER_DELAY if info.container == "avi" and audio.codec.startswith("mp3") else 0
    pieces = [(seconds - late / rate, samples) for seconds, samples in pieces]
    # AAC pads its last frame; samples after the container's end are not audio (and PyAV 19 trims them itself).
    waveform, real, decoded = lay_out(pieces, rate, start_seconds, window_seconds, sample_rate, audio.end_seconds)
    if not waveform.isfinite().all():
        raise ClipError(info.path, "the audio contains values that are not numbers")
    there = _promised_seconds(audio, start_seconds, start_seconds + window_seconds)
    if is_short(decoded, there):
        raise ClipError(info.path, f"damaged: only {decoded:.2f} of {there:.2f} s of audio can be decoded")
    return waveform, real


def _promised_seconds(audio: Track, start: float, end: float) -> float:
    """How many seconds from `start` to `end` have packets: phones leave gaps between the times of the first ones."""
    steps = np.diff(audio.seconds)
    usual = float(np.median(steps)) if len(steps) else 0.0
    before = np.flatnonzero(steps > usual + MAX_DRIFT_SECONDS)
    gaps = np.minimum(audio.seconds[before + 1], end) - np.maximum(audio.seconds[before] + usual, start)
    return min(end, audio.end_seconds) - max(start, float(audio.seconds[0])) - float(gaps.clip(0).sum())


def lay_out(
    pieces: Iterable[tuple[float, NDArray[np.float32]]],
    rate: int,
    start_seconds: float,
    window_seconds: float,
    sample_rate: int,
    end_seconds: float,
) -> tuple[Tensor, tuple[int, int], float]:
    """Place pieces of audio in a window at another sample rate; gaps are silent.

    Args:
        pieces: start in seconds and samples of each piece, including `MARGIN_SECONDS` on both sides of the window.
        rate: of the pieces, in Hz.
        start_seconds: start of the window.
        window_seconds: its length.
        sample_rate: of the result, in Hz.
        end_seconds: end of the audio; later samples are dropped.

    Returns:
        The waveform, float32 (N,); its first and last + 1 sample covered by pieces; the seconds that they cover.
    """
    num_samples, margin = round(window_seconds * sample_rate), math.ceil(MARGIN_SECONDS * sample_rate)
    origin, end = start_seconds - margin / sample_rate, start_seconds + window_seconds + margin / sample_rate
    native = np.zeros(math.ceil((end - origin) * rate), dtype=np.float32)
    covered = np.zeros(len(native), dtype=bool)
    last = min(len(native), round((end_seconds - origin) * rate))
    for seconds, samples in pieces:
        at = round((seconds - origin) * rate)
        low, high = max(at, 0), min(at + len(samples), last)
        if low < high:
            native[low:high] = samples[low - at : high - at]
            covered[low:high] = True
    first = round(margin / sample_rate * rate)
    inside = np.flatnonzero(covered[first : first + round(window_seconds * rate)])
    real = (0, 0)
    if len(inside):
        real = (round(inside[0] * sample_rate / rate), min(round((inside[-1] + 1) * sample_rate / rate), num_samples))
    waveform = _resample(torch.from_numpy(native), rate, sample_rate)[margin : margin + num_samples]
    # An odd rate may not fill the last sample.
    return torch.nn.functional.pad(waveform, (0, num_samples - len(waveform))).clone(), real, len(inside) / rate


def _decode_audio(
    info: MediaInfo, audio: Track, start: float, end: float, seek: bool
) -> tuple[list[tuple[float, NDArray[np.float32]]], int]:
    """Mono pieces of the audio from `start` to `end` with their times, and their sample rate."""
    pieces: list[tuple[float, list[Any]]] = []  # consecutive frames without a gap, of one format
    rate, clock, kind = 0, None, None
    with open_media(info.path) as container:
        stream = best_stream(container, "audio")
        scale = float(stream.time_base)
        if seek:
            container.seek(round((info.origin + start - PREROLL_SECONDS) / scale), stream=stream)
        for frame in container.decode(stream):
            rate = rate or frame.sample_rate
            if frame.sample_rate != rate or rate not in SAMPLE_RATES:
                raise ClipError(info.path, f"a sample rate of {frame.sample_rate} Hz, first {rate} Hz, cannot be read")
            stamp = None if frame.pts is None else frame.pts * scale - info.origin
            if clock is None:
                if stamp is None and seek:
                    continue  # Ogg: not known before the page ends
                clock = audio.seconds[0] if stamp is None else stamp
                if seek and clock > start:
                    raise ClipError(info.path, "seeking in the audio lands late")
            elif stamp is not None and abs(stamp - clock) > MAX_DRIFT_SECONDS:
                clock, kind = stamp, None
            if clock >= end:
                break
            if clock + frame.samples / rate > start:
                if frame.is_corrupt:
                    raise ClipError(info.path, f"the audio at {clock:.3f} s is damaged")
                if kind != (kind := (frame.format.name, frame.layout.name)):
                    pieces.append((clock, []))
                pieces[-1][1].append(frame)
            clock += frame.samples / rate
    return [(seconds, _to_mono(frames)) for seconds, frames in pieces], rate or SAMPLE_RATES.start


def _to_mono(frames: list[Any]) -> NDArray[np.float32]:
    """Audio frames of one format as float32 mono: the mean of two channels; of more, with ffmpeg's weights."""
    num_channels = frames[0].layout.nb_channels
    if num_channels > 2:
        # Without this option libav mixes to float without dividing by the sum of the weights.
        mixer = av.AudioResampler("fltp", "mono", options={"rematrix_maxval": "1.0"})
        frames, num_channels = [mixed for frame in frames for mixed in mixer.resample(frame)], 1
    # All frames at once: there are hundreds, and `frame.to_ndarray` alone takes a quarter of the decoding time.
    dtype = SAMPLE_TYPES[frames[0].format.name.removesuffix("p")]
    if frames[0].format.is_planar:
        planes = [frame.planes for frame in frames]
        sizes = [frame.samples for frame in frames]
        channels = [
            np.concatenate([np.frombuffer(of[n], dtype, size) for of, size in zip(planes, sizes, strict=True)])
            for n in range(num_channels)
        ]
    else:
        packed = [np.frombuffer(frame.planes[0], dtype, frame.samples * num_channels) for frame in frames]
        channels = list(np.concatenate(packed).reshape(-1, num_channels).T)
    mono = channels[0].astype(np.float32)
    if num_channels == 2:
        mono += channels[1]
        mono *= np.float32(0.5)
    if dtype == np.uint8:
        mono -= 128
    if np.dtype(dtype).kind in "iu":
        mono /= np.float32(2 ** (8 * np.dtype(dtype).itemsize - 1))
    return mono


def _resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    if rate == sample_rate:
        return waveform
    divisor = math.gcd(rate, sample_rate)
    if (rate // divisor) * (sample_rate // divisor) > MAX_KERNEL:
        # Odd rates (44,123 Hz): torchaudio would build a filter for each of thousands of phases.
        frame = av.AudioFrame.from_ndarray(waveform.numpy()[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler("fltp", "mono", sample_rate)
        parts = [part.to_ndarray()[0] for part in (*resampler.resample(frame), *resampler.resample(None))]
        return torch.from_numpy(np.concatenate(parts))
    return _resampler(rate, sample_rate)(waveform)


@functools.lru_cache(maxsize=16)
def _resampler(rate: int, sample_rate: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(rate, sample_rate, lowpass_filter_width=ZERO_CROSSINGS)
