"""One clip re-encoded for training: read at a few instants a second, written, read back and compared with its source.

What is written holds the labelled segment only; its time 0 is the segment's start, for pictures and sound alike.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbt_lightning.data.media.probe import ClipError, probe, probe_once
from mbt_lightning.data.media.shard_records import (
    FULL_SCALE,
    Header,
    Record,
    encode_flac,
    encode_jpeg,
    need_packages,
    pack,
)
from mbt_lightning.data.records import Example
from mbt_lightning.data.sampling import TOLERANCE_SECONDS
from mbt_lightning.data.store import Files, Media, MediaFile, readable_seconds
from mbt_lightning.data.streams import shrink
from mbt_lightning.data.worker_pool import Failure
from mbt_lightning.disk import replacing

BLOCK = 16
"""So many pictures are decoded at a time; a film of hours never lies in memory as a whole."""
KEPT_BLOCKS = 16
"""So many blocks are kept for the comparison; of longer clips the pictures are decoded twice."""

MIN_PSNR = 16.0
"""A picture further from its source than this, in dB, is a wrong one: hard edges of colour give 20, another one 10."""
MIN_CORRELATION = 0.8
MAX_LAG_SECONDS = 0.05
AUDIBLE = 1e-3
"""Sound below this level (root of the mean square) may be compressed away."""
AAC_SAMPLES = 1024
"""AAC begins and ends in steps of so many samples, with silence where the sound has not begun."""
MAX_RECORD_BYTES = 2**30


@dataclass(frozen=True)
class Target:
    """How clips are written.

    Args:
        fps: pictures a second.
        short_side: pictures larger than this on their shorter side are shrunk to it, in pixels.
        sample_rate: of the sound, in Hz.
        crf: quality of H.264, 0 to 51, less is better.
        jpeg_quality: quality of JPEG, 1 to 100.
    """

    fps: float
    short_side: int
    sample_rate: int
    crf: int
    jpeg_quality: int


class Job(NamedTuple):
    """A clip to be re-encoded.

    Args:
        number: of the clip's row.
        kind: a name in `WRITERS`.
        example: the clip.
        target: how it is written.
        path: the file that is written.
    """

    number: int
    kind: str
    example: Example
    target: Target
    path: str


class Written(NamedTuple):
    """A clip that was written and found right.

    Args:
        num_bytes: size of the file.
        psnr: of the pictures against their source, mean in dB; None: it has no pictures.
        correlation: of the sound with its source; None: it has none that can be heard.
    """

    num_bytes: int
    psnr: float | None
    correlation: float | None


class NoRoom(NamedTuple):
    """The file could not be written, which is no fault of the clip.

    Args:
        reason: why.
    """

    reason: str


class Segment:
    """The labelled segment of a clip, read from its files as training reads it.

    Args:
        example: the clip.
        target: pictures a second, their size, and the sample rate.

    Raises:
        ClipError: it cannot be read.
    """

    def __init__(self, example: Example, target: Target):
        self.clip_id, self.target, self.start = example.clip_id, target, example.start_seconds
        streams = [name for name, file in {"video": example.video, "audio": example.audio}.items() if file]
        self.media = Files().open(example, streams)
        self.seconds = readable_seconds(self.media, example)
        if self.seconds <= 0:
            raise ClipError(self.media.path, f"it ends at {self.media.seconds:.3f} s, before its segment starts")
        video = self.media.info.video if example.video else None
        other = example.audio if example.audio != self.media.path else None
        audio = probe_once(other).audio if other else self.media.info.audio
        if video is None and audio is None:
            raise ClipError(self.media.path, "no audio and no video stream")
        self.has_audio = audio is not None
        self.video_seconds, self.num_pictures = 0.0, 0
        if video:
            self.video_seconds = min(max(video.end_seconds - self.start, 0.0), self.seconds)
            # Where the pictures have ended before, the last one is held.
            self.num_pictures = max(1, math.ceil((self.video_seconds - TOLERANCE_SECONDS) * target.fps))
        self.block = functools.lru_cache(KEPT_BLOCKS)(self.read_block)

    def read_block(self, first: int) -> Tensor:
        """Picture `first` and up to `BLOCK` - 1 that follow it, as small as wanted: uint8 (T, H, W, 3)."""
        num_frames = min(BLOCK, self.num_pictures - first)
        start = self.start + first / self.target.fps
        frames, *_ = self.media.read_frames(start, num_frames / self.target.fps, num_frames)
        frames = shrink(frames, self.target.short_side)
        height, width = (side - side % 2 for side in frames.shape[1:3])  # video codecs want even sides
        if not height or not width:
            raise ClipError(self.media.path, f"pictures of {frames.shape[2]}x{frames.shape[1]} cannot be encoded")
        return frames[:, :height, :width]

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All pictures, in blocks with the number of their first."""
        for first in range(0, self.num_pictures, BLOCK):
            yield first, self.block(first)

    @functools.cached_property
    def sound(self) -> tuple[Tensor, tuple[int, int]]:
        """The sound of the whole segment, float32 (N,), and its first and last + 1 sample that is really there."""
        return self.media.read_audio(self.start, self.seconds, self.target.sample_rate)

    @property
    def heard(self) -> tuple[int, NDArray[np.float32]]:
        """What of the sound must be written: where it begins, in samples, and the samples.

        A stream that has nothing in the segment is silence there. Without pictures a file's time begins with its sound.
        """
        waveform, (first, last) = self.sound
        first, last = (first if self.num_pictures else 0, last) if first < last else (0, len(waveform))
        return first, waveform[first:last].numpy()


