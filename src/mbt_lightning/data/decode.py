"""Media file -> `Clip`: the only file that imports a codec.

`read_clip` goes through four steps:

    probe   PyAV lists the packets of both streams: when each picture is shown, where the sound begins, what is wrong
    plan    the wanted times -> indices into that table (`sampling.frames_on_display`)
    frames  decord where it is known to be right, PyAV elsewhere; both give the same pixels
    sound   PyAV, placed by its timestamps on the pictures' time line

decord is fast, but by itself it numbers the pictures wrongly in MPEG-TS files and behind edit lists, leaks memory with
each sound track it opens, and forgets where the streams start. So it never sees sound, never decides about time, and
only gets files of the kinds in which it was measured to be right (`MediaInfo.decord_problem`).

Whatever is wrong with a file comes out as a `ClipError`; nothing damaged is replaced by silence or a black picture.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import torch
import torchaudio.transforms
from numpy.typing import NDArray
from torch import Tensor

from mbt_lightning.data import sampling
from mbt_lightning.data.records import Clip
from mbt_lightning.errors import UserError

STREAMS = ("video", "audio")
MAX_PIXELS = 4096 * 2304
MAX_JUMP_SECONDS = 600.0  # neighbouring timestamps further apart than this are damage, not a long still picture
MAX_PICTURE_SHIFT_SECONDS = 0.5
MIN_PACKETS_PRESENT = 0.98
MAX_SOUND_MISSING = 0.05

DECORD_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}
DECORD_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4"}


class ClipError(Exception):
    """A media file that cannot be read: damaged, missing, or not media at all.

    Args:
        path: the file.
        reason: what is wrong with it, one line.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str | None = None) -> None:
        self.path = os.fspath(path)
        self.reason = reason or ""
        # A DataLoader rebuilds a worker's error from its text alone; without a reason that text stands as it is.
        super().__init__(self.path if reason is None else f"{self.path}: {reason}")

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str | None]]:
        return type(self), (self.path, self.reason or None)


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What `probe` finds in a file. It can be kept and handed to `read_clip`, which then need not probe again.

    All times are seconds on the clip's time line, except `origin`: where that line's 0 lies in the container's time.

    Args:
        path: the file.
        container: libav's name of its format.
        has_video: it has a stream of pictures (cover art is none).
        has_audio: it has a stream of sound.
        video_codec: libav's name, or "".
        audio_codec: libav's name, or "".
        width: pixels of a stored picture, before any rotation.
        height: likewise.
        origin: container time of the first picture; of the first sound sample where there are no pictures.
        frame_seconds: float64 (F,) presentation time of every shown picture, rising; the first is 0.
        key_seconds: float64 (K,) presentation time of every picture at which decoding can start, rising.
        video_seconds: end of the last picture.
        audio_start: first sound sample; below 0 where it comes before the first picture.
        audio_seconds: end of the sound.
        video_problem: why the pictures cannot be read, or "".
        audio_problem: why the sound cannot be read, or "".
        decord_problem: why decord must not read the pictures, or "".
    """

    path: str
    container: str
    has_video: bool
    has_audio: bool
    video_codec: str
    audio_codec: str
    width: int
    height: int
    origin: float
    frame_seconds: NDArray[np.float64]
    key_seconds: NDArray[np.float64]
    video_seconds: float
    audio_start: float
    audio_seconds: float
    video_problem: str
    audio_problem: str
    decord_problem: str

    @property
    def duration_seconds(self) -> float:
        """Length of the clip: where the longer of its streams ends."""
        return max(self.video_seconds, self.audio_seconds)

    @property
    def state(self) -> str:
        """The streams in words: "audio and video", "no audio" or "no video"."""
        if self.has_video and self.has_audio:
            return "audio and video"
        return "no audio" if self.has_video else "no video"


# ---- probe ----------------------------------------------------------------------------------------------------------


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """List a media file's packets: when each picture is shown, where the sound begins, what is wrong.

    Damage to one stream is written down, not raised, so that the other one can still be read.

    Args:
        path: the file.

    Raises:
        ClipError: no such file, not media, or neither pictures nor sound in it.
    """
    path = os.fspath(path)
    _check_file(path)
    with _open(path) as container:
        if container.format.name == "tty" or container.format.name.endswith("_pipe"):
            raise ClipError(path, f"not a clip (libav takes it for {container.format.name})")
        video, audio = _best_stream(container, "video"), _best_stream(container, "audio")
        if video is None and audio is None:
            raise ClipError(path, "no audio and no video stream")
        packets = _list_packets(container, [stream for stream in (video, audio) if stream is not None])
        pictures, sound = _Track.of(video, packets), _Track.of(audio, packets)
        video_problem, audio_problem = pictures.problem, sound.problem
        if truncated := _truncation(container, pictures, sound):
            video_problem, audio_problem = video_problem or truncated, audio_problem or truncated
        size = (video.codec_context.width, video.codec_context.height) if video and video.codec_context else (0, 0)
        if not video_problem and not 0 < size[0] * size[1] <= MAX_PIXELS:
            video_problem = f"pictures of {size[0]}x{size[1]} pixels; at most {MAX_PIXELS} pixels are read"
        decord_problem = _decord_problem(container.format.name, pictures)
        container_name = container.format.name

    if len(pictures.starts):
        origin = pictures.starts[0]
    elif len(sound.starts):
        sound.starts[0] = origin = _first_sample_time(path, sound.starts[0]) if not audio_problem else sound.starts[0]
    else:
        origin = 0.0
    audio_start = float(sound.starts[0] - origin) if len(sound.starts) else 0.0
    if abs(audio_start) > MAX_JUMP_SECONDS:
        audio_problem = audio_problem or f"the sound starts {audio_start:.0f} s after the pictures"
    return MediaInfo(
        path=path,
        container=container_name,
        has_video=video is not None,
        has_audio=audio is not None,
        video_codec=pictures.codec,
        audio_codec=sound.codec,
        width=size[0],
        height=size[1],
        origin=float(origin),
        frame_seconds=pictures.starts - origin,
        key_seconds=pictures.keys - origin,
        video_seconds=pictures.end - origin if len(pictures.starts) else 0.0,
        audio_start=audio_start,
        audio_seconds=sound.end - origin if len(sound.starts) and not audio_problem else 0.0,
        video_problem=video_problem,
        audio_problem=audio_problem,
        decord_problem=decord_problem,
    )


@dataclass
class _Packet:
    """What the demuxer says of one packet; times in the container's seconds."""

    start: float | None
    duration: float
    key: bool
    discard: bool  # outside the edit list: decoded, not shown
    corrupt: bool
    hidden: bool  # a VP8 reference picture that is never shown (alt-ref)


