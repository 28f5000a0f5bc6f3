"""Media file -> `Clip`. `read_clip` goes through four steps:

    probe   PyAV lists the packets of both streams: when each picture is shown, where the sound begins, what is wrong
    plan    the wanted times -> indices into that table (`sampling.frames_on_display`)
    frames  decord or torchcodec where they are known to be right, PyAV elsewhere; all give the same pixels
    sound   PyAV, placed by its timestamps on the pictures' time line

decord is fast, but by itself it numbers the pictures wrongly in MPEG-TS files and behind edit lists, leaks memory with
each sound track it opens, and forgets where the streams start. torchcodec cannot read MPEG-TS files, and counts hidden
pictures. So they never see sound, never decide about time, and only get files of the kinds in which they were measured
to be right (`FrameReader.problem`).

Whatever is wrong with a file comes out as a `ClipError`; nothing damaged is replaced by silence or a black picture.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mbt_lightning.data import sampling
from mbt_lightning.data.media.frames import check_decoder, read_frames
from mbt_lightning.data.media.probe import (
    STREAMS,
    ClipError,
    MediaInfo,
    Track,
    probe_once,
)
from mbt_lightning.data.media.sound import read_sound
from mbt_lightning.data.records import Clip
from mbt_lightning.errors import UserError


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
            PyAV. "decord": the same, but decord must be installed. "torchcodec": likewise, with torchcodec, which
            needs the system's FFmpeg. "pyav": always PyAV.
        audio_path: the file that holds the sound, with its own time line; None: the same file.
        audio_start_seconds: start of the sound's window; None: `start_seconds`.
        audio_window_seconds: its length; None: `window_seconds`.
        streams: which of "video" and "audio" are wanted; the others are not decoded.
        info: what `probe` found in one of the files earlier; None: probe now.

    Raises:
        ClipError: the file is damaged, missing or not media, has no wanted stream, or ends before the window starts.
        UserError: an argument out of its range, or a decoder that does not work here.
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
            known[os.fspath(file)] = probe_once(file)
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
        frames, frame_seconds, num_real_frames = read_video(
            video_info, start_seconds, window_seconds, num_frames, decoder
        )
    if audio_info and audio:
        waveform, real_samples = read_audio(audio_info, audio_start_seconds, audio_window_seconds, sample_rate)
    return Clip(frames, frame_seconds, num_real_frames, waveform, real_samples, sample_rate)


def read_video(
    info: MediaInfo, start_seconds: float, window_seconds: float, num_frames: int, decoder: str
) -> tuple[Tensor, Tensor, int]:
    """Frames at evenly spaced times of a window, uint8 (T, H, W, 3); when each is shown, (T,); how many are no padding.

    Args:
        info: what `probe` found in the file.
        start_seconds: start of the window on the clip's time line.
        window_seconds: its length.
        num_frames: how many frames, T.
        decoder: see `read_clip`.

    Raises:
        ClipError: no video stream, one that is damaged, or one that ends before the window starts.
    """
    video = _readable(info, info.video, "video", start_seconds)
    times = sampling.frame_times(start_seconds, window_seconds, num_frames)
    frames, frame_seconds = read_frames(info, video, times, decoder)
    return frames, frame_seconds, int(np.sum(times < video.end_seconds - sampling.TOLERANCE_SECONDS))


def read_audio(
    info: MediaInfo, start_seconds: float, window_seconds: float, sample_rate: int
) -> tuple[Tensor, tuple[int, int]]:
    """The waveform of a window, float32 (N,), and the first and last + 1 sample that are in the file.

    Args:
        info: what `probe` found in the file.
        start_seconds: start of the window on the clip's time line.
        window_seconds: its length.
        sample_rate: of the result, in Hz.

    Raises:
        ClipError: no audio stream, one that is damaged, or one that ends before the window starts.
    """
    audio = _readable(info, info.audio, "audio", start_seconds)
    return read_sound(info, audio, start_seconds, window_seconds, sample_rate)


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
    check_decoder(decoder)


def _readable(info: MediaInfo, track: Track | None, kind: str, start_seconds: float) -> Track:
    """The track; raises ClipError if there is none, if it is damaged, or if the clip ends before the window starts."""
    if track is None:
        raise ClipError(info.path, f"no {kind} stream")
    if track.problem:
        raise ClipError(info.path, track.problem)
    if start_seconds >= info.duration_seconds:
        end = f"the clip ends at {info.duration_seconds:.3f} s"
        raise ClipError(info.path, f"{end}, before the window starts at {start_seconds:g} s")
    return track
