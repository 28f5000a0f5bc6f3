"""Media file -> `MediaInfo`: when each frame is shown, where the audio starts, what is wrong."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from mbt_lightning.disk import cache_folder, mark_used, replacing
from mbt_lightning.errors import UserError

STREAMS = ("video", "audio")
MEDIA_SUFFIXES = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
MEDIA_SUFFIXES |= {".aac", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav"}  # audio only
MAX_PIXELS = 4096 * 2304
MAX_JUMP_SECONDS = 600.0  # a longer step between timestamps is damage, not a still image
MIN_PACKETS_PRESENT = 0.98
MAX_ASPECT = 4.0
MIN_ASPECT_GAP = 0.02  # such as 224:225, by which encoders make up for a rounded width
LONG_BYTES = 64 * 2**20  # the probes of larger files are kept, see `probe_once`


class ClipError(UserError):
    """A media file that cannot be read: damaged, missing, or not media at all.

    Args:
        path: the file.
        reason: what is wrong with it, in one line.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str | None = None) -> None:
        self.path = os.fspath(path)
        self.reason = reason or ""
        # A DataLoader rebuilds a worker's error from its text alone, which is then the whole message.
        super().__init__(self.path if reason is None else f"{self.path}: {reason}")

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str | None]]:
        return type(self), (self.path, self.reason or None)


@dataclass(frozen=True, eq=False)
class Track:
    """One stream, as described by its packets. Times are seconds on the clip's time line.

    Args:
        codec: libav's name.
        width: pixels of a stored frame, before any rotation; 0 for audio.
        height: likewise.
        seconds: float64 (F,) presentation time of each shown frame (or audio packet), ascending.
        key_seconds: float64 (K,) those at which decoding can start.
        end_seconds: end of the last one.
        is_counted: decoded frames have no reliable times; the n-th one is shown at `seconds[n]`.
        problem: why it cannot be read, or "".
        aspect: width of a stored pixel by its height as it is shown; 1 for square ones.
    """

    codec: str
    width: int
    height: int
    seconds: NDArray[np.float64]
    key_seconds: NDArray[np.float64]
    end_seconds: float
    is_counted: bool
    problem: str
    aspect: float = 1.0

    def moved(self, origin: float) -> Track:
        seconds, keys, end = self.seconds - origin, self.key_seconds - origin, self.end_seconds - origin
        return replace(self, seconds=seconds, key_seconds=keys, end_seconds=float(end))


class StreamQuirk(StrEnum):
    """Properties of a video stream that make some decoders number its frames wrongly."""

    CUT_AWAY = "frames removed by an edit list"
    HIDDEN = "hidden frames"
    UNTIMED = "missing or equal times"
    DAMAGED = "damaged packets"
    NO_KEY = "no key frame at the start"
    OPEN_GROUPS = "open groups of frames"
    OTHER_TRACK = "a larger or default video track beside libav's choice"


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """The result of `probe`. It can be kept and passed to `read_clip`, which then need not probe again.

    Args:
        path: the file.
        container: libav's name of its format.
        origin: 0 of the clip's time line, in the container's seconds: the first frame that is shown; in a file without
            frames the first audio sample.
        video: its best video stream (not cover art), or None.
        audio: its best audio stream, or None.
        quirks: those of the video stream.
    """

    path: str
    container: str
    origin: float
    video: Track | None
    audio: Track | None
    quirks: tuple[StreamQuirk, ...] = ()

    @property
    def has_video(self) -> bool:
        """There is a video stream, readable or not."""
        return self.video is not None

    @property
    def has_audio(self) -> bool:
        return self.audio is not None

    @property
    def duration_seconds(self) -> float:
        return max(track.end_seconds for track in (self.video, self.audio) if track is not None)

    @property
    def state(self) -> str:
        if self.has_video and self.has_audio:
            return "audio and video"
        return "no audio" if self.has_video else "no video"