@dataclass
class _Track:
    """One stream as its packets tell it; times in the container's seconds, all empty for a stream that is absent."""

    codec: str
    packets: list[_Packet]
    starts: NDArray[np.float64]
    keys: NDArray[np.float64]
    end: float
    problem: str

    @classmethod
    def of(cls, stream: Any, packets: dict[int, list[_Packet]]) -> _Track:
        """The table of a stream (or of None)."""
        none = np.empty(0)
        if stream is None:
            return cls("", [], none, none, 0.0, "")
        kind = "picture" if stream.type == "video" else "sound"
        if stream.codec_context is None:
            return cls("", [], none, none, 0.0, f"nothing here can decode its {kind} stream")
        codec, rows = stream.codec_context.name, packets[stream.index]
        shown = [(p.start, p.duration) for p in rows if p.start is not None and not p.discard and not p.hidden]
        if not shown:
            return cls(codec, rows, none, none, 0.0, f"the {kind} stream holds no data")
        # np.unique also sorts: packets come in decoding order.
        starts = np.unique([start for start, _ in shown])
        keys = np.unique([p.start for p in rows if p.key and p.start is not None])
        last, duration = max(shown)
        if duration <= 0:
            duration = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
        steps = np.diff(starts)
        problem = ""
        if len(steps) and steps.max() > MAX_JUMP_SECONDS:
            problem = f"the times of the {kind} stream jump by {steps.max():.0f} s"
        elif not np.isfinite(starts).all():
            problem = f"the times of the {kind} stream are no numbers"
        return cls(codec, rows, starts, keys, last + duration, problem)


