"""Clips as records in litdata chunks: every frame a JPEG, the audio FLAC, any of them read without the others.

A record is the length of its header (4 bytes, little-endian), the header (JSON, see `Header`), the JPEGs one after the
other, and the packets of audio. Frame i is the one on display at i / fps. A manifest names a record by the folder of
the chunks and its number there: `shards#12`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from mbt_lightning.data import sampling
from mbt_lightning.data.media.probe import ClipError
from mbt_lightning.data.media.sound import MARGIN_SECONDS, lay_out
from mbt_lightning.data.records import Example
from mbt_lightning.errors import UserError

VERSION = 1
PACKAGES = ("litdata", "simplejpeg")
"""Packages of the extra `shards`, which reading and writing need."""

LENGTH = struct.Struct("<I")
FULL_SCALE = 2**15 - 1


@dataclass(frozen=True)
class Header:
    """The start of a record, before its frames and audio.

    Args:
        clip_id: name of the clip.
        seconds: its length.
        fps: frames a second.
        video_seconds: where the frames end.
        jpegs: bytes of each frame; none: the clip has no frames.
        packets: bytes of each packet of audio; none: the clip has no audio.
        packet_samples: samples in each packet but the last.
        first_sample: where the audio starts, in samples from the start of the clip.
        num_samples: how many there are.
        sample_rate: in Hz.
        peak: the value that full scale means.
        stream_info: FLAC's own header, in hexadecimal digits.
        version: of this format.
    """

    clip_id: str
    seconds: float
    fps: float
    video_seconds: float
    jpegs: list[int]
    packets: list[int]
    packet_samples: int
    first_sample: int
    num_samples: int
    sample_rate: int
    peak: float
    stream_info: str
    version: int = VERSION


def pack(header: Header, jpegs: Sequence[bytes], packets: Sequence[bytes]) -> bytes:
    """A record."""
    text = json.dumps(asdict(header)).encode()
    return b"".join((LENGTH.pack(len(text)), text, *jpegs, *packets))


class Record:
    """A record that has been read: the media of one clip.

    Args:
        path: its name in messages.
        content: its bytes.

    Raises:
        ClipError: it is damaged, or of an unknown version.
    """

    def __init__(self, path: str, content: bytes | memoryview):
        self.path, self.content = path, memoryview(content)
        try:
            start = LENGTH.size + LENGTH.unpack_from(self.content)[0]
            self.header = Header(**json.loads(bytes(self.content[LENGTH.size : start])))
        except (struct.error, ValueError, TypeError) as error:
            raise ClipError(path, "damaged: the record has no header") from error
        if self.header.version != VERSION:
            raise ClipError(path, f"the record is of version {self.header.version}; this program reads {VERSION}")
        sizes = [*self.header.jpegs, *self.header.packets]
        self.offsets = list(accumulate(sizes, initial=start))
        if self.offsets[-1] != len(self.content):
            raise ClipError(path, f"damaged: the record has {len(self.content)} bytes, not {self.offsets[-1]}")
        self.seconds = self.header.seconds

    def frame_format(self) -> tuple[int, int, float] | None:
        """Width and height, and frames a second."""
        if not self.header.jpegs:
            return None
        height, width, _ = decode_jpeg(self.part(0)).shape
        return width, height, self.header.fps

    def part(self, number: int) -> memoryview:
        """The bytes of a frame, or, numbered after the frames, of a packet."""
        return self.content[self.offsets[number] : self.offsets[number + 1]]

    def read_frames(
        self, start_seconds: float, seconds: float, num_frames: int, decoder: str = "auto"
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Decode only the frames that are shown: frames, when each is shown, how many are no padding."""
        with self.reading("video", self.header.jpegs, start_seconds):
            times = sampling.frame_times(start_seconds, seconds, num_frames)
            starts = np.arange(len(self.header.jpegs)) / self.header.fps
            shown, back = np.unique(sampling.frames_on_display(times, starts), return_inverse=True)
            frames = np.stack([decode_jpeg(self.part(i)) for i in shown])
            num_real_frames = int(np.sum(times < self.header.video_seconds - sampling.TOLERANCE_SECONDS))
            return torch.from_numpy(frames[back]), torch.from_numpy(starts[shown][back]), num_real_frames

    def read_audio(
        self, start_seconds: float, seconds: float, sample_rate: int
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """Decode only the packets of the window: the waveform, and its first and last + 1 sample in the record."""
        header = self.header
        with self.reading("audio", header.packets, start_seconds):
            audio_start = header.first_sample / header.sample_rate
            first, last = (
                math.floor((t - audio_start) * header.sample_rate / header.packet_samples)
                for t in (start_seconds - MARGIN_SECONDS, start_seconds + seconds + MARGIN_SECONDS)
            )
            wanted = range(max(first, 0), min(last + 1, len(header.packets)))
            packets = [self.part(len(header.jpegs) + number) for number in wanted]
            samples = decode_flac(packets, bytes.fromhex(header.stream_info)) * np.float32(header.peak / FULL_SCALE)
            at = audio_start + wanted.start * header.packet_samples / header.sample_rate
            end = audio_start + header.num_samples / header.sample_rate
            waveform, real, _ = lay_out([(at, samples)], header.sample_rate, start_seconds, seconds, sample_rate, end)
            return waveform, real

    @contextmanager
    def reading(self, kind: str, parts: Sequence[int], start_seconds: float) -> Iterator[None]:
        """Refuse a stream that is not there and a window after the end; damage comes out as a ClipError."""
        if not parts:
            raise ClipError(self.path, f"no {kind} stream")
        if start_seconds >= self.seconds:
            raise ClipError(self.path, f"the clip ends at {self.seconds:.3f} s, before the window starts")
        try:
            yield
        except (ValueError, av.FFmpegError) as error:
            raise ClipError(self.path, f"damaged ({type(error).__name__}: {error})") from error


class JpegShards:
    """Records in litdata chunks, read in any order.

    Raises:
        UserError: a package that reads them is not installed.
    """

    def __init__(self) -> None:
        need_packages()

    def open(self, example: Example, kinds: Sequence[str]) -> Record:
        """Read a whole record."""
        address = example.video or example.audio or example.clip_id
        folder, _, number = address.rpartition("#")
        try:
            # A reader has a file open, which a forked process must not share.
            content = open_chunks(folder, os.getpid())[int(number)]
        except Exception as error:  # litdata has no errors of its own
            raise ClipError(address, f"no such record, or its chunk is damaged ({error})") from error
        return Record(address, content)


def need_packages() -> None:
    """Refuse to continue without the packages of the extra `shards`."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"jpeg-shards need {' and '.join(missing)}: pip install 'mbt-lightning[shards]'")


@functools.lru_cache(maxsize=8)
def open_chunks(folder: str, process: int) -> Any:
    """litdata's reader of a folder, one for each process; it is indexed by the number of a record."""
    import litdata

    return litdata.StreamingDataset(folder)


def encode_jpeg(frame: NDArray[np.uint8], quality: int) -> bytes:
    """A frame (H, W, 3) as JPEG, with colours at half the resolution, as in video files."""
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality, "RGB", "420")