# ---- formats --------------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """A format: how a segment is written to a file, and how that file is opened again."""

    suffix: str

    def check(self) -> None:
        """Refuse to begin where something is missing."""

    def write(self, segment: Segment, path: Path) -> None:
        """Write a segment."""

    def open(self, path: Path) -> Media:
        """Open what was written, as training does."""


class Mp4Intra:
    """H.264 in which every picture stands for itself, and AAC, in an mp4 file."""

    suffix = ".mp4"

    def check(self) -> None:
        """PyAV has all that is needed."""

    def write(self, segment: Segment, path: Path) -> None:
        """Encode; sound and pictures lie in turns, so that a part of a long clip is found in one place."""
        target, muxed = segment.target, 0
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as file:
            video: Any = self.add_video(file, segment) if segment.num_pictures else None
            audio: Any = self.add_audio(file, target.sample_rate) if segment.has_audio else None
            at, samples = segment.heard if audio else (0, np.zeros(0, np.float32))
            for first, frames in segment.blocks():
                until = round((first + len(frames)) / target.fps * target.sample_rate) - at
                if audio and until > muxed:
                    file.mux(audio.encode(sound_frame(samples[muxed:until], at + muxed, target.sample_rate)))
                    muxed = min(until, len(samples))
                for number, frame in enumerate(frames.numpy(), first):
                    self.mux_pictures(file, video.encode(self.picture(frame, number, segment)), segment)
            if audio:
                if muxed < len(samples):
                    file.mux(audio.encode(sound_frame(samples[muxed:], at + muxed, target.sample_rate)))
                file.mux(audio.encode(None))
            if video:
                self.mux_pictures(file, video.encode(None), segment)

    TICKS = Fraction(1, 90_000)

    def add_video(self, file: Any, segment: Segment) -> Any:
        """A stream of key frames of the segment's size."""
        target = segment.target
        # fastdecode: a third less time to read, a tenth more bytes.
        options = {"crf": str(target.crf), "preset": "medium", "tune": "fastdecode", "x264-params": "keyint=1"}
        video = file.add_stream("libx264", rate=Fraction(target.fps).limit_denominator(1000), options=options)
        video.height, video.width = segment.block(0).shape[1:3]
        video.pix_fmt = "yuv420p"
        video.time_base = video.codec_context.time_base = self.TICKS
        video.codec_context.gop_size, video.codec_context.thread_count = 1, 1
        return video

    def add_audio(self, file: Any, sample_rate: int) -> Any:
        """A mono stream."""
        return file.add_stream("aac", rate=sample_rate, layout="mono", bit_rate=64_000)

    def picture(self, frame: NDArray[np.uint8], number: int, segment: Segment) -> Any:
        """A picture with its time."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = round(number / segment.target.fps / self.TICKS), self.TICKS
        return picture

    def mux_pictures(self, file: Any, packets: Any, segment: Segment) -> None:
        """Write packets; the last picture ends where the segment's pictures do."""
        last = round((segment.num_pictures - 1) / segment.target.fps / self.TICKS)
        for packet in packets:
            if packet.pts == last:
                packet.duration = max(1, round(segment.video_seconds / self.TICKS) - last)
            file.mux(packet)

    def open(self, path: Path) -> MediaFile:
        """A file like any other."""
        return MediaFile(probe(path))


class JpegRecord:
    """A record of JPEGs and FLAC, on its way into a chunk."""

    suffix = ".record"

    def check(self) -> None:
        """Ask for the packages of the extra."""
        need_packages()

    def write(self, segment: Segment, path: Path) -> None:
        """Encode and pack."""
        target = segment.target
        jpegs = [encode_jpeg(x, target.jpeg_quality) for _, frames in segment.blocks() for x in frames.numpy()]
        packets: list[bytes] = []
        step, first, samples, peak, info = 1, 0, np.zeros(0, np.float32), 1.0, b""
        if segment.has_audio:
            first, samples = segment.heard
            peak = max(1.0, float(np.abs(samples).max(initial=0)))
            integers = np.round(samples * (FULL_SCALE / peak)).astype(np.int16)
            packets, step, info = encode_flac(integers, target.sample_rate)
        header = Header(
            clip_id=segment.clip_id,
            seconds=segment.seconds,
            fps=target.fps,
            video_seconds=segment.video_seconds,
            jpegs=[len(jpeg) for jpeg in jpegs],
            packets=[len(packet) for packet in packets],
            packet_samples=step,
            first_sample=first,
            num_samples=len(samples),
            sample_rate=target.sample_rate,
            peak=peak,
            stream_info=info.hex(),
        )
        record = pack(header, jpegs, packets)
        if len(record) > MAX_RECORD_BYTES:
            raise ClipError(segment.media.path, f"{segment.seconds:.0f} s are too long for a record; use mp4-intra")
        path.write_bytes(record)

    def open(self, path: Path) -> Record:
        """The record as it will lie in a chunk."""
        return Record(str(path), path.read_bytes())