def _list_packets(container: Any, streams: Sequence[Any]) -> dict[int, list[_Packet]]:
    """All packets of the streams, by stream index, in the order of decoding."""
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    scale = {stream.index: float(stream.time_base) for stream in streams}
    is_vp8 = {stream.index: bool(stream.codec_context) and stream.codec_context.name == "vp8" for stream in streams}
    for packet in container.demux(*streams):
        # AVI has packets without pts, and there dts is the time; what has neither only ends the stream.
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None and not packet.size:
            continue
        index = packet.stream.index
        packets[index].append(
            _Packet(
                start=None if ticks is None else ticks * scale[index],
                duration=(packet.duration or 0) * scale[index],
                key=packet.is_keyframe,
                discard=packet.is_discard,
                corrupt=packet.is_corrupt,
                # Bit 4 of a VP8 picture is show_frame (RFC 6386, 9.1); such a packet may share its time with a shown one.
                hidden=is_vp8[index] and packet.size > 0 and not memoryview(packet)[0] & 0x10,
            )
        )
    return packets


def _truncation(container: Any, pictures: _Track, sound: _Track) -> str:
    """Why the file must have lost its end, by what its header promises; "" where nothing is missing."""
    name = container.format.name
    for stream, track in ((_best_stream(container, "video"), pictures), (_best_stream(container, "audio"), sound)):
        # MP4's index has left out what an edit list cuts away. AVI counts the samples of sound, not its packets.
        if "mp4" in name:
            declared = len(stream.index_entries) if stream else 0
        else:
            declared = stream.frames if stream and name == "avi" and stream.type == "video" else 0
        if len(track.packets) < MIN_PACKETS_PRESENT * declared:
            return f"truncated: {len(track.packets)} of {declared} {stream.type} packets are there"
    # Matroska has no count, but a duration. (Elsewhere the duration may be libav's guess from the bit rate.)
    if name == "matroska,webm" and container.duration:
        declared, end = container.duration / 1e6, max(pictures.end, sound.end)
        if end < (1 - MAX_SOUND_MISSING) * declared and declared - end > MAX_PICTURE_SHIFT_SECONDS:
            return f"truncated: {end:.2f} s of {declared:.2f} s are there"
    return ""


def _decord_problem(container_name: str, pictures: _Track) -> str:
    """Why decord would number the pictures of this stream wrongly; "" where it was measured to be right."""
    packets = pictures.packets
    if not packets or pictures.problem:
        return "no pictures"
    if container_name not in DECORD_CONTAINERS:
        return f"container {container_name}"
    if pictures.codec not in DECORD_CODECS:
        return f"codec {pictures.codec}"
    if any(p.discard or p.hidden for p in packets):
        return "pictures that are not shown"
    if len(pictures.starts) != len(packets):
        return "missing or equal times"
    if any(p.corrupt for p in packets):
        return "damaged packets"
    if not packets[0].key:
        return "no key frame at the start"
    key_start = -math.inf
    for packet in packets:
        assert packet.start is not None  # otherwise the times would not be as many as the packets
        if packet.start < key_start:
            return "open groups of pictures"
        if packet.key:
            key_start = packet.start
    return ""


def _first_sample_time(path: str, default: float) -> float:
    """Container time of the first sound sample that comes out of the decoder, which may hide an encoder's lead-in."""
    with _open(path) as container:
        frame = next(container.decode(_best_stream(container, "audio")), None)
        return default if frame is None or frame.time is None else float(frame.time)


# ---- read -----------------------------------------------------------------------------------------------------------


