"""Official clip -> media files: the names in a folder, which of them match a clip, and the clip's position in them.

    index     `MediaIndex(folder)`: one walk, one sorted list of names
    match     clip -> files, by their names alone: `Match`
    resolve   clip, match, probed files -> files, start, end and status: `Media`

An id is looked up as a whole, never split at a `_`. Recognised names for a source `ID`:

    ID.mp4  YID.wav  Title [ID].mkv            the source, cut or whole: only its duration decides
    ID_000030.mp4  ID_30.000.mp4  ID_30000.mp4          cut, starts at 30 s
    ID_000030_000040.mp4  ID_30000_40000.mp4  ID_30.0-40.0.ogg    cut, from 30 to 40 s
    CLIP_ID.mp4                                cut, named after the clip
    any/folder/SOURCE.mp4                      for a source `folder/SOURCE`, with or without a suffix

Names with times and the three in the first line need an id of 11 characters (YouTube's); any other id must be the whole
stem.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mbt_lightning.data.media.probe import MEDIA_SUFFIXES
from mbt_lightning.datasets.clips import OfficialClip
from mbt_lightning.datasets.examine import Probed
from mbt_lightning.datasets.rows import YOUTUBE_ID
from mbt_lightning.errors import UserError

# In order of preference: some of CREMA-D's MP3 files are blank.
AUDIO_SUFFIXES = (".wav", ".flac", ".m4a", ".mka", ".ogg", ".oga", ".opus", ".aac", ".mp3")
SPLIT_FOLDERS = {
    "train": ("train",),
    "val": ("val",),
    "test": ("test", "val"),
}  # parts of folder names (eval contains val)

TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:[_-](\d+(?:\.\d+)?))?", re.ASCII)
PADDED = re.compile(r"0\d{5}", re.ASCII)
NAME_SLACK_SECONDS = 0.01  # a name's times are rounded

# ---- index ----------------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """The files whose names match a clip; `is_cut`: by its name, the file contains only the segment, not the source."""

    video: str | None
    audio: str | None
    video_is_cut: bool = False
    audio_is_cut: bool = False
    note: str = ""


class MediaIndex:
    """The media files of a folder, found by name.

    Args:
        root: the folder. Nothing outside it is ever returned, not even through a link inside it.
        names: its files as paths relative to it, with `/`, instead of a walk through the folder.

    Attributes:
        ignored: number of ignored names, by reason.
        examples: one such name per reason.
    """

    def __init__(self, root: str | Path, names: Iterable[str] | None = None) -> None:
        self.root = os.fspath(root)
        self.ignored: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        # `key \0 path`, sorted: all names that start with an id are neighbours. A list takes a third of a dictionary's
        # memory, and a search in it takes 2 microseconds.
        self._entries = [f"{_key(_stem(name))}\0{name}" for name in (self._walk() if names is None else names)]
        self._entries.sort()

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, clip: OfficialClip) -> Match:
        """The files whose names match a clip; the choice among several depends on names only, and is reported."""
        if not clip.source_id or clip.source_id[0] == "/" or ".." in clip.source_id.split("/"):
            return Match(None, None, note=f"{clip.source_id!r} is not a path inside the media folder")
        source = _without_suffix(clip.source_id)
        cut: list[str] = []
        whole: list[str] = []
        others: list[str] = []
        if YOUTUBE_ID.fullmatch(source):
            for key, path in self._range(source):
                if key == source:
                    whole.append(path)
                elif clip.start_seconds is not None and (times := TIMES.fullmatch(key, 11)):
                    fits = key == clip.clip_id or _is_segment(times[1], times[2], clip.start_seconds, clip.end_seconds)
                    (cut if fits else others).append(path)
        else:
            # First unchanged: the source of `a.MOV.mp4` is `a.MOV`, which has no suffix to remove.
            for name in dict.fromkeys((clip.source_id, source)):
                paths = [path for _, path in self._range(_key(name[name.rfind("/") + 1 :]) + "\0")]
                whole = whole or [path for path in paths if f"/{_without_suffix(path)}".endswith(f"/{name}")]
        if clip.clip_id != clip.source_id and not cut:
            cut = [path for _, path in self._range(_key(clip.clip_id) + "\0") if _stem(path) == clip.clip_id]

        notes: list[str] = []
        video, video_is_cut = self._choose(cut, whole, False, clip.split, notes)
        audio, audio_is_cut = self._choose(cut, whole, True, clip.split, notes)
        if others and not video and not audio:
            notes.append(f"only other segments of it exist, e.g. {others[0]}")
        return Match(video, audio, video_is_cut, audio_is_cut, "; ".join(notes))

    def _range(self, prefix: str) -> list[tuple[str, str]]:
        """(key, path) of the entries that start with a text."""
        entries, found = self._entries, []
        for at in range(bisect_left(entries, prefix), len(entries)):
            if not entries[at].startswith(prefix):
                break
            key, _, path = entries[at].partition("\0")
            found.append((key, path))
        return found

    def _choose(
        self, cut: list[str], whole: list[str], is_audio: bool, split: str, notes: list[str]
    ) -> tuple[str | None, bool]:
        """The video or audio file: (path, whether it is cut by its name)."""
        for paths, is_cut in ((cut, True), (whole, False)):
            if not paths:
                continue
            matching = [path for path in paths if (_suffix(path) in AUDIO_SUFFIXES) is is_audio]
            if len(matching) > 1:
                matching.sort(key=lambda path: (_rank(path, split), path.count("/"), len(path), path))
                if _rank(matching[0], split) == _rank(matching[1], split):
                    notes.append(f"{len(matching)} files match; {matching[0]} is used, not {matching[1]}")
            if matching:
                return f"{self.root}/{matching[0]}", is_cut
        return None, False

    def _walk(self) -> Iterator[str]:
        """The media files of the folder, as paths relative to it; counts the ignored ones."""
        if not os.path.isdir(self.root):
            raise UserError(f"{self.root}: no such folder; give the folder of the media files as --media")
        top = os.path.realpath(self.root)
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    for entry in entries:
                        name = folder + entry.name
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(name + "/")
                        elif problem := _problem(entry, top):
                            self._ignore(problem, name)
                        else:
                            yield name
            except OSError as error:
                self._ignore(f"folder cannot be read ({error.strerror})", folder)

    def _ignore(self, reason: str, name: str) -> None:
        self.ignored[reason] += 1
        self.examples.setdefault(reason, name)


def _problem(entry: os.DirEntry[str], top: str) -> str:
    name = entry.name
    if name.startswith("._"):
        return "macOS side file"
    if name.endswith((".part", ".ytdl")) or ".part-" in name or ".temp." in name:
        return "unfinished download"
    if not entry.is_symlink():
        is_file = entry.is_file()
    else:
        target = os.path.realpath(entry.path)
        if os.path.commonpath([top, target]) != top:
            return "link that leads out of the folder"
        if os.path.isdir(target):
            return "link to a folder"  # its content is found in its own place
        is_file = os.path.isfile(target)
    if _suffix(name) not in MEDIA_SUFFIXES:
        return "not media"
    if not is_file:
        return "broken link" if entry.is_symlink() else "not media"
    if not name.isascii():
        try:
            entry.path.encode()
        except UnicodeEncodeError:
            return "name that is not UTF-8"
    try:
        return "" if entry.stat().st_size else "empty file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower() if "." in path else ""


def _without_suffix(path: str) -> str:
    """A path without a media suffix; other dots belong to the name."""
    return path[: -len(_suffix(path))] if _suffix(path) in MEDIA_SUFFIXES else path


def _stem(path: str) -> str:
    return _without_suffix(path[path.rfind("/") + 1 :])


def _key(stem: str) -> str:
    """A file is found by its stem, or by the YouTube id in it."""
    if len(stem) == 12 and stem[0] == "Y" and YOUTUBE_ID.fullmatch(stem, 1):
        return stem[1:]
    if "[" in stem:
        inside = stem[stem.rindex("[") + 1 :].partition("]")[0]
        if YOUTUBE_ID.fullmatch(inside):
            return inside
    return stem


def _is_segment(first: str, second: str | None, start: float, end: float | None) -> bool:
    """Whether the times in a name are the segment's; whole numbers may be milliseconds, unless zero-padded."""
    for units in (1, 1000):
        is_start = abs(float(first) / units - start) < NAME_SLACK_SECONDS
        if is_start and (second is None or end is None or abs(float(second) / units - end) < NAME_SLACK_SECONDS):
            return units == 1 or not any("." in text or PADDED.fullmatch(text) for text in (first, second or ""))
    return False


