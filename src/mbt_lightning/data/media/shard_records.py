"""Clips as records in litdata chunks: every picture a JPEG, the sound FLAC, any of them read without the others.

A record is the length of its header (4 bytes, little-endian), the header (JSON, see `Header`), the JPEGs one behind the
other, and the packets of sound. Picture i is the one on display at i / fps. A manifest names a record by the folder of
the chunks and its number there: `shards#12`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import struct
from collections.abc import Sequence
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
from mbt_lightning.data.records import Clip, Example, WindowSetting
from mbt_lightning.errors import UserError

VERSION = 1
PACKAGES = ("litdata", "simplejpeg")
"""What reading and writing needs beside the core: the extra `shards`."""

LENGTH = struct.Struct("<I")
FULL_SCALE = 2**15 - 1


@dataclass(frozen=True)
class Header:
    """What stands before the pictures and the sound of a record.

    Args:
        clip_id: name of the clip.
        seconds: its length.
        fps: pictures a second.
        video_seconds: where the pictures end.
        jpegs: bytes of each picture; none: the clip has no pictures.
        packets: bytes of each packet of sound; none: the clip has no sound.
        packet_samples: samples in each packet but the last.
        first_sample: where the sound begins, in samples from the begin of the clip.
        num_samples: how many there are.
        sample_rate: in Hz.
        peak: what full scale stands for.
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
        path: what messages call it.
        content: its bytes.

    Raises:
        ClipError: it is damaged, or of a version that is not known.
    """

    def __init__(self, path: str, content: bytes | memoryview):
        self.path, self.content = path, memoryview(content)
        try:
            begin = LENGTH.size + LENGTH.unpack_from(self.content)[0]
            self.header = Header(**json.loads(bytes(self.content[LENGTH.size : begin])))
        except (struct.error, ValueError, TypeError) as error:
            raise ClipError(path, "damaged: the record has no header") from error
        if self.header.version != VERSION:
            raise ClipError(path, f"the record is of version {self.header.version}; this program reads {VERSION}")
        sizes = [*self.header.jpegs, *self.header.packets]
        self.offsets = list(accumulate(sizes, initial=begin))
        if self.offsets[-1] != len(self.content):
            raise ClipError(path, f"damaged: the record has {len(self.content)} bytes, not {self.offsets[-1]}")
        self.seconds = self.header.seconds

    def pictures(self) -> tuple[int, int, float] | None:
        """Width and height, and pictures a second."""
        if not self.header.jpegs:
            return None
        height, width, _ = decode_jpeg(self.part(0)).shape
        return width, height, self.header.fps

    def part(self, number: int) -> memoryview:
        """The bytes of a picture, or behind these of a packet."""
        return self.content[self.offsets[number] : self.offsets[number + 1]]

    def read(self, start_seconds: float, audio_start_seconds: float, setting: WindowSetting) -> Clip:
        """Decode a window of each stream: only the pictures that are shown, only the packets that are heard."""
        frames = frame_seconds = waveform = None
        num_real_frames, real_samples = 0, (0, 0)
        if max(start_seconds, audio_start_seconds) >= self.seconds:
            raise ClipError(self.path, f"the clip ends at {self.seconds:.3f} s, before the window starts")
        try:
            if "video" in setting.streams and self.header.jpegs:
                window = setting.rgb_seconds or setting.seconds
                times = sampling.frame_times(start_seconds, window, setting.num_frames)
                frames, frame_seconds = self.shown(times)
                num_real_frames = int(np.sum(times < self.header.video_seconds - sampling.TOLERANCE_SECONDS))
            if "audio" in setting.streams and self.header.packets:
                waveform, real_samples = self.sound(audio_start_seconds, setting.seconds, setting.sample_rate)
        except (ValueError, av.FFmpegError) as error:
            raise ClipError(self.path, f"damaged ({type(error).__name__}: {error})") from error
        return Clip(frames, frame_seconds, num_real_frames, waveform, real_samples, setting.sample_rate)

    def shown(self, times: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures on display at some times: uint8 (T, H, W, 3), and float64 (T,) when each is first shown."""
        seconds = np.arange(len(self.header.jpegs)) / self.header.fps
        shown, back = np.unique(sampling.frames_on_display(times, seconds), return_inverse=True)
        frames = np.stack([decode_jpeg(self.part(i)) for i in shown])
        return torch.from_numpy(frames[back]), torch.from_numpy(seconds[shown][back])

    def sound(self, start_seconds: float, seconds: float, sample_rate: int) -> tuple[torch.Tensor, tuple[int, int]]:
        """The window's waveform, float32 (N,), and its first and last + 1 sample that the record holds."""
        header = self.header
        sound_start = header.first_sample / header.sample_rate
        begin, end = (
            math.floor((t - sound_start) * header.sample_rate / header.packet_samples)
            for t in (start_seconds - MARGIN_SECONDS, start_seconds + seconds + MARGIN_SECONDS)
        )
        wanted = range(max(begin, 0), min(end + 1, len(header.packets)))
        packets = [self.part(len(header.jpegs) + number) for number in wanted]
        samples = decode_flac(packets, bytes.fromhex(header.stream_info)) * np.float32(header.peak / FULL_SCALE)
        at = sound_start + wanted.start * header.packet_samples / header.sample_rate
        sound_end = sound_start + header.num_samples / header.sample_rate
        waveform, real, _ = lay_out([(at, samples)], header.sample_rate, start_seconds, seconds, sample_rate, sound_end)
        return waveform, real


class JpegShards:
    """Records in litdata chunks, read in any order.

    Raises:
        UserError: a package that reads them is not installed.
    """

    def __init__(self) -> None:
        need_packages()

    def open(self, example: Example, streams: Sequence[str]) -> Record:
        """Read a record as a whole."""
        address = example.video or example.audio or example.clip_id
        folder, _, number = address.rpartition("#")
        try:
            # A reader has a file open, which a process that is forked off must not share.
            content = open_chunks(folder, os.getpid())[int(number)]
        except Exception as error:  # litdata has no errors of its own
            raise ClipError(address, f"no such record, or its chunk is damaged ({error})") from error
        return Record(address, content)


def need_packages() -> None:
    """Refuse to go on without the packages of the extra `shards`."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"jpeg-shards need {' and '.join(missing)}: pip install 'mbt-lightning[shards]'")


@functools.lru_cache(maxsize=8)
def open_chunks(folder: str, process: int) -> Any:
    """litdata's reader of a folder, one for each process; it is indexed by the number of a record."""
    import litdata

    return litdata.StreamingDataset(folder)


def encode_jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """A picture (H, W, 3) as JPEG, with colours at half the resolution, as films have them."""
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality, "RGB", "420")


def decode_jpeg(content: memoryview) -> NDArray[np.uint8]:
    """A picture (H, W, 3)."""
    import simplejpeg

    # The fast ways: a fifth less time, and nearer to what film decoders make of their own half-resolution colours.
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
    # The last packet has no data: it tells the header again, with what is known only at the end.
    return [bytes(packet) for packet in packets if packet.size], step, bytes(encoder.extradata)


def decode_flac(packets: Sequence[memoryview], stream_info: bytes) -> NDArray[np.int16]:
    """The samples (N,) of successive packets."""
    decoder: Any = av.CodecContext.create("flac", "r")
    decoder.extradata = stream_info
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(bytes(packet)))]
    pieces = [np.frombuffer(frame.planes[0], np.int16, frame.samples) for frame in frames]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
