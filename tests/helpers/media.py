"""Small encoded clips for the tests, made with PyAV: the content of frames and audio encodes their own time.

A frame shows its number as eight black or white blocks. The audio is seeded noise below 6 kHz, different at every
instant, so that a correlation finds where any piece of it comes from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 25
WIDTH, HEIGHT = 128, 96
SAMPLE_RATE = 16_000
MAX_SOUND_SECONDS = 8


def draw_number(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """An RGB frame that shows a number from 0 to 255 in binary: 2 rows of 4 blocks, the least bit first."""
    bits = np.array([number >> bit & 1 for bit in range(8)]).reshape(2, 4)
    grey = np.kron(bits, np.ones((height // 2, width // 4))) * 200 + 28
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    """The number in a frame of `draw_number`, or -1 in any other."""
    height, width = frame.shape[0] // 2, frame.shape[1] // 4
    number = 0
    for bit in range(8):
        top, left = bit // 4 * height, bit % 4 * width
        brightness = frame[top + 12 : top + height - 12, left + 10 : left + width - 10].mean()
        if 100 < brightness < 156:
            return -1
        number |= int(brightness > 128) << bit
    return number


@functools.cache
def sound(sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Eight seconds of the noise, float32 (N,): the same at any sample rate."""
    rng = np.random.default_rng(0)
    num_bins = 6_000 * MAX_SOUND_SECONDS
    spectrum = np.zeros(sample_rate * MAX_SOUND_SECONDS // 2 + 1, dtype=complex)
    low = min(num_bins, len(spectrum) - 1)
    spectrum[1:low] = (rng.normal(size=num_bins) + 1j * rng.normal(size=num_bins))[1:low]
    wave = np.fft.irfft(spectrum, sample_rate * MAX_SOUND_SECONDS) * sample_rate
    return (wave / wave.std() * 0.1).astype(np.float32)


def find_sound(waveform: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """The time in `sound` at which a piece of it starts."""
    reference = sound(sample_rate)
    size = len(reference) + len(waveform)
    correlation = np.fft.irfft(np.fft.rfft(reference, size) * np.conj(np.fft.rfft(waveform, size)), size)
    at = int(np.argmax(correlation))
    return (at if at < len(reference) else at - size) / sample_rate


@dataclass(frozen=True)
class Recipe:
    """How a clip is encoded; frame k is shown at `video_delay + times[k]`, audio starts at `audio_delay`."""

    suffix: str = ".mp4"
    seconds: float = 4.0
    video_codec: str | None = "libx264"
    audio_codec: str | None = "aac"
    gop: int = 12
    times: Sequence[float] | None = None  # None: evenly, FPS a second
    video_delay: float = 0.0
    audio_delay: float = 0.0
    sample_rate: int = 44_100
    layout: str = "stereo"
    rotation: int = 0
    b_frames: int = 0  # of mpeg4
    video_options: tuple[tuple[str, str], ...] = (("crf", "30"), ("preset", "veryfast"))
    container_options: tuple[tuple[str, str], ...] = (("movflags", "faststart"),)
    size: tuple[int, int] = (WIDTH, HEIGHT)

    @property
    def picture_times(self) -> np.ndarray:
        """When each frame is shown, in the recipe's own seconds."""
        return np.arange(round(self.seconds * FPS)) / FPS if self.times is None else np.asarray(self.times)


def write_clip(path: Path, recipe: Recipe) -> Path:
    """Encode a clip by its recipe; returns the path."""
    options = dict(recipe.container_options) if recipe.suffix in (".mp4", ".m4a") else {}
    with av.open(str(path), "w", options=options) as container:
        encoders: list[Iterable[av.Packet]] = []
        if recipe.video_codec:
            encoders.append(_video_packets(container, recipe))
        if recipe.audio_codec:
            encoders.append(_audio_packets(container, recipe))
        packets = [packet for packets in encoders for packet in packets]
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def _video_packets(container, recipe: Recipe) -> list[av.Packet]:
    options = {**dict(recipe.video_options)} if recipe.video_codec == "libx264" else {}
    stream = container.add_stream(recipe.video_codec, rate=FPS, options=options)
    stream.width, stream.height = recipe.size
    stream.pix_fmt = "yuv420p"
    stream.codec_context.gop_size = recipe.gop
    stream.codec_context.thread_count = 1
    stream.bit_rate = 400_000
    if recipe.video_codec == "mpeg4":
        stream.codec_context.max_b_frames = recipe.b_frames
    if recipe.rotation:
        stream.set_display_rotation(recipe.rotation)
    tick = Fraction(1, 1000) if recipe.times is not None else Fraction(1, FPS)
    stream.codec_context.time_base = tick
    packets = []
    for number, time in enumerate(recipe.picture_times):
        frame = av.VideoFrame.from_ndarray(draw_number(number, *recipe.size), format="rgb24")
        frame.time_base, frame.pts = tick, round((time + recipe.video_delay) / tick)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _audio_packets(container, recipe: Recipe) -> list[av.Packet]:
    rate = recipe.sample_rate
    stream = container.add_stream(recipe.audio_codec, rate=rate, layout=recipe.layout)
    if recipe.audio_codec not in ("pcm_s16le", "flac"):
        stream.bit_rate = 128_000
    num_samples = round((recipe.seconds - recipe.audio_delay) * rate)
    wave = sound(rate)[:num_samples]
    num_channels = len(av.AudioLayout(recipe.layout).channels)
    resampler = av.AudioResampler(stream.format.name, recipe.layout, rate)
    packets = []
    step = stream.codec_context.frame_size or 1024
    for start in range(0, num_samples, step):
        piece = np.repeat(wave[None, start : start + step], num_channels, axis=0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="fltp", layout=recipe.layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round(recipe.audio_delay * rate) + start
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    packets += stream.encode(None)
    if recipe.suffix == ".avi":
        # AVI cannot place an encoder's lead-in before 0; without this all frames would be moved instead.
        lead_in = min(packet.pts for packet in packets)
        for packet in packets:
            packet.pts, packet.dts = packet.pts - lead_in, packet.dts - lead_in
    return packets


def cut_by_stream_copy(source: Path, target: Path, start_seconds: float) -> Path:
    """Copy an MP4 from a time on without encoding: earlier frames stay in the file, hidden by an edit list."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        old.seek(round(start_seconds * av.time_base))
        for packet in old.demux():
            if packet.dts is None:
                continue
            shift = round(start_seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            new.mux(packet)
    return target


def add_hidden_pictures(source: Path, target: Path) -> Path:
    """Copy a VP8 WebM, with a twin that is decoded but never shown (show_frame 0) before each key frame."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is None:
                continue
            stream = streams[packet.stream.index]
            if stream.type == "video" and packet.is_keyframe:
                data = bytearray(bytes(packet))
                data[0] &= ~0x10
                twin = av.Packet(bytes(data))
                twin.pts, twin.dts, twin.time_base, twin.stream = packet.pts, packet.dts, packet.time_base, stream
                new.mux(twin)
            packet.stream = stream
            new.mux(packet)
    return target