def read_clip(
    path: str | os.PathLike[str] | None,
    *,
    start_seconds: float = 0.0,
    window_seconds: float = 8.0,
    num_frames: int = 8,
    sample_rate: int = 16000,
    decoder: str = "auto",
    audio_path: str | os.PathLike[str] | None = None,
    audio_start_seconds: float | None = None,
    audio_window_seconds: float | None = None,
    streams: Sequence[str] = STREAMS,
    info: MediaInfo | None = None,
) -> Clip:
    """Read a window of a media file: pictures at evenly spaced times, and the sound of the same time.

    A wanted stream that the file does not have is None in the result (`MediaInfo.state` names that state).

    Args:
        path: the media file; None where there is only `audio_path`.
        start_seconds: start of the window on the clip's time line.
        window_seconds: its length.
        num_frames: how many pictures; the i-th is the one on display at start + i * window / num_frames.
        sample_rate: samples of the waveform a second.
        decoder: who decodes pictures. "auto": decord where it is installed and known to be right for the file, else
            PyAV. "decord": the same, but decord must be installed. "pyav": always PyAV.
        audio_path: the file that holds the sound, with its own time line; None: the same file.
        audio_start_seconds: start of the sound's window; None: `start_seconds`.
        audio_window_seconds: its length; None: `window_seconds`.
        streams: which of "video" and "audio" are wanted; the others are not decoded.
        info: what `probe` found in one of the files earlier; None: probe now.

    Raises:
        ClipError: the file is damaged, missing or not media, has no wanted stream, or ends before the window starts.
        UserError: an argument out of its range.
    """
    audio_start_seconds = start_seconds if audio_start_seconds is None else audio_start_seconds
    audio_window_seconds = window_seconds if audio_window_seconds is None else audio_window_seconds
    for name, start in {"start_seconds": start_seconds, "audio_start_seconds": audio_start_seconds}.items():
        if not 0 <= start < math.inf:
            raise UserError(f"{name} is {start}; it must be 0 or more seconds from the first picture.")
    for name, window in {"window_seconds": window_seconds, "audio_window_seconds": audio_window_seconds}.items():
        if not 0 < window < math.inf:
            raise UserError(f"{name} is {window}; it must be above 0 seconds.")
    for name, count in {"num_frames": num_frames, "sample_rate": sample_rate}.items():
        if count < 1 or count != int(count):
            raise UserError(f"{name} is {count}; it must be a whole number, 1 or more.")
    _check_choices(path, audio_path, streams, decoder)

    def known(file: str | os.PathLike[str]) -> MediaInfo:
        return info if info is not None and info.path == os.fspath(file) else probe(file)

    video_info = known(path) if path is not None and "video" in streams else None
    audio_info = None
    if "audio" in streams:
        audio_file = audio_path if audio_path is not None else path
        assert audio_file is not None
        same_file = video_info is not None and video_info.path == os.fspath(audio_file)
        audio_info = video_info if same_file else known(audio_file)
    video_info = video_info if video_info and video_info.has_video else None
    audio_info = audio_info if audio_info and audio_info.has_audio else None
    if video_info is None and audio_info is None:
        missing = " and ".join(f"no {name}" for name in ("audio", "video") if name in streams)
        raise ClipError(path if path is not None else audio_path or "", f"{missing} stream")

    frames = frame_seconds = waveform = None
    num_real_frames, real_samples = 0, (0, 0)
    if video_info is not None:
        _require(video_info, video_info.video_problem, start_seconds)
        times = sampling.frame_times(start_seconds, window_seconds, num_frames)
        frames, frame_seconds = _read_frames(video_info, times, decoder)
        num_real_frames = int(np.sum(times < video_info.video_seconds - sampling.TOLERANCE_SECONDS))
    if audio_info is not None:
        _require(audio_info, audio_info.audio_problem, audio_start_seconds)
        waveform, real_samples = _read_sound(audio_info, audio_start_seconds, audio_window_seconds, sample_rate)
    return Clip(frames, frame_seconds, num_real_frames, waveform, real_samples, sample_rate)


def _check_choices(path: Any, audio_path: Any, streams: Sequence[str], decoder: str) -> None:
    """Raise UserError for a choice that is none."""
    if isinstance(streams, str) or not streams or not set(streams) <= set(STREAMS):
        raise UserError(f"streams is {streams!r}; it must be a list of one or both of {', '.join(STREAMS)}.")
    if path is None and (audio_path is None or "audio" not in streams):
        raise UserError("path is None; give the media file that holds the wanted streams.")
    if decoder not in DECODERS:
        raise UserError(f"decoder is {decoder!r}; it must be one of {', '.join(DECODERS)}.")
    if decoder == "decord" and "video" in streams and _decord() is None:
        raise UserError("decoder is 'decord', but decord is not installed here; use decoder: pyav (or auto).")


def _require(info: MediaInfo, problem: str, start_seconds: float) -> None:
    """Raise ClipError for a stream that cannot be read, or that ends before the window starts."""
    if problem:
        raise ClipError(info.path, problem)
    if start_seconds >= info.duration_seconds:
        raise ClipError(
            info.path, f"the window starts at {start_seconds:g} s, but the clip is {info.duration_seconds:.3f} s long"
        )