def _rank(path: str, split: str) -> tuple[bool, bool, int]:
    """Sort key of a file, smaller is better: replacements first, then folders of the split, then the best kind of file.

    Kinetics comes with broken files, and with `replacement/replacement_for_corrupted_k400` for them.
    """
    folders = path.lower().split("/")[:-1]
    is_replaced = not any(folder.startswith("replacement") for folder in folders)
    split_folder = next((folder for folder in folders if any(word in folder for word in ("train", "val", "test"))), "")
    is_elsewhere = not any(word in split_folder for word in SPLIT_FOLDERS.get(split, ()))
    suffix = _suffix(path)
    return is_replaced, is_elsewhere, AUDIO_SUFFIXES.index(suffix) if suffix in AUDIO_SUFFIXES else 0


# ---- resolve --------------------------------------------------------------------------------------------------------

SLACK_SECONDS, SLACK_PART = 0.5, 0.1  # how much longer than its segment a cut file may be: the larger one
SHORTEST_SECONDS = 0.1  # a single frame is not a clip


class Media(NamedTuple):
    """The files of a clip, its position in them (None: whole files), and its status with a reason or remarks."""

    video: str | None
    audio: str | None
    start_seconds: float | None
    end_seconds: float | None
    status: str
    reason: str


class _Stream(NamedTuple):
    """A clip's video or audio in one file: start of the clip, end of the stream."""

    path: str | None
    start: float
    end: float
    status: str
    reason: str


