"""Media files -> what is in them, in processes that may crash, hang or run out of memory.

`probe_media` hands file after file to a few worker processes. A worker that dies or exceeds the time limit costs the
file that it had, and is replaced. Each result goes to a cache file at once, so that a run that was cut short, or a
second one, probes only what is new or changed.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import av

from mbt_lightning.data.media.probe import OPEN_OPTIONS, ClipError, MediaInfo, best_stream, is_short, open_media, probe
from mbt_lightning.data.worker_pool import Failure, Progress, run_apart
from mbt_lightning.errors import UserError, one_line


class Probed(NamedTuple):
    """What is in a media file. Times are on the clip's time line: 0 is the first picture (or sound sample) shown.

    Args:
        status: ok, unreadable, no_audio, no_video, or pointer (git-lfs's stand-in for the file).
        reason: what is wrong, or "".
        has_video: there are pictures that can be read.
        has_audio: there is sound that can be read.
        video_seconds: where the pictures end.
        audio_seconds: where the sound ends.
        width: pixels of a stored picture, before any rotation.
        height: likewise.
        frames_per_second: pictures a second, on average.
        sample_rate: of the sound, in Hz.
        num_frames: how many pictures are shown.
        damage: what a strict decoding of the whole file found, "" if nothing; None: it was not done.
    """

    status: str
    reason: str = ""
    has_video: bool = False
    has_audio: bool = False
    video_seconds: float | None = None
    audio_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    frames_per_second: float | None = None
    sample_rate: int | None = None
    num_frames: int | None = None
    damage: str | None = None

    @property
    def seconds(self) -> float:
        """Length of the file: where the longer of its streams ends."""
        return max(self.video_seconds or 0.0, self.audio_seconds or 0.0)


def probe_media(
    paths: Iterable[str],
    cache: Path,
    num_workers: int,
    timeout_seconds: float = 20,
    strict: bool = False,
    progress: bool = True,
    examine: str = "mbt_lightning.datasets.examine:examine",
) -> dict[str, Probed]:
    """Find out what is in media files.

    Args:
        paths: the files.
        cache: JSON lines that earlier results are taken from, if size and time of the file are still the same, and
            that new ones are added to.
        num_workers: processes that probe.
        timeout_seconds: time limit of one file.
        strict: also decode every file that can be read, all of it, and put into `damage` what is wrong. That takes a
            hundredth of the clip's length and more, and may name files that are fit for use: it is a report.
        progress: draw a progress bar.
        examine: the function from path to `Probed` that the workers call, by its dotted name.
    """
    if num_workers < 1:
        raise UserError(f"num_workers is {num_workers}; at least 1 process must probe")
    with _Cache(Path(cache), paths, timeout_seconds) as store, Progress(progress) as bar:
        jobs = [(path, timeout_seconds) for path in store.stamps if path not in store.found]
        bar.begin("probe", len(jobs), len(store.found))
        for path, answer in run_apart(examine, jobs, num_workers):
            if isinstance(answer, Failure):
                store.put(path, Probed("unreadable", answer.reason), answer)
            else:
                store.put(path, answer)
            bar.count(store.found[path].status in ("unreadable", "pointer"))
        if strict:
            work = {path: found for path, found in store.found.items() if found.damage is None and found.seconds}
            # The slowest films decode in about the time that they take to watch.
            jobs = [(path, timeout_seconds + 2 * found.seconds) for path, found in work.items()]
            bar.begin("decode", len(jobs), len(store.found) - len(jobs))
            for path, answer in run_apart(STRICT, jobs, num_workers):
                failure = answer if isinstance(answer, Failure) else None
                damage = failure.reason if failure else answer
                store.put(path, work[path]._replace(damage=damage), failure)
                bar.count(bool(damage))
        return {path: store.found[path] for path in store.stamps}


# ---- what the workers do --------------------------------------------------------------------------------------------

STRICT = f"{__name__}:find_damage"
MAX_BAD_PACKETS = 500


def examine(path: str) -> Probed:
    """The facts about one file: its packets' (`data.probe`), and whether a first picture and a first sound decode.

    Raises:
        OSError: the file cannot be read at the moment.
    """
    with open(path, "rb") as file:
        file.read(1)
    try:
        info = probe(path)
        rate, problems = _begin_decoding(info)
    except ClipError as error:
        return Probed("pointer" if "git-lfs pointer" in error.reason else "unreadable", error.reason)
    video = info.video if "video" not in problems else None
    audio = info.audio if "audio" not in problems else None
    facts: dict[str, Any] = {"has_video": video is not None, "has_audio": audio is not None}
    if video is not None:
        facts |= {"video_seconds": round(video.end_seconds, 6), "width": video.width, "height": video.height}
        facts |= {"num_frames": len(video.seconds)}
        facts |= {"frames_per_second": round(len(video.seconds) / video.end_seconds, 3) if video.end_seconds else None}
    if audio is not None:
        facts |= {"audio_seconds": round(audio.end_seconds, 6), "sample_rate": rate}

    # A declared stream without a single packet is no damage: it is not there.
    damaged = {kind for kind, problem in problems.items() if not problem.endswith("holds no data")}
    status = "ok"
    if damaged or (video is None and audio is None):
        status = "unreadable"
    elif video is None or audio is None:
        status = "no_video" if video is None else "no_audio"
    return Probed(status, "; ".join(problems.values()), **facts)


def _begin_decoding(info: MediaInfo) -> tuple[int | None, dict[str, str]]:
    """Decode until each stream has given something: (sample rate of the sound, what is wrong by kind of stream)."""
    tracks = {"video": info.video, "audio": info.audio}
    problems = {kind: track.problem for kind, track in tracks.items() if track is not None and track.problem}
    rate, num_bad = None, Counter[str]()
    with open_media(info.path) as container:
        waiting = {kind for kind, track in tracks.items() if track is not None and kind not in problems}
        streams = [best_stream(container, kind) for kind in waiting]
        for packet in container.demux(*streams) if streams else ():
            kind = packet.stream.type
            if kind in waiting and num_bad[kind] < MAX_BAD_PACKETS:
                try:
                    frames = packet.decode()
                except Exception:  # as `open_media` knows
                    num_bad[kind] += 1
                    continue
                if frames:
                    waiting.remove(kind)
                    rate = frames[0].sample_rate if kind == "audio" else rate
            if not waiting:
                break
    problems |= {kind: f"the {kind} stream cannot be decoded" for kind in sorted(waiting)}
    return rate, problems


def find_damage(path: str) -> str:
    """Decode a whole file with all of libav's checks: the first thing that is wrong with it, or "".

    It sees what decoding otherwise passes over, but no damage in data that still make sense, as a changed VP8 picture.
    """
    av_logging = av.logging
    level = av_logging.get_level()
    av_logging.set_level(av_logging.ERROR)
    try:
        with av_logging.Capture() as lines:
            damage = _decode_strictly(path)
    except ClipError as error:
        return error.reason
    finally:
        av_logging.set_level(level)
    return damage or next((f"{name}: {one_line(text)}" for _, name, text in lines), "")


def _decode_strictly(path: str) -> str:
    info, checks = probe(path), {"err_detect": "crccheck+bitstream+buffer+explode"}
    for track in (info.video, info.audio):
        if track is not None and track.problem:
            return track.problem
    options = OPEN_OPTIONS | {"options": OPEN_OPTIONS["options"] | checks}
    num_frames, seconds = 0, {"video": 0.0, "audio": 0.0}
    try:
        with av.open(f"file:{path}", **options) as container:
            streams = [best_stream(container, kind) for kind in seconds]
            streams = [stream for stream in streams if stream is not None]
            for stream in streams:
                stream.codec_context.options = checks
                stream.thread_type = "NONE"
            for packet in container.demux(*streams):
                kind = packet.stream.type
                if packet.is_corrupt:
                    return f"a damaged packet after {seconds[kind]:.2f} s of {kind}"
                for frame in packet.decode():
                    if frame.is_corrupt:
                        return f"damaged {kind} after {seconds[kind]:.2f} s"
                    if kind == "video":
                        seconds[kind], num_frames = max(seconds[kind], frame.time or 0.0), num_frames + 1
                    else:
                        seconds[kind] += frame.samples / frame.sample_rate
    except Exception as error:  # as `open_media` knows
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return f"decoding stops after {max(seconds.values()):.2f} s ({one_line(reason)})"
    if info.video and num_frames < len(info.video.seconds):
        return f"{num_frames} of {len(info.video.seconds)} pictures can be decoded"
    if info.audio:
        there = info.audio.end_seconds - float(info.audio.seconds[0])
        if is_short(seconds["audio"], there):
            return f"{seconds['audio']:.2f} of {there:.2f} s of sound can be decoded"
    return ""


# ---- cache ----------------------------------------------------------------------------------------------------------

CACHE_VERSION = 1


class _Cache:
    """Results by path, size and time of change: a file of JSON lines, of which the last one about a path counts.

    Attributes:
        stamps: size and time of each wanted file.
        found: what is known of them.
    """

    def __init__(self, path: Path, wanted: Iterable[str], timeout_seconds: float) -> None:
        self.path, self.found = path, dict[str, Probed]()
        self.stamps = {name: self._stamp(name) for name in wanted}
        if path.exists():
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    # A line may be cut off, or hold anything, where a machine went down.
                    with suppress(ValueError, TypeError, RecursionError):
                        version, name, stamp, limit_seconds, status, *facts = json.loads(line)
                        if version != CACHE_VERSION or self.stamps.get(name) != stamp:
                            continue
                        if limit_seconds is None or limit_seconds >= timeout_seconds:
                            self.found[name] = Probed(sys.intern(status), *facts)

    def _stamp(self, name: str) -> str:
        try:
            found = os.stat(name)
        except OSError as error:
            self.found[name] = Probed("unreadable", f"cannot be read ({error.strerror})")
            return ""
        if not stat.S_ISREG(found.st_mode):
            self.found[name] = Probed("unreadable", "not a file")
        return f"{found.st_size} {found.st_mtime_ns}"

    def __enter__(self) -> _Cache:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")
        if self.file.tell():
            self.file.seek(-1, os.SEEK_END)
            if self.file.read() != b"\n":
                self.file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def put(self, name: str, probed: Probed, failure: Failure | None = None) -> None:
        """Keep a result; a failure that may pass is not written down."""
        self.found[name] = probed
        if failure is None or failure.is_lasting:
            limit_seconds = failure and failure.limit_seconds
            line = json.dumps([CACHE_VERSION, name, self.stamps[name], limit_seconds, *probed])
            self.file.write(line.encode() + b"\n")
            self.file.flush()