# ---- pictures -------------------------------------------------------------------------------------------------------

# (info, rising indices into info.frame_seconds) -> uint8 (T, H, W, 3), and when each picture is really shown
FrameReader = Callable[[MediaInfo, NDArray[np.intp]], tuple[NDArray[np.uint8], NDArray[np.float64]]]


def _read_frames(info: MediaInfo, times: NDArray[np.float64], decoder: str) -> tuple[Tensor, Tensor]:
    """The pictures on display at `times`: uint8 (T, H, W, 3), and float64 (T,) when each is first shown."""
    indices, back = np.unique(sampling.frames_on_display(times, info.frame_seconds), return_inverse=True)
    *preferred, last = DECODERS[decoder]
    for read in preferred:
        try:
            frames, seconds = read(info, indices)
            break
        except ClipError:
            continue  # the last reader's verdict on the file counts
    else:
        frames, seconds = last(info, indices)
    # Owned memory, not a view of a decoder's; a held picture comes as often as it is shown.
    return torch.from_numpy(frames[back]), torch.from_numpy(seconds[back])


def decord_frames(info: MediaInfo, indices: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Pictures by decord, which turns them upright by itself.

    Raises:
        ClipError: decord is not installed, is not to be trusted with this file, or fails.
    """
    decord = _decord()
    if decord is None or info.decord_problem:
        raise ClipError(info.path, f"decord does not read it: {info.decord_problem or 'not installed'}")
    try:
        # Made and dropped here: a reader that lives longer hangs once a DataLoader forks.
        reader = decord.VideoReader(info.path, ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(info.frame_seconds):
            raise ClipError(info.path, f"decord counts {len(reader)} pictures, not {len(info.frame_seconds)}")
        return reader.get_batch(indices.tolist()).asnumpy(), info.frame_seconds[indices]
    except (RuntimeError, IndexError, ValueError, OSError, MemoryError) as error:
        raise ClipError(info.path, f"decord fails ({str(error).strip().splitlines()[-1:]})") from error


def _decord() -> Any:
    """The decord package, kept quiet; None where it is not installed."""
    # Read at import: how often it asks again at the end of a file that lost its end, before it gives up.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "128")
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def pyav_frames(info: MediaInfo, indices: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Pictures by PyAV, found by their times: a seek to each group of pictures, or all from the start if seeking fails.

    Raises:
        ClipError: a wanted picture is damaged, missing or cannot be decoded.
    """
    wanted = info.frame_seconds[indices]
    try:
        found = _decode_pictures(info, wanted, seek=True)
    except ClipError:
        # MPEG-TS lands late, and a picture behind a seek may lack the one it refers to: the straight way decides.
        found = _decode_pictures(info, wanted, seek=False)
    images = [_upright(frame, info) for frame, _ in found]
    return np.stack(images), np.array([seconds for _, seconds in found])


DECODERS: dict[str, tuple[FrameReader, ...]] = {
    "auto": (decord_frames, pyav_frames),
    "decord": (decord_frames, pyav_frames),
    "pyav": (pyav_frames,),
}


def _decode_pictures(info: MediaInfo, wanted: NDArray[np.float64], seek: bool) -> list[tuple[Any, float]]:
    """For each of the rising times the decoded picture on display, and when it is first shown."""
    # Without seeking a neighbour will do where a picture was never there (at the open end of a broadcast recording).
    max_shift = sampling.TOLERANCE_SECONDS if seek else MAX_PICTURE_SHIFT_SECONDS
    found: list[tuple[Any, float]] = []
    with _open(info.path) as container:
        stream = _best_stream(container, "video")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        pictures = _timed(container, stream, info.origin)
        shown, ahead = None, None
        for time in wanted:
            keys = info.key_seconds[info.key_seconds <= time + sampling.TOLERANCE_SECONDS]
            if seek and len(keys) > 1 and (shown is None or keys[-1] > shown[1]):
                container.seek(round((info.origin + keys[-1]) / stream.time_base), stream=stream)
                pictures, shown, ahead = _timed(container, stream, info.origin), None, None
            # The last picture shown by `time`; one that matches needs no look at the next.
            while shown is None or shown[1] < time - sampling.TOLERANCE_SECONDS:
                ahead = ahead or next(pictures, None)
                if ahead is None or ahead[1] > time + sampling.TOLERANCE_SECONDS:
                    break
                shown, ahead = ahead, None
            nearest = shown or ahead
            if nearest is None or abs(nearest[1] - time) > max_shift:
                raise ClipError(info.path, f"the picture at {time:.3f} s cannot be decoded")
            if nearest[0].is_corrupt:
                raise ClipError(info.path, f"the picture at {time:.3f} s is damaged")
            found.append(nearest)
    return found


def _timed(container: Any, stream: Any, origin: float) -> Iterator[tuple[Any, float]]:
    """The decoded pictures from here on, each with its time on the clip's time line."""
    for frame in container.decode(stream):
        ticks = frame.pts if frame.pts is not None else frame.dts
        if ticks is not None:
            yield frame, float(ticks * stream.time_base) - origin


def _upright(frame: Any, info: MediaInfo) -> NDArray[np.uint8]:
    """A decoded picture as RGB of the size that the file declares, turned as its display matrix says."""
    image = frame.to_ndarray(format="rgb24", width=info.width, height=info.height)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))