def probe(path: str | os.PathLike[str]) -> MediaInfo:
    """List a media file's packets: when each frame is shown, where the audio starts, what is wrong.

    Damage to one stream is recorded, not raised, so that the other one can still be read.

    Raises:
        ClipError: no such file, not media, or neither video nor audio in it.
    """
    path = os.fspath(path)
    _check_file(path)
    with open_media(path) as container:
        name = container.format.name
        if name == "tty" or name.endswith("_pipe"):  # a text or an image
            raise ClipError(path, f"not a clip (its format is {name.removesuffix('_pipe')})")
        video_stream, audio_stream = best_stream(container, "video"), best_stream(container, "audio")
        packets = _list_packets(container, [stream for stream in (video_stream, audio_stream) if stream is not None])
        video = _track(video_stream, packets, name) if video_stream is not None else None
        audio = _track(audio_stream, packets, name) if audio_stream is not None else None
        tracks = [track for track in (video, audio) if track is not None]
        if not tracks:
            raise ClipError(path, "no audio and no video stream")
        end = max(track.end_seconds for track in tracks)
        # Matroska has no packet counts, but a duration, possibly that of another stream. (In other formats it may be
        # libav's guess from the bit rate.)
        if name == "matroska,webm" and container.duration and len(container.streams) == len(tracks):
            declared = container.duration / 1e6
            if is_short(end, declared):
                raise ClipError(path, f"truncated: only {end:.2f} of {declared:.2f} s")
        quirks = _quirks(video, packets[video_stream.index]) if video else ()
        if video_stream is not None and video_stream != container.streams.best("video"):
            quirks = (*quirks, StreamQuirk.OTHER_TRACK)

    if video is not None and len(video.seconds):
        origin = float(video.seconds[0])
    elif audio is not None and not audio.problem:
        origin = _first_sample_seconds(path, default=float(audio.seconds[0]))
    else:
        origin = 0.0
    video, audio = (track and track.moved(origin) for track in (video, audio))
    if video and audio and not audio.problem and not video.problem and abs(audio.seconds[0]) > MAX_JUMP_SECONDS:
        audio = replace(audio, problem=f"the audio starts {audio.seconds[0]:.0f} s away from the first frame")
    return MediaInfo(path, name, origin, video, audio, quirks)


