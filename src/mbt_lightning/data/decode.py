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
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
MEDIA_SUFFIXES = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
MEDIA_SUFFIXES |= {".aac", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav"}  # sound only

MAX_PIXELS = 4096 * 2304
MAX_JUMP_SECONDS = 600.0  # neighbouring timestamps further apart than this are damage, not a long still picture
MAX_PICTURE_SHIFT_SECONDS = 0.5
MIN_PACKETS_PRESENT = 0.98

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
class Track:
    """One stream, as its packets tell it. Times are seconds on the clip's time line.

    Args:
        codec: libav's name.
        width: pixels of a stored picture, before any rotation; 0 for sound.
        height: likewise.
        seconds: float64 (F,) when each shown picture (each packet of sound) is presented, rising.
        key_seconds: float64 (K,) those at which decoding can start.
        end_seconds: end of the last one.
        is_counted: decoded pictures carry no times that can be trusted; the n-th one is shown at `seconds[n]`.
        problem: why it cannot be read, or "".
    """

    codec: str
    width: int
    height: int
    seconds: NDArray[np.float64]
    key_seconds: NDArray[np.float64]
    end_seconds: float
    is_counted: bool
    problem: str

    def moved(self, origin: float) -> Track:
        """The same track with 0 at `origin`."""
        seconds, keys, end = self.seconds - origin, self.key_seconds - origin, self.end_seconds - origin
        return replace(self, seconds=seconds, key_seconds=keys, end_seconds=float(end))


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What `probe` finds in a file. It can be kept and handed to `read_clip`, which then need not probe again.

    Args:
        path: the file.
        container: libav's name of its format.
        origin: where the clip's time line has its 0, in the container's seconds: the first picture that is shown; in a
            file without pictures the first sound sample.
        video: its best stream of pictures (cover art is none), or None.
        audio: its best stream of sound, or None.
        decord_problem: why decord would number the pictures wrongly, or "".
    """

    path: str
    container: str
    origin: float
    video: Track | None
    audio: Track | None
    decord_problem: str

    @property
    def has_video(self) -> bool:
        """There is a stream of pictures, readable or not."""
        return self.video is not None

    @property
    def has_audio(self) -> bool:
        """There is a stream of sound, readable or not."""
        return self.audio is not None

    @property
    def duration_seconds(self) -> float:
        """Length of the clip: where the longer of its streams ends."""
        return max(track.end_seconds for track in (self.video, self.audio) if track is not None)

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
        name = container.format.name
        if name == "tty" or name.endswith("_pipe"):  # a text or a still picture
            raise ClipError(path, f"not a clip (its format is {name.removesuffix('_pipe')})")
        video_stream, audio_stream = _best_stream(container, "video"), _best_stream(container, "audio")
        packets = _list_packets(container, [stream for stream in (video_stream, audio_stream) if stream is not None])
        video = _track(video_stream, packets, name) if video_stream is not None else None
        audio = _track(audio_stream, packets, name) if audio_stream is not None else None
        tracks = [track for track in (video, audio) if track is not None]
        if not tracks:
            raise ClipError(path, "no audio and no video stream")
        end = max(track.end_seconds for track in tracks)
        # Matroska counts no packets, but tells its duration, be it that of another stream. (Elsewhere the duration may
        # be libav's guess from the bit rate.)
        if name == "matroska,webm" and container.duration and len(container.streams) == len(tracks):
            declared = container.duration / 1e6
            if _is_short(end, declared):
                raise ClipError(path, f"truncated: {end:.2f} s of {declared:.2f} s are there")
        decord_problem = _decord_problem(name, video, packets[video_stream.index]) if video else "no pictures"

    if video is not None and len(video.seconds):
        origin = float(video.seconds[0])
    elif audio is not None and not audio.problem:
        origin = _first_sample_seconds(path, default=float(audio.seconds[0]))
    else:
        origin = 0.0
    video, audio = (track and track.moved(origin) for track in (video, audio))
    if video and audio and not audio.problem and not video.problem and abs(audio.seconds[0]) > MAX_JUMP_SECONDS:
        audio = replace(audio, problem=f"the sound starts {audio.seconds[0]:.0f} s away from the first picture")
    return MediaInfo(path, name, origin, video, audio, decord_problem)


def _is_short(seconds: float, promised_seconds: float) -> bool:
    """Is less there than was promised? A twentieth may be missing, or a few codec frames of a short clip."""
    return promised_seconds - seconds > max(0.05 * promised_seconds, 0.1)


class _Packet(NamedTuple):
    """What the demuxer says of one packet, in the container's seconds."""

    start: float | None
    duration: float
    is_guess: bool  # AVI knows the order of decoding only; libav guesses when reordered pictures are shown
    is_key: bool
    is_discard: bool  # outside the edit list: decoded, not shown
    is_corrupt: bool
    is_hidden: bool  # a VP8 reference picture that is never shown (alt-ref)


def _list_packets(container: Any, streams: Sequence[Any]) -> dict[int, list[_Packet]]:
    """All packets of the streams, by stream index, in the order of decoding."""
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    scale = {stream.index: float(stream.time_base) for stream in streams}
    is_vp8 = {stream.index: bool(stream.codec_context) and stream.codec_context.name == "vp8" for stream in streams}
    is_avi = container.format.name == "avi"
    for packet in container.demux(*streams) if streams else ():
        # A packet that has neither time only ends the stream.
        ticks = packet.dts if is_avi or packet.pts is None else packet.pts
        if ticks is None and not packet.size:
            continue
        index = packet.stream.index
        # Bit 4 of a VP8 picture is show_frame (RFC 6386, 9.1). A hidden one may share its time with a shown one.
        is_hidden = is_vp8[index] and packet.size > 0 and not memoryview(packet)[0] & 0x10
        start, duration = None if ticks is None else ticks * scale[index], (packet.duration or 0) * scale[index]
        flags = ticks != packet.pts, packet.is_keyframe, packet.is_discard, packet.is_corrupt, is_hidden
        packets[index].append(_Packet(start, duration, *flags))
    return packets


def _track(stream: Any, packets: dict[int, list[_Packet]], container_name: str) -> Track:
    """The table of a stream, in the container's time."""
    rows, kind = packets[stream.index], "picture" if stream.type == "video" else "sound"
    shown = [(p.start, p.duration) for p in rows if p.start is not None and not p.is_discard and not p.is_hidden]
    seconds = np.unique([start for start, _ in shown])  # also sorts: packets come in the order of decoding
    keys = np.unique([p.start for p in rows if p.is_key and p.start is not None])
    steps = np.diff(seconds)
    last, duration = max(shown, default=(0.0, 0.0))
    if duration <= 0:
        duration = float(np.median(steps)) if len(steps) else 0.04

    context = stream.codec_context
    width, height = (context.width, context.height) if context and kind == "picture" else (0, 0)
    # MP4's index has left out what an edit list cuts away. AVI counts the samples of its sound, not the packets.
    declared = len(stream.index_entries) if "mp4" in container_name else 0
    if container_name == "avi" and kind == "picture":
        declared = stream.frames
    problem = ""
    if context is None:
        problem = f"nothing here can decode its {kind} stream"
    elif not len(seconds):
        problem = f"the {kind} stream holds no data"
    elif len(rows) < MIN_PACKETS_PRESENT * declared:
        problem = f"truncated: {len(rows)} of {declared} {kind} packets are there"
    elif len(steps) and steps.max() > MAX_JUMP_SECONDS:
        problem = f"the times of the {kind} stream jump by {steps.max():.0f} s"
    elif kind == "picture" and not 0 < width * height <= MAX_PIXELS:
        problem = f"pictures of {width}x{height}; at most {MAX_PIXELS} pixels are read"
    is_counted = kind == "picture" and any(p.is_guess for p in rows)
    return Track(context.name if context else "", width, height, seconds, keys, last + duration, is_counted, problem)


def _decord_problem(container_name: str, video: Track, packets: list[_Packet]) -> str:
    """Why decord would number the pictures of this stream wrongly; "" where it was measured to be right."""
    if container_name not in DECORD_CONTAINERS:
        return f"container {container_name}"
    if video.codec not in DECORD_CODECS:
        return f"codec {video.codec}"
    if any(p.is_discard or p.is_hidden for p in packets):
        return "pictures that are not shown"
    if video.is_counted or not len(video.seconds) == len(packets) > 0:
        return "missing or equal times"
    if any(p.is_corrupt for p in packets):
        return "damaged packets"
    if not packets[0].is_key:
        return "no key frame at the start"
    starts = np.array([p.start for p in packets])
    last_key = np.maximum.accumulate(np.where([p.is_key for p in packets], starts, -np.inf))
    return "open groups of pictures" if (starts < last_key).any() else ""


def _first_sample_seconds(path: str, default: float) -> float:
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
    audio_path = path if audio_path is None else audio_path
    audio_start_seconds = start_seconds if audio_start_seconds is None else audio_start_seconds
    audio_window_seconds = window_seconds if audio_window_seconds is None else audio_window_seconds
    _check_numbers(float, window_seconds=window_seconds, audio_window_seconds=audio_window_seconds)
    _check_numbers(int, num_frames=num_frames, sample_rate=sample_rate)
    _check_starts(start_seconds=start_seconds, audio_start_seconds=audio_start_seconds)
    _check_choices(path, audio_path, streams, decoder)

    known = {} if info is None else {info.path: info}
    for file, stream in ((path, "video"), (audio_path, "audio")):
        if stream in streams and file is not None and os.fspath(file) not in known:
            known[os.fspath(file)] = probe(file)
    video_info = known[os.fspath(path)] if path is not None and "video" in streams else None
    audio_info = known[os.fspath(audio_path)] if audio_path is not None and "audio" in streams else None
    video = video_info.video if video_info else None
    audio = audio_info.audio if audio_info else None
    if video is None and audio is None:
        missing = " and ".join(f"no {stream}" for stream in sorted(streams))
        raise ClipError(path or audio_path or "", f"{missing} stream")

    frames = frame_seconds = waveform = None
    num_real_frames, real_samples = 0, (0, 0)
    if video_info and video:
        _check_window(video_info, video, start_seconds)
        times = sampling.frame_times(start_seconds, window_seconds, num_frames)
        frames, frame_seconds = _read_frames(video_info, video, times, decoder)
        num_real_frames = int(np.sum(times < video.end_seconds - sampling.TOLERANCE_SECONDS))
    if audio_info and audio:
        _check_window(audio_info, audio, audio_start_seconds)
        waveform, real_samples = _read_sound(audio_info, audio, audio_start_seconds, audio_window_seconds, sample_rate)
    return Clip(frames, frame_seconds, num_real_frames, waveform, real_samples, sample_rate)


def _check_numbers(kind: type, **values: float) -> None:
    """Raise UserError for a value that is not a positive number of this kind."""
    for name, value in values.items():
        if not 0 < value < math.inf or value != kind(value):
            raise UserError(f"{name} is {value}; it must be above 0{' and whole' if kind is int else ''}.")


def _check_starts(**values: float) -> None:
    """Raise UserError for a start before the clip's begin."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{name} is {value}; it must be 0 or more seconds after the first picture.")


def _check_choices(path: Any, audio_path: Any, streams: Sequence[str], decoder: str) -> None:
    """Raise UserError for streams or a decoder that do not exist, and where no file is named."""
    if isinstance(streams, str) or not streams or not set(streams) <= set(STREAMS):
        raise UserError(f"streams is {streams!r}; it must be a list of one or both of {', '.join(STREAMS)}.")
    if (audio_path if "audio" in streams else path) is None:
        raise UserError("path is None; it must be the media file that holds the wanted streams.")
    if decoder not in DECODERS:
        raise UserError(f"decoder is {decoder!r}; it must be one of {', '.join(DECODERS)}.")
    if decoder == "decord" and _decord() is None:
        raise UserError("decoder is 'decord', which is not installed here; use decoder: pyav (or auto).")


def _check_window(info: MediaInfo, track: Track, start_seconds: float) -> None:
    """Raise ClipError for a stream that cannot be read, and for a window that starts behind the clip's end."""
    if track.problem:
        raise ClipError(info.path, track.problem)
    if start_seconds >= info.duration_seconds:
        end = f"the clip ends at {info.duration_seconds:.3f} s"
        raise ClipError(info.path, f"{end}, before the window starts at {start_seconds:g} s")


# ---- pictures -------------------------------------------------------------------------------------------------------

Pictures = tuple[NDArray[np.uint8], NDArray[np.float64]]  # (T, H, W, 3), and (T,) when each is really shown
# A reader's arguments: the file, its stream of pictures, rising indices into `Track.seconds`.
FrameReader = Callable[[MediaInfo, Track, NDArray[np.intp]], Pictures]


def _read_frames(info: MediaInfo, video: Track, times: NDArray[np.float64], decoder: str) -> tuple[Tensor, Tensor]:
    """The pictures on display at `times`: uint8 (T, H, W, 3), and float64 (T,) when each is first shown."""
    indices, back = np.unique(sampling.frames_on_display(times, video.seconds), return_inverse=True)
    *preferred, last = DECODERS[decoder]
    for read in preferred:
        try:
            frames, seconds = read(info, video, indices)
            break
        except ClipError:
            continue  # the last reader's verdict on the file counts
    else:
        frames, seconds = last(info, video, indices)
    # Owned memory, not a view of a decoder's; a held picture comes as often as it is shown.
    return torch.from_numpy(frames[back]), torch.from_numpy(seconds[back])


def decord_frames(info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Pictures:
    """Pictures by decord, which turns them upright by itself.

    Raises:
        ClipError: decord is not installed, is not to be trusted with this file, or fails.
    """
    decord = _decord()
    if decord is None or info.decord_problem:
        raise ClipError(info.path, f"decord must not read it: {info.decord_problem or 'not installed'}")
    try:
        # Made and dropped here: a reader that lives longer hangs once a DataLoader forks.
        reader = decord.VideoReader(info.path, ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(video.seconds):
            raise ClipError(info.path, f"decord counts {len(reader)} pictures, not {len(video.seconds)}")
        return reader.get_batch(indices.tolist()).asnumpy(), video.seconds[indices]
    except ClipError:
        raise
    except Exception as error:  # decord's own error is a bare Exception
        raise ClipError(info.path, f"decord cannot decode it ({type(error).__name__})") from error


def _decord() -> Any:
    """The decord package, kept quiet; None where it is not installed."""
    # DECORD_EOF_RETRY_MAX stays at decord's 10240: with 128 it gave up on every fifth request to a good clip, and
    # with 10240 a damaged one still takes less than 0.1 s.
    try:
        import decord
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def pyav_frames(info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Pictures:
    """Pictures by PyAV, found by their times: a seek to each group of pictures, or all from the start if seeking fails.

    Raises:
        ClipError: a wanted picture is damaged, missing or cannot be decoded.
    """
    wanted = video.seconds[indices]
    try:
        return _decode_pictures(info, video, wanted, seek=not video.is_counted)
    except ClipError:
        # MPEG-TS lands late, and a picture behind a seek may lack the one it refers to: the straight way decides.
        return _decode_pictures(info, video, wanted, seek=False)


DECODERS: dict[str, tuple[FrameReader, ...]] = {
    "auto": (decord_frames, pyav_frames),
    "decord": (decord_frames, pyav_frames),
    "pyav": (pyav_frames,),
}


def _decode_pictures(info: MediaInfo, video: Track, wanted: NDArray[np.float64], seek: bool) -> Pictures:
    """For each of the rising times the picture on display, and when it is first shown."""
    # Without seeking a neighbour will do where a picture was never there (at the open end of a broadcast recording).
    max_shift = sampling.TOLERANCE_SECONDS if seek else MAX_PICTURE_SHIFT_SECONDS
    images, seconds = [], []
    with _open(info.path) as container:
        stream = _best_stream(container, "video")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        pictures = _timed(container, stream, info, video)
        shown, ahead = None, None
        for time in wanted:
            keys = video.key_seconds[video.key_seconds <= time + sampling.TOLERANCE_SECONDS]
            if seek and len(keys) > 1 and (shown is None or keys[-1] > shown[1]):
                container.seek(round((info.origin + keys[-1]) / stream.time_base), stream=stream)
                pictures, shown, ahead = _timed(container, stream, info, video), None, None
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
            images.append(_upright(nearest[0], video))
            seconds.append(nearest[1])
        return np.stack(images), np.array(seconds)


def _timed(container: Any, stream: Any, info: MediaInfo, video: Track) -> Iterator[tuple[Any, float]]:
    """The decoded pictures from here on, each with its time on the clip's time line."""
    for number, frame in enumerate(container.decode(stream)):
        ticks = frame.pts if frame.pts is not None else frame.dts
        if video.is_counted:
            if number < len(video.seconds):
                yield frame, float(video.seconds[number])
        elif ticks is not None:
            yield frame, float(ticks * stream.time_base) - info.origin


def _upright(frame: Any, video: Track) -> NDArray[np.uint8]:
    """A decoded picture as RGB of the size that the file declares, turned as its display matrix says."""
    image = frame.to_ndarray(format="rgb24", width=video.width, height=video.height)
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
MP3_DECODER_DELAY = 529  # samples that every MP3 decoder is late; AVI, unlike others, has no place to say so
SAMPLE_RATES = range(1_000, 768_001)
SAMPLE_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


def _read_sound(
    info: MediaInfo, audio: Track, start_seconds: float, window_seconds: float, sample_rate: int
) -> tuple[Tensor, tuple[int, int]]:
    """The window's waveform, float32 mono, and the first and last + 1 sample that the file really holds."""
    num_samples, margin = round(window_seconds * sample_rate), math.ceil(MARGIN_SECONDS * sample_rate)
    begin, end = start_seconds - margin / sample_rate, start_seconds + window_seconds + margin / sample_rate
    # A seek costs an index look-up and may land anywhere; near the start reading on is as fast.
    pieces, rate = None, sample_rate
    if begin > audio.seconds[0] + 2 * PREROLL_SECONDS:
        with suppress(ClipError):
            pieces, rate = _decode_sound(info, audio, begin, end, seek=True)
    if pieces is None:
        pieces, rate = _decode_sound(info, audio, begin, end, seek=False)

    native = np.zeros(math.ceil((end - begin) * rate), dtype=np.float32)
    held = np.zeros(len(native), dtype=bool)
    # AAC's last frame is filled up; what lies behind the container's end is not sound (and PyAV 19 trims it itself).
    last = min(len(native), round((audio.end_seconds - begin) * rate))
    late = MP3_DECODER_DELAY if info.container == "avi" and audio.codec.startswith("mp3") else 0
    for seconds, samples in pieces:
        at = round((seconds - begin) * rate) - late
        low, high = max(at, 0), min(at + len(samples), last)
        if low < high:
            native[low:high] = samples[low - at : high - at]
            held[low:high] = True
    if not np.isfinite(native).all():
        raise ClipError(info.path, "the sound holds values that are no numbers")

    first = round(margin / sample_rate * rate)
    inside = np.flatnonzero(held[first : first + round(window_seconds * rate)])
    there = min(start_seconds + window_seconds, audio.end_seconds) - max(start_seconds, audio.seconds[0])
    decoded = len(inside) / rate
    if _is_short(decoded, there):
        raise ClipError(info.path, f"damaged: only {decoded:.2f} of {there:.2f} s of sound can be decoded")
    real = (0, 0)
    if len(inside):
        real = (round(inside[0] * sample_rate / rate), min(round((inside[-1] + 1) * sample_rate / rate), num_samples))
    waveform = _resample(torch.from_numpy(native), rate, sample_rate)[margin : margin + num_samples]
    # The last sample may lie beyond what an odd rate fills.
    return torch.nn.functional.pad(waveform, (0, num_samples - len(waveform))).clone(), real


def _decode_sound(
    info: MediaInfo, audio: Track, begin: float, end: float, seek: bool
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
            rate = rate or frame.sample_rate
            if frame.sample_rate != rate or rate not in SAMPLE_RATES:
                raise ClipError(info.path, f"a sample rate of {frame.sample_rate} Hz, first {rate} Hz, cannot be read")
            stamp = None if frame.time is None else float(frame.time) - info.origin
            if clock is None:
                if stamp is None and seek:
                    continue  # Ogg: not known before the page ends
                clock = audio.seconds[0] if stamp is None else stamp
                if seek and clock > begin:
                    raise ClipError(info.path, "the search for the sound lands late")
            elif stamp is not None and abs(stamp - clock) > MAX_DRIFT_SECONDS:
                clock = stamp
            if clock >= end:
                break
            if clock + frame.samples / rate > begin:
                if frame.is_corrupt:
                    raise ClipError(info.path, f"the sound at {clock:.3f} s is damaged")
                pieces.append((clock, to_mono(frame)))
            clock += frame.samples / rate
    return pieces, rate or SAMPLE_RATES.start


class _Downmix:
    """A frame of sound -> float32 mono: the mean of two channels; of more, with ffmpeg's weights."""

    def __init__(self) -> None:
        self.mixer: Any = None

    def __call__(self, frame: Any) -> NDArray[np.float32]:
        num_channels = frame.layout.nb_channels
        if num_channels > 2:
            # Without this option libav mixes to float without dividing by the sum of the weights.
            self.mixer = self.mixer or av.AudioResampler("fltp", "mono", options={"rematrix_maxval": "1.0"})
            return np.concatenate([_channels(mixed, 1)[0] for mixed in self.mixer.resample(frame)])
        channels = _channels(frame, num_channels)
        mono = channels[0].astype(np.float32)
        if num_channels == 2:
            mono = (mono + channels[1].astype(np.float32)) * np.float32(0.5)
        if channels[0].dtype == np.uint8:
            mono -= 128
        if channels[0].dtype.kind in "iu":
            mono /= np.float32(2 ** (8 * channels[0].dtype.itemsize - 1))
        return mono


def _channels(frame: Any, num_channels: int) -> Sequence[NDArray[Any]]:
    """The channels of a frame of sound, as views; `frame.to_ndarray` does the same in three times the time."""
    dtype = SAMPLE_TYPES[frame.format.name.removesuffix("p")]
    if frame.format.is_planar:
        return [np.frombuffer(plane, dtype, frame.samples) for plane in frame.planes]
    return list(np.frombuffer(frame.planes[0], dtype, frame.samples * num_channels).reshape(-1, num_channels).T)


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

NOT_MEDIA = {
    b"version https://git-lfs": "a git-lfs pointer, not the media file itself; fetch it with: git lfs pull",
    b"<!doctype": "a web page, not a media file; its download went wrong",
    b"<html": "a web page, not a media file; its download went wrong",
    b"#extm3u": "a playlist, not a media file",
    b"ffconcat": "a playlist, not a media file",
}

# No file may make libav reach into the network. ("file:" keeps a name such as "a:b.mp4" from looking like a protocol.)
OPEN_OPTIONS: dict[str, Any] = {"options": {"protocol_whitelist": "file"}}
if int(av.__version__.split(".")[0]) < 19:
    OPEN_OPTIONS["metadata_errors"] = "ignore"  # a title in Latin-1 is no damage; PyAV 19 knows that by itself


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
    for signature, reason in NOT_MEDIA.items():
        if begin.startswith(signature):
            raise ClipError(path, reason)


@contextmanager
def _open(path: str) -> Iterator[Any]:
    """An opened container; whatever goes wrong inside comes out as a ClipError."""
    verdict = "damaged, or not a media file"
    try:
        with av.open(f"file:{path}", **OPEN_OPTIONS) as container:
            verdict = "damaged"
            yield container
    except ClipError:
        raise
    except Exception as error:  # damaged files were seen to raise FFmpegError, ValueError, OverflowError, MemoryError
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ClipError(path, f"{verdict} ({reason})") from error


def _best_stream(container: Any, kind: str) -> Any:
    """libav's best stream of a kind; None where there is none. Cover art is no video."""
    stream = container.streams.best(kind)
    if stream is not None and stream.disposition & av.stream.Disposition.attached_pic:
        return None
    return stream