# ---- sound ----------------------------------------------------------------------------------------------------------

# Sound is decoded at the file's own rate and resampled once: torchaudio's windowed sinc with 64 zero crossings keeps
# 7.9 of 8 kHz and takes 4 ms a clip; libav's resampler, frame by frame, takes 15 ms and loses 8 dB there.
ZERO_CROSSINGS = 64
MAX_KERNEL = 4_000_000
MARGIN_SECONDS = 0.05  # sound beyond the window's ends, so that the resampling filter does not see a step there
PREROLL_SECONDS = 0.5  # decoders need what comes before: MP3's bit reservoir, AAC's overlap, Opus' 80 ms
# Timestamps that are off by less are rounding (Matroska's milliseconds), not a gap: the samples follow each other.
MAX_DRIFT_SECONDS = 0.02
SAMPLE_RATES = (1_000, 768_000)


def _read_sound(
    info: MediaInfo, start_seconds: float, window_seconds: float, sample_rate: int
) -> tuple[Tensor, tuple[int, int]]:
    """The window's waveform, float32 mono, and the first and last + 1 sample that the file really holds."""
    num_samples, margin = round(window_seconds * sample_rate), math.ceil(MARGIN_SECONDS * sample_rate)
    begin, end = start_seconds - margin / sample_rate, start_seconds + window_seconds + margin / sample_rate
    # A seek costs an index look-up and may land anywhere; near the start reading on is as fast.
    pieces, rate = None, sample_rate
    if begin > info.audio_start + 2 * PREROLL_SECONDS:
        with suppress(ClipError):
            pieces, rate = _decode_sound(info, begin, end, seek=True)
    if pieces is None:
        pieces, rate = _decode_sound(info, begin, end, seek=False)

    native = np.zeros(math.ceil((end - begin) * rate), dtype=np.float32)
    held = np.zeros(len(native), dtype=bool)
    for seconds, samples in pieces:
        at = round((seconds - begin) * rate)
        low, high = max(at, 0), min(at + len(samples), len(native))
        if low < high:
            native[low:high] = samples[low - at : high - at]
            held[low:high] = True
    if not np.isfinite(native).all():
        raise ClipError(info.path, "the sound holds values that are no numbers")

    first = round(margin / sample_rate * rate)
    inside = np.flatnonzero(held[first : first + round(window_seconds * rate)])
    there = min(start_seconds + window_seconds, info.audio_seconds) - max(start_seconds, info.audio_start)
    missing = there - len(inside) / rate
    if missing > max(MAX_SOUND_MISSING * there, 0.1):
        raise ClipError(info.path, f"damaged: {missing:.2f} s of {there:.2f} s of sound cannot be decoded")
    real = (0, 0)
    if len(inside):
        real = (round(inside[0] * sample_rate / rate), min(round((inside[-1] + 1) * sample_rate / rate), num_samples))
    waveform = _resample(torch.from_numpy(native), rate, sample_rate)[margin : margin + num_samples]
    # The last sample may lie beyond what an odd rate fills.
    return torch.nn.functional.pad(waveform, (0, num_samples - len(waveform))).clone(), real