def probe_once(path: str | os.PathLike[str]) -> MediaInfo:
    """The result of `probe`, remembered as long as the file does not change.

    A process remembers its last few files. Hour-long ones, which take seconds to list and are read again for each of
    their clips, are also kept in `$MBT_CACHE/probes` (default `~/.cache/mbt-lightning/probes`), for all processes.

    Raises:
        ClipError: no such file, not media, or neither video nor audio in it.
    """
    path = os.fspath(path)
    try:
        found = os.stat(path)
    except OSError:
        return probe(path)  # reports what is wrong
    return _remembered(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _remembered(path: str, size: int, mtime_ns: int) -> MediaInfo:
    if size < LONG_BYTES:
        return probe(path)
    name = hashlib.sha256(json.dumps([os.path.abspath(path), size, mtime_ns]).encode("utf-8", "surrogateescape"))
    file = cache_folder("probes") / f"v2-{name.hexdigest()[:32]}.npz"
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there yet, or damaged
        return _load(path, file)
    info = probe(path)
    with suppress(OSError):  # no space: the file is listed again next time
        _save(info, file)
    return info


def _save(info: MediaInfo, file: Path) -> None:
    arrays: dict[str, Any] = {}
    for kind in STREAMS:
        if track := getattr(info, kind):
            facts: tuple = (track.codec, track.width, track.height, track.end_seconds, track.is_counted)
            facts = (*facts, track.problem, track.aspect)
            arrays |= {f"{kind}.seconds": track.seconds, f"{kind}.keys": track.key_seconds}
            arrays |= {f"{kind}.facts": json.dumps(facts)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as unfinished, open(unfinished, "wb") as content:
        np.savez(content, facts=json.dumps([info.container, info.origin, info.quirks]), **arrays)
    mark_used(file)


def _load(path: str, file: Path) -> MediaInfo:
    tracks: dict[str, Track | None] = dict.fromkeys(STREAMS)
    with np.load(file, allow_pickle=False) as arrays:
        for kind in STREAMS:
            if f"{kind}.facts" in arrays:
                codec, width, height, *rest = json.loads(str(arrays[f"{kind}.facts"]))
                tracks[kind] = Track(codec, width, height, arrays[f"{kind}.seconds"], arrays[f"{kind}.keys"], *rest)
        container, origin, quirks = json.loads(str(arrays["facts"]))
    os.utime(file)
    return MediaInfo(path, container, origin, tracks["video"], tracks["audio"], tuple(map(StreamQuirk, quirks)))


def is_short(seconds: float, promised_seconds: float) -> bool:
    """Whether too much is missing: more than a twentieth, and more than a few codec frames of a short clip."""
    return promised_seconds - seconds > max(0.05 * promised_seconds, 0.1)


class _Packet(NamedTuple):
    """The demuxer's data of one packet, in the container's seconds."""

    start: float | None
    duration: float
    is_guess: bool  # AVI knows only the decoding order; libav guesses when reordered frames are shown
    is_key: bool
    is_discard: bool  # outside the edit list: decoded, not shown
    is_corrupt: bool
    is_hidden: bool  # a VP8 reference frame that is never shown (alt-ref)


def _list_packets(container: Any, streams: Sequence[Any]) -> dict[int, list[_Packet]]:
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    scale = {stream.index: float(stream.time_base) for stream in streams}
    is_vp8 = {stream.index: bool(stream.codec_context) and stream.codec_context.name == "vp8" for stream in streams}
    is_avi = container.format.name == "avi"
    for packet in container.demux(*streams) if streams else ():
        # A packet without data and time marks the end of the stream.
        ticks = packet.dts if is_avi or packet.pts is None else packet.pts
        if ticks is None and not packet.size:
            continue
        index = packet.stream.index
        # Bit 4 of a VP8 frame is show_frame (RFC 6386, 9.1). A hidden one may share its time with a shown one.
        is_hidden = is_vp8[index] and packet.size > 0 and not memoryview(packet)[0] & 0x10
        start, duration = None if ticks is None else ticks * scale[index], (packet.duration or 0) * scale[index]
        flags = ticks != packet.pts, packet.is_keyframe, packet.is_discard, packet.is_corrupt, is_hidden
        packets[index].append(_Packet(start, duration, *flags))
    return packets


def _track(stream: Any, packets: dict[int, list[_Packet]], container_name: str) -> Track:
    rows, kind = packets[stream.index], stream.type
    shown = [(p.start, p.duration) for p in rows if p.start is not None and not p.is_discard and not p.is_hidden]
    seconds = np.unique([start for start, _ in shown])  # also sorts: packets come in decoding order
    keys = np.unique([p.start for p in rows if p.is_key and p.start is not None])
    steps = np.diff(seconds)
    last, duration = max(shown, default=(0.0, 0.0))
    if duration <= 0:
        duration = float(np.median(steps)) if len(steps) else 0.04

    context = stream.codec_context
    is_video = bool(context) and kind == "video"
    width, height, aspect = (context.width, context.height, _aspect(stream)) if is_video else (0, 0, 1.0)
    # MP4's index omits what an edit list removes. AVI counts the samples of its audio, not the packets, and the empty
    # packets of its video, which repeat a frame: there the last place counts.
    declared, present = len(stream.index_entries) if "mp4" in container_name else 0, len(rows)
    if container_name == "avi" and kind == "video" and len(seconds):
        declared, present = stream.frames, round(seconds[-1] / float(stream.time_base)) + 1
    problem = ""
    if context is None:
        problem = f"no decoder for its {kind} stream"
    elif not len(seconds):
        problem = f"the {kind} stream holds no data"
    elif present < MIN_PACKETS_PRESENT * declared:
        problem = f"truncated: only {present} of {declared} {kind} packets"
    elif len(steps) and steps.max() > MAX_JUMP_SECONDS:
        problem = f"the times of the {kind} stream jump by {steps.max():.0f} s"
    elif kind == "video" and not 0 < width * height <= MAX_PIXELS:
        problem = f"frames of {width}x{height}; the limit is {MAX_PIXELS} pixels"
    is_counted = kind == "video" and any(p.is_guess for p in rows)
    name, end = context.name if context else "", last + duration
    return Track(name, width, height, seconds, keys, end, is_counted, problem, aspect)


def _aspect(stream: Any) -> float:
    """Width of a pixel by its height, as declared; nonsense, and what makes up for a rounded width, count as 1."""
    ratio = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    return ratio if 1 / MAX_ASPECT <= ratio <= MAX_ASPECT and abs(ratio - 1) > MIN_ASPECT_GAP else 1.0


def _quirks(video: Track, packets: list[_Packet]) -> tuple[StreamQuirk, ...]:
    shown = [p for p in packets if not p.is_discard and not p.is_hidden]
    starts = np.array([-np.inf if p.start is None else p.start for p in packets])
    last_key = np.maximum.accumulate(np.where([p.is_key for p in packets], starts, -np.inf))
    found = {
        StreamQuirk.CUT_AWAY: any(p.is_discard for p in packets),
        StreamQuirk.HIDDEN: any(p.is_hidden for p in packets),
        StreamQuirk.UNTIMED: video.is_counted or len(video.seconds) != len(shown),
        StreamQuirk.DAMAGED: any(p.is_corrupt for p in packets),
        StreamQuirk.NO_KEY: not packets or not packets[0].is_key,
        StreamQuirk.OPEN_GROUPS: bool((starts < last_key).any()),
    }
    return tuple(quirk for quirk, is_there in found.items() if is_there)


def _first_sample_seconds(path: str, default: float) -> float:
    """Container time of the first decoded audio sample; the decoder may drop an encoder's lead-in."""
    with open_media(path) as container:
        frame = next(container.decode(best_stream(container, "audio")), None)
        return default if frame is None or frame.time is None else float(frame.time)


NOT_MEDIA = {
    b"version https://git-lfs": "a git-lfs pointer, not the media file itself; fetch it with: git lfs pull",
    b"<!doctype": "a web page, not a media file; its download went wrong",
    b"<html": "a web page, not a media file; its download went wrong",
    b"#extm3u": "a playlist, not a media file",
    b"ffconcat": "a playlist, not a media file",
}
# No file may make libav access the network. ("file:" keeps a name such as "a:b.mp4" from looking like a protocol.)
OPEN_OPTIONS: dict[str, Any] = {"options": {"protocol_whitelist": "file"}}
if int(av.__version__.split(".")[0]) < 19:
    OPEN_OPTIONS["metadata_errors"] = "ignore"  # a title in Latin-1 is not damage; the default in PyAV 19


def _check_file(path: str) -> None:
    if not os.path.isfile(path):
        raise ClipError(path, "not a file" if os.path.exists(path) else "no such file")
    try:
        with open(path, "rb") as file:
            start = file.read(512).lstrip().lower()
    except OSError as error:
        raise ClipError(path, f"cannot be opened ({error.strerror})") from error
    if not start:
        raise ClipError(path, "the file is empty")
    for signature, reason in NOT_MEDIA.items():
        if start.startswith(signature):
            raise ClipError(path, reason)


NOT_SHOWN = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


@contextmanager
def open_media(path: str) -> Iterator[Any]:
    """An open container; any error inside becomes a ClipError."""
    problem = "damaged, or not a media file"
    try:
        with av.open(f"file:{path}", **OPEN_OPTIONS) as container:
            problem = "damaged"
            yield container
    except ClipError:
        raise
    except Exception as error:  # damaged files were seen to raise FFmpegError, ValueError, OverflowError, MemoryError
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ClipError(path, f"{problem} ({reason})") from error


def best_stream(container: Any, kind: str) -> Any:
    """The stream of a kind that is read; None if there is none. Cover art and previews are no video.

    Of several video streams it is the default one, and of several of those the one with the most pixels; libav's own
    choice goes by the number of packets and may be a preview. Of several audio streams it is libav's choice.
    """
    if kind != "video":
        return container.streams.best(kind)
    streams = [stream for stream in container.streams.video if not stream.disposition & NOT_SHOWN]
    chosen = container.streams.best(kind)

    def rank(stream: Any) -> tuple[bool, int, bool]:
        context = stream.codec_context
        is_default = bool(stream.disposition & av.stream.Disposition.default)
        return is_default, context.width * context.height if context else 0, stream == chosen

    return max(streams, key=rank, default=None)
