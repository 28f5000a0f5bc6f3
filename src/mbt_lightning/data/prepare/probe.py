"""Media files -> what is in them, in processes that may crash, hang or run out of memory.

`probe_media` hands file after file to a few worker processes. A worker that dies or exceeds the time limit costs the
file that it had, and is replaced. Each result goes to a cache file at once, so that a run that was cut short, or a
second one, probes only what is new or changed.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import pkgutil
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mbt_lightning.data import decode
from mbt_lightning.data.decode import ClipError, MediaInfo
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
    examine: str = "mbt_lightning.data.prepare.probe:examine",
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
    with _Cache(Path(cache), paths, timeout_seconds) as store, _Bar(progress) as bar:
        jobs = [(path, timeout_seconds) for path in store.stamps if path not in store.found]
        bar.begin("probe", len(jobs), len(store.found))
        for path, answer in _run_apart(examine, jobs, num_workers):
            if isinstance(answer, _Failure):
                store.put(path, Probed("unreadable", answer.reason), answer)
            else:
                store.put(path, answer)
            bar.count(store.found[path].status in ("unreadable", "pointer"))
        if strict:
            work = {path: found for path, found in store.found.items() if found.damage is None and found.seconds}
            # The slowest films decode in about the time that they take to watch.
            jobs = [(path, timeout_seconds + 2 * found.seconds) for path, found in work.items()]
            bar.begin("decode", len(jobs), len(store.found) - len(jobs))
            for path, answer in _run_apart(STRICT, jobs, num_workers):
                failure = answer if isinstance(answer, _Failure) else None
                damage = failure.reason if failure else answer
                store.put(path, work[path]._replace(damage=damage), failure)
                bar.count(bool(damage))
        return {path: store.found[path] for path in store.stamps}


# ---- what the workers do --------------------------------------------------------------------------------------------

STRICT = f"{__name__}:find_damage"
MAX_BAD_PACKETS = 500


def examine(path: str) -> Probed:
    """The facts about one file: its packets' (`decode.probe`), and whether a first picture and a first sound decode.

    Raises:
        OSError: the file cannot be read at the moment.
    """
    with open(path, "rb") as file:
        file.read(1)
    try:
        info = decode.probe(path)
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
    with decode._open(info.path) as container:
        waiting = {kind for kind, track in tracks.items() if track is not None and kind not in problems}
        streams = [decode._best_stream(container, kind) for kind in waiting]
        for packet in container.demux(*streams) if streams else ():
            kind = packet.stream.type
            if kind in waiting and num_bad[kind] < MAX_BAD_PACKETS:
                try:
                    frames = packet.decode()
                except Exception:  # as `decode._open` knows
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
    av_logging = decode.av.logging
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
    info, checks = decode.probe(path), {"err_detect": "crccheck+bitstream+buffer+explode"}
    for track in (info.video, info.audio):
        if track is not None and track.problem:
            return track.problem
    options = decode.OPEN_OPTIONS | {"options": decode.OPEN_OPTIONS["options"] | checks}
    num_frames, seconds = 0, {"video": 0.0, "audio": 0.0}
    try:
        with decode.av.open(f"file:{path}", **options) as container:
            streams = [decode._best_stream(container, kind) for kind in seconds]
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
    except Exception as error:  # as `decode._open` knows
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return f"decoding stops after {max(seconds.values()):.2f} s ({one_line(reason)})"
    if info.video and num_frames < len(info.video.seconds):
        return f"{num_frames} of {len(info.video.seconds)} pictures can be decoded"
    if info.audio:
        there = info.audio.end_seconds - float(info.audio.seconds[0])
        if decode._is_short(seconds["audio"], there):
            return f"{seconds['audio']:.2f} of {there:.2f} s of sound can be decoded"
    return ""


# ---- processes ------------------------------------------------------------------------------------------------------

START_SECONDS = 120.0
MAX_WORKER_BYTES = 3 << 30
GRACE_SECONDS = 10  # what a worker whose parent is gone outlives its time limit by


class _Failure(NamedTuple):
    """A file that gave no result.

    Args:
        reason: why.
        is_lasting: the file's own fault, and no matter of permissions or a disk that is away.
        limit_seconds: time limit that it exceeded.
    """

    reason: str
    is_lasting: bool = True
    limit_seconds: float | None = None


def _run_apart(function: str, jobs: list[tuple[str, float]], num_workers: int) -> Iterator[tuple[str, Any]]:
    """Call a function, given by its dotted name, in other processes for (path, time limit) jobs.

    Yields (path, what it returned or a `_Failure`) as they get done.
    """
    pkgutil.resolve_name(function)  # a wrong name is told here
    waiting = iter(jobs)
    crew = [_Worker(function) for _ in range(min(num_workers, len(jobs)))]
    try:
        for worker in crew:
            worker.give(next(waiting))
        while crew:
            rest = min(worker.deadline for worker in crew) - time.monotonic()
            ready = connection.wait([worker.pipe for worker in crew], max(rest, 0.0))
            for worker in list(crew):
                if worker.pipe not in ready and time.monotonic() < worker.deadline:
                    continue
                path, _ = worker.job
                answer = worker.take(worker.pipe in ready)
                crew.remove(worker)
                job = next(waiting, None)
                if job is None:
                    worker.end()
                else:
                    crew.append(_Worker(function) if worker.pipe.closed else worker)
                    crew[-1].give(job)
                yield path, answer
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process that does one job after the other, until it is ended, dies, or its parent is gone."""

    def __init__(self, function: str) -> None:
        kinds = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
        if "forkserver" in kinds:
            context.set_forkserver_preload([__name__])  # the decoders are loaded once, not by every worker
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, function), daemon=True)
        with _no_main():
            self.process.start()
        far_end.close()  # so that the pipe ends when the process does
        self.is_ready = False

    def give(self, job: tuple[str, float]) -> None:
        """Start on a job; its time begins now."""
        if not self.is_ready:
            # Otherwise a machine on which no process can start would have all files called broken.
            try:
                self.is_ready = self.pipe.poll(START_SECONDS) and self.pipe.recv()
            except (EOFError, OSError):
                self.is_ready = False
            if not self.is_ready:
                self.end()
                raise RuntimeError(f"the processes that probe cannot start (exit code {self.process.exitcode})")
        self.job, self.deadline = job, time.monotonic() + job[1]
        with suppress(OSError):  # it has died: `take` tells
            self.pipe.send(job)

    def take(self, is_ready: bool) -> Any:
        """The job's result, or why there is none; then the process is ended."""
        name = "SIGALRM"
        if is_ready:
            try:
                return self.pipe.recv()
            except (EOFError, OSError):
                self.process.join(5)
                code = self.process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.end()
        if name == "SIGALRM":
            return _Failure(f"took longer than {self.job[1]:g} s", limit_seconds=self.job[1])
        # A system that is short of memory kills what it likes.
        return _Failure(f"reading it crashes ({name})", is_lasting=name != "SIGKILL")

    def end(self) -> None:
        """Kill the process; one that hangs in the kernel is left behind."""
        self.process.kill()
        self.process.join(5)
        self.pipe.close()