def decode_jpeg(content: memoryview) -> NDArray[np.uint8]:
    """A frame (H, W, 3)."""
    import simplejpeg

    # Fast: a fifth less time, and nearer to what video decoders make of their own half-resolution colours.
    return simplejpeg.decode_jpeg(content, "RGB", fastdct=True, fastupsample=True)


def encode_flac(samples: NDArray[np.int16], sample_rate: int) -> tuple[list[bytes], int, bytes]:
    """Mono samples (N,) as FLAC packets: the packets, how many samples each holds, FLAC's own header."""
    encoder: Any = av.CodecContext.create("flac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate, "mono", "s16"
    encoder.time_base = Fraction(1, sample_rate)
    encoder.options = {"frame_size": "4608"}  # four times libav's: fewer packets to handle
    encoder.open()
    step, packets = encoder.frame_size, []
    for start in range(0, len(samples), step):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + step], format="s16", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    # The last packet has no data: it repeats the header, with what is known only at the end.
    return [bytes(packet) for packet in packets if packet.size], step, bytes(encoder.extradata)


def decode_flac(packets: Sequence[memoryview], stream_info: bytes) -> NDArray[np.int16]:
    """The samples (N,) of successive packets."""
    decoder: Any = av.CodecContext.create("flac", "r")
    decoder.extradata = stream_info
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(bytes(packet)))]
    pieces = [np.frombuffer(frame.planes[0], np.int16, frame.samples) for frame in frames]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
