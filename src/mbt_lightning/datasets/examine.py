"""Media files -> their content, found by processes that may crash, hang or run out of memory.

`probe_media` gives files to a few worker processes. A worker that dies or exceeds the time limit loses only its current
file, and is replaced. Each result is added to a cache file immediately, so an interrupted or second run probes only
what is new or changed.
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
from mbt_lightning.data.worker_pool import Failure, WorkerProgress, run_in_workers
from mbt_lightning.errors import UserError, one_line


class Probed(NamedTuple):
    """The content of a media file. Times are on the clip's time line: 0 is the first frame (or audio sample) shown.

    `status` is ok, unreadable, no_audio, no_video, or pointer (git-lfs's placeholder). `damage` is the first error of a
    strict decoding of the whole file, "" if it is intact, None if that was not done.
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
    """Find out what media files contain.

    Args:
        paths: the files.
        cache: JSON lines with earlier results, which are used if size and time of the file are unchanged; new ones are
            added.
        num_workers: number of processes.
        timeout_seconds: time limit per file.
        strict: also decode every readable file completely, and report errors in `damage`. This takes a hundredth of
            the clip's length or more, and may report files that are usable.
        progress: show a progress bar.
        examine: the function from path to `Probed` that the workers call, by its dotted name.
    """
    if num_workers < 1:
        raise UserError(f"num_workers is {num_workers}; give 1 or more")
    with _Cache(Path(cache), paths, timeout_seconds) as store, WorkerProgress(progress) as bar:
        jobs = [(path, timeout_seconds) for path in store.stamps if path not in store.found]
        bar.start("probe", len(jobs), len(store.found))
        for path, answer in run_in_workers(examine, jobs, num_workers):
            if isinstance(answer, Failure):
                store.put(path, Probed("unreadable", answer.reason), answer)
            else:
                store.put(path, answer)
            bar.count(store.found[path].status in ("unreadable", "pointer"))
        if strict:
            work = {path: found for path, found in store.found.items() if found.damage is None and found.seconds}
            # The slowest files take about their own duration to decode.
            jobs = [(path, timeout_seconds + 2 * found.seconds) for path, found in work.items()]
            bar.start("decode", len(jobs), len(store.found) - len(jobs))
            for path, answer in run_in_workers(STRICT, jobs, num_workers):
                failure = answer if isinstance(answer, Failure) else None
                damage = failure.reason if failure else answer
                store.put(path, work[path]._replace(damage=damage), failure)
                bar.count(bool(damage))
        return {path: store.found[path] for path in store.stamps}


# ---- in the workers -------------------------------------------------------------------------------------------------

STRICT = f"{__name__}:find_damage"
MAX_BAD_PACKETS = 500


def examine(path: str) -> Probed:
    """The content of one file, by its packets (`data.media.probe`) and its first decoded frame and audio samples.

    Raises:
        OSError: the file cannot be read at the moment.
    """
    with open(path, "rb") as file:
        file.read(1)
    try:
        info = probe(path)
        rate, problems = _start_decoding(info)
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

    # A declared stream without a single packet counts as absent, not as damaged.
    damaged = {kind for kind, problem in problems.items() if not problem.endswith("holds no data")}
    status = "ok"
    if damaged or (video is None and audio is None):
        status = "unreadable"
    elif video is None or audio is None:
        status = "no_video" if video is None else "no_audio"
    return Probed(status, "; ".join(problems.values()), **facts)


def _start_decoding(info: MediaInfo) -> tuple[int | None, dict[str, str]]:
    """Decode until every stream has produced a frame: (audio sample rate, problems by kind of stream)."""
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
    """Decode a whole file with all of libav's checks: the first error, or "".

    It finds errors that decoding otherwise ignores, but no damage that leaves the data valid, e.g. a changed VP8 frame.
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
        return f"{num_frames} of {len(info.video.seconds)} frames can be decoded"
    if info.audio:
        there = info.audio.end_seconds - float(info.audio.seconds[0])
        if is_short(seconds["audio"], there):
            return f"{seconds['audio']:.2f} of {there:.2f} s of audio can be decoded"
    return ""


# ---- cache ----------------------------------------------------------------------------------------------------------

CACHE_VERSION = 1


class _Cache:
    """Results by path, size and modification time: a file of JSON lines, of which the last one of a path counts.

    Attributes:
        stamps: size and time of each requested file.
        found: the known results.
    """

    def __init__(self, path: Path, names: Iterable[str], timeout_seconds: float) -> None:
        self.path, self.found = path, dict[str, Probed]()
        self.stamps = {name: self._stamp(name) for name in names}
        if path.exists():
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    # After a crash of the machine a line may be cut off, or contain anything.
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
        """Keep a result; a failure that may be temporary is not written."""
        self.found[name] = probed
        if failure is None or failure.is_lasting:
            limit_seconds = failure and failure.limit_seconds
            line = json.dumps([CACHE_VERSION, name, self.stamps[name], limit_seconds, *probed])
            self.file.write(line.encode() + b"\n")
            self.file.flush()