@contextmanager
def _no_main() -> Iterator[None]:
    """Processes that start in here do not import the parent's main program, which costs seconds and may do anything."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Any, function: str) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    call = pkgutil.resolve_name(function)
    _limit_memory()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        pipe.send(True)
        while True:
            path, limit_seconds = pipe.recv()
            _set_alarm(math.ceil(limit_seconds) + GRACE_SECONDS)
            answer = _answer(call, path)
            _set_alarm(0)
            pipe.send(answer)


def _answer(call: Callable[[str], Any], path: str) -> Any:
    try:
        return call(path)
    except MemoryError:
        return _Failure(f"needs more than {MAX_WORKER_BYTES >> 30} GB of memory")
    except OSError as error:
        return _Failure(f"cannot be read ({error.strerror})", is_lasting=False)
    except Exception as error:
        return _Failure(one_line(f"{type(error).__name__}: {error}"))


def _set_alarm(seconds: int) -> None:
    """Have this process killed after so many seconds, in case that it hangs and its parent is gone; 0: never."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)


def _limit_memory() -> None:
    """Allow this process so much more memory than it has now (where the system can), and no core file."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_WORKER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


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
            with open(path, encoding="utf-8") as file:
                for line in file:
                    # A line may be cut off, where a machine went down.
                    with suppress(ValueError, TypeError):
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

    def put(self, name: str, probed: Probed, failure: _Failure | None = None) -> None:
        """Keep a result; a failure that may pass is not written down."""
        self.found[name] = probed
        if failure is None or failure.is_lasting:
            limit_seconds = failure and failure.limit_seconds
            line = json.dumps([CACHE_VERSION, name, self.stamps[name], limit_seconds, *probed])
            self.file.write(line.encode() + b"\n")
            self.file.flush()


# ---- progress -------------------------------------------------------------------------------------------------------


class _Bar:
    """A progress bar with the rate, the time left and how many files are not as they should be."""

    def __init__(self, is_shown: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        words = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[bad]}"))
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), *words, disable=not is_shown
        )

    def __enter__(self) -> _Bar:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def begin(self, what: str, total: int, num_known: int) -> None:
        """A new bar, of `total` files; so many others are known."""
        known = f" ({num_known} known)" if num_known else ""
        self.task = self.bar.add_task(what + known, total=total, rate="", bad="", visible=total > 0)
        self.since, self.num_done, self.num_bad = time.monotonic(), 0, 0

    def count(self, is_bad: bool) -> None:
        """One file is done."""
        self.num_done += 1
        self.num_bad += is_bad
        rate = f"{self.num_done / max(time.monotonic() - self.since, 1e-3):.0f} files/s"
        self.bar.update(self.task, advance=1, rate=rate, bad=f"{self.num_bad} bad" if self.num_bad else "")