def resolve(
    clip: OfficialClip,
    match: Match,
    probed: Mapping[str, Probed],
    needs: Collection[str] = ("video", "audio"),
    min_part: float = 0.9,
) -> Media:
    """Decide from the probed files whether a clip is usable, and where it lies in them.

    An unusable separate audio file is replaced by the audio of the video file.

    Args:
        clip: the clip.
        match: its files.
        probed: their content, by path.
        needs: which of "video" and "audio" the clip must have, at least one.
        min_part: the part of the segment that must be present.
    """
    assert needs and set(needs) <= {"video", "audio"}
    notes = [match.note] if match.note else []

    def media(video: str | None, audio: str | None, start: float | None, end: float | None, status: str) -> Media:
        return Media(video, None if audio == video else audio, start, end, status, "; ".join(filter(None, notes)))

    if match.video is None and match.audio is None:
        notes = notes or [f"no file is named after {clip.source_id}"]
        return media(None, None, None, None, "missing")

    def stream(kind: str, path: str | None, is_cut: bool) -> _Stream:
        if path is None:
            return _Stream(None, 0.0, 0.0, f"no_{kind}", f"no {kind} file")
        return _stream(clip, kind, path, is_cut, probed[path], min_part)

    video_stream = stream("video", match.video, match.video_is_cut)

    def aligned(audio: _Stream) -> _Stream:
        """One pair of times serves both files, so the audio must start with the video."""
        if not audio.status == video_stream.status == "ok":
            return audio
        if abs(audio.start - video_stream.start) < NAME_SLACK_SECONDS:
            return audio
        reason = f"{audio.path} is cut at another place than {video_stream.path}"
        return audio._replace(status="no_audio", reason=reason)

    files = [(match.audio, match.audio_is_cut), (match.video, match.video_is_cut)]
    candidates = [aligned(stream("audio", path, is_cut)) for path, is_cut in files if path is not None]
    audio_stream = next((one for one in candidates if one.status == "ok"), candidates[0])
    if audio_stream is not candidates[0]:
        notes.append(f"{candidates[0].reason}; the audio of the video file is used")

    for needed, kind in ((video_stream, "video"), (audio_stream, "audio")):
        if kind in needs and needed.status != "ok":
            notes.insert(0, needed.reason)
            return media(match.video, match.audio, None, None, needed.status)
    used = [part for part in (video_stream, audio_stream) if part.status == "ok"]
    video, audio = (part.path if part.status == "ok" else None for part in (video_stream, audio_stream))
    notes += dict.fromkeys(part.reason for part in used)
    if clip.start_seconds is None:
        if abs(used[0].end - used[-1].end) > _slack(used[0].end):
            notes.append(f"{video_stream.end:.2f} s of video, {audio_stream.end:.2f} s of audio")
        return media(video, audio, None, None, "ok")
    start, end = used[0].start, None
    if clip.end_seconds is not None:
        end = round(min(start + clip.end_seconds - clip.start_seconds, max(part.end for part in used)), 6)
    return media(video, audio, start, end, "ok")