def _decode_sound(
    info: MediaInfo, begin: float, end: float, seek: bool
) -> tuple[list[tuple[float, NDArray[np.float32]]], int]:
    """Mono pieces of the sound from `begin` to `end` with their times, and their sample rate."""
    pieces: list[tuple[float, NDArray[np.float32]]] = []
    rate, clock = 0, None
    with _open(info.path) as container:
        stream = _best_stream(container, "audio")
        to_mono = _Downmix()
        if seek:
            container.seek(round((info.origin + begin - PREROLL_SECONDS) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ClipError(info.path, "the sound is damaged")
            rate = rate or frame.sample_rate
            if frame.sample_rate != rate or not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
                raise ClipError(info.path, f"the sample rate of the sound changes from {rate} to {frame.sample_rate}")
            stamp = None if frame.time is None else float(frame.time) - info.origin
            if clock is None:
                if stamp is None and seek:
                    continue  # Ogg: not known before the page ends
                clock = info.audio_start if stamp is None else stamp
                if seek and clock > begin:
                    raise ClipError(info.path, "the search for the sound lands late")
            elif stamp is not None and abs(stamp - clock) > MAX_DRIFT_SECONDS:
                clock = stamp
            if clock >= end:
                break
            if clock + frame.samples / rate > begin:
                pieces.append((clock, to_mono(frame)))
            clock += frame.samples / rate
    return pieces, rate or SAMPLE_RATES[0]


class _Downmix:
    """A frame of sound -> float32 mono: the mean of two channels, ffmpeg's weights for more."""

    def __init__(self) -> None:
        self.mixer: Any = None

    def __call__(self, frame: Any) -> NDArray[np.float32]:
        channels = len(frame.layout.channels)
        if channels > 2:
            # Without this option libav mixes to float without dividing by the sum of the weights.
            self.mixer = self.mixer or av.AudioResampler("fltp", "mono", options={"rematrix_maxval": "1.0"})
            return np.concatenate([mixed.to_ndarray()[0] for mixed in self.mixer.resample(frame)])
        samples = frame.to_ndarray()
        if not frame.format.is_planar:
            samples = samples.reshape(-1, channels).T
        mono = samples[0].astype(np.float32)
        if channels == 2:
            mono = (mono + samples[1]) * np.float32(0.5)
        if samples.dtype == np.uint8:
            mono = mono - 128
        if samples.dtype.kind in "iu":
            mono = mono / 2.0 ** (8 * samples.dtype.itemsize - 1)
        return mono


def _resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    """The waveform (N,) at another rate; its first sample keeps its time."""
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


# ---- files ----------------------------------------------------------------------------------------------------------


def _check_file(path: str) -> None:
    """Raise ClipError for what a look at the first bytes shows to be no media file."""
    if not os.path.isfile(path):
        raise ClipError(path, "not a file" if os.path.exists(path) else "no such file")
    try:
        with open(path, "rb") as file:
            begin = file.read(512).lstrip().lower()
    except OSError as error:
        raise ClipError(path, f"cannot be opened ({error.strerror})") from error
    if not begin:
        raise ClipError(path, "the file is empty")
    if begin.startswith(b"version https://git-lfs"):
        raise ClipError(path, "a git-lfs pointer, not the media file itself; fetch it with: git lfs pull")
    if begin.startswith((b"<!doctype", b"<html")):
        raise ClipError(path, "a web page, not a media file; its download went wrong")


@contextmanager
def _open(path: str) -> Iterator[Any]:
    """An opened container; whatever goes wrong inside comes out as a ClipError."""
    try:
        # "file:" keeps a name such as "a:b.mp4" from being read as a protocol; a playlist must not reach the network.
        with av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
            yield container
    except ClipError:
        raise
    except Exception as error:  # damaged files were seen to raise FFmpegError, ValueError, OverflowError, MemoryError
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ClipError(path, f"damaged, or not a media file ({reason})") from error


def _best_stream(container: Any, kind: str) -> Any:
    """libav's best stream of a kind; None where there is none. Cover art is no video."""
    stream = container.streams.best(kind)
    if stream is not None and stream.disposition & av.stream.Disposition.attached_pic:
        return None
    return stream