def sound_frame(samples: NDArray[np.float32], at: int, sample_rate: int) -> Any:
    """Mono samples (N,) for an encoder, the first of them at a time in samples."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, at, Fraction(1, sample_rate)
    return frame


WRITERS: dict[str, Writer] = {"mp4-intra": Mp4Intra(), "jpeg-shards": JpegRecord()}


# ---- what the workers do --------------------------------------------------------------------------------------------


def reencode(job: Job) -> Written | Failure | NoRoom:
    """Write a clip, read it back, compare; the file appears when it was found right."""
    writer, path = WRITERS[job.kind], Path(job.path)
    torch.set_num_threads(1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            segment = Segment(job.example, job.target)
            writer.write(segment, unfinished)
            found = compare(segment, writer.open(unfinished))
            return found._replace(num_bytes=os.path.getsize(unfinished))
    except ClipError as error:
        return Failure(f"{error.path}: {error.reason}")
    except OSError as error:  # what is wrong with a source is a ClipError
        return NoRoom(error.strerror or str(error))


def compare(segment: Segment, media: Media) -> Written:
    """Compare what was written with its source: length, times and look of all pictures, sound and its place.

    Raises:
        ClipError: they differ.
    """
    target = segment.target
    if abs(media.seconds - segment.seconds) > 1 / target.fps:
        raise wrong(segment, f"{media.seconds:.3f} s long, not {segment.seconds:.3f} s")
    values = []
    for first, frames in segment.blocks():
        written, seconds, _ = media.read_frames(first / target.fps, len(frames) / target.fps, len(frames))
        if written.shape != frames.shape:
            raise wrong(segment, "frames are of another size")
        times = torch.arange(first, first + len(frames), dtype=torch.float64) / target.fps
        if (seconds - times).abs().max() > TOLERANCE_SECONDS:
            raise wrong(segment, "frames are shown at other times")
        values += psnr(frames, written)
    if values and min(values) < MIN_PSNR:
        raise wrong(segment, f"the picture at {np.argmin(values) / target.fps:.2f} s has {min(values):.1f} dB")
    correlation = None
    if segment.has_audio:
        source, real = segment.sound
        waveform, real_now = media.read_audio(0.0, segment.seconds, target.sample_rate)
        correlation = compare_sound(segment, source, waveform)
        moved = max(abs(a - b) for a, b in zip(real, real_now, strict=True)) / target.sample_rate
        if real[0] < real[1] and moved > max(1 / target.fps, AAC_SAMPLES / target.sample_rate) + TOLERANCE_SECONDS:
            raise wrong(segment, f"the sound begins or ends {moved:.3f} s elsewhere")
    return Written(0, float(np.mean(values)) if values else None, correlation)


def compare_sound(segment: Segment, source: Tensor, waveform: Tensor) -> float | None:
    """The correlation of two waveforms (N,); refuses one that is too low, or higher at another place."""
    if source.square().mean().sqrt() < AUDIBLE:
        return None
    length = len(source)
    products = torch.fft.irfft(
        torch.fft.rfft(source, 2 * length).conj() * torch.fft.rfft(waveform, 2 * length), 2 * length
    )
    products = products / (source.norm() * waveform.norm()).clamp(min=1e-9)
    reach = min(round(MAX_LAG_SECONDS * segment.target.sample_rate), length - 1)
    near = torch.cat([products[-reach:], products[: reach + 1]]) if reach else products[:1]
    lag = (int(near.argmax()) - reach) / segment.target.sample_rate
    if products[0] < MIN_CORRELATION or near.max() > products[0] + 0.01:
        raise wrong(segment, f"the sound's correlation is {products[0]:.2f}, at {1000 * lag:.1f} ms {near.max():.2f}")
    return float(products[0])


def psnr(source: Tensor, frames: Tensor) -> list[float]:
    """How near pictures uint8 (T, H, W, 3) are to their source, in dB each."""
    errors = (source.float() - frames.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / errors.clamp(min=1e-3))).tolist()


def wrong(segment: Segment, what: str) -> ClipError:
    """What was written is not what was meant."""
    return ClipError(segment.media.path, f"re-encoded it is not the same: {what}")