def _stream(clip: OfficialClip, kind: str, path: str, is_cut: bool, found: Probed, min_part: float) -> _Stream:
    has, end = (
        (found.has_video, found.video_seconds or 0.0)
        if kind == "video"
        else (found.has_audio, found.audio_seconds or 0.0)
    )
    if not has:
        status = found.status if found.status in ("unreadable", "pointer") else f"no_{kind}"
        return _Stream(path, 0.0, 0.0, status, f"{path}: {found.reason or f'no {kind}'}")
    start, needed, note = 0.0, SHORTEST_SECONDS, ""
    if clip.start_seconds is not None:
        placed, note = (0.0, "") if is_cut else _place(clip, found.seconds, min_part)
        if placed is None:
            return _Stream(path, 0.0, end, "too_short", f"{path}: {note}")
        start = placed
        if clip.end_seconds is not None:
            needed = max(needed, min_part * (clip.end_seconds - clip.start_seconds) - SHORTEST_SECONDS)
    if end - start < needed:
        return _Stream(path, start, end, "too_short", f"{path}: {max(end - start, 0):.2f} s of {kind} in the segment")
    return _Stream(path, start, end, "ok", note and f"{path}: {note}")


def _place(clip: OfficialClip, seconds: float, min_part: float) -> tuple[float | None, str]:
    """The start of a segment in a file that is named after its source only: (start or None, remark).

    A file about as long as the segment is cut; one that reaches the segment's end is the whole source.
    """
    start, end = clip.start_seconds or 0.0, clip.end_seconds
    if end is None:
        return start, ""
    length = end - start
    is_cut = min_part * length - SHORTEST_SECONDS <= seconds <= length + _slack(length)
    is_whole = seconds >= start + min_part * length - SHORTEST_SECONDS
    if not is_cut and not is_whole:
        return None, f"{seconds:.2f} s long, neither the segment ({length:g} s) nor a source of at least {end:g} s"
    if not (is_cut and is_whole and start):
        return (0.0 if is_cut else start), ""
    is_cut = abs(seconds - length) < abs(seconds - end)
    guess = "the segment" if is_cut else "the whole source"
    return (0.0 if is_cut else start), f"{seconds:.2f} s long, taken for {guess}, but may be either"


def _slack(seconds: float) -> float:
    return max(SLACK_SECONDS, SLACK_PART * seconds)
