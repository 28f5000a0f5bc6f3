"""The frames of a file at given times, by one of several decoders that all give the same pixels.

A `FrameReader` is one of them: it knows whether it works on this machine and which files it must not be used for, and
reads. `DECODERS` names the readers that are tried one after the other. Their pixels are equal, but for frames of 10
bits, interlaced ones and such of odd size, where their FFmpegs convert colours differently, by 0.5 of 255 on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbt_lightning.data import sampling
from mbt_lightning.data.media.probe import (
    ClipError,
    MediaInfo,
    StreamQuirk,
    Track,
    best_stream,
    open_media,
)
from mbt_lightning.errors import UserError, one_line

MAX_PICTURE_SHIFT_SECONDS = 0.5
# The kinds of files in which decord and torchcodec were measured to be right; other kinds are PyAV's.
CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}
Frames = tuple[NDArray[np.uint8], NDArray[np.float64]]  # (T, H, W, 3), and (T,) when each is really shown


class FrameReader:
    """A way to decode frames. To add one: derive a class, and name it in `DECODERS`."""

    name: str
    fix = ""
    """What to do if it does not work."""

    def why_not(self) -> str:
        """Why it cannot work on this machine, or ""."""
        return ""

    def version(self) -> str:
        """Its version and that of its FFmpeg, if known."""
        raise NotImplementedError

    def problem(self, info: MediaInfo) -> str:
        """Why it must not be trusted with this file, or ""."""
        return ""

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:
        """The frames at rising indices into `video.seconds`, upright, and when each is shown.

        Raises:
            ClipError: it fails, or its number or times of frames differ from those of `probe`.
        """
        raise NotImplementedError


class Decord(FrameReader):
    """decord, which turns frames upright by itself, and brings its own FFmpeg 4.1."""

    name = "decord"
    fix = "pip install decord (x86-64 Linux and Windows only)"
    codecs = ("h264", "hevc", "vp8", "vp9", "mpeg4")
    # From here on its own listing of all packets, at each opening, costs more than decoding.
    long_num_frames = 10_000

    def why_not(self) -> str:  # noqa: D102
        try:
            import decord
        except Exception as error:
            return _why_no_import("decord", error)
        # DECORD_EOF_RETRY_MAX stays at decord's 10240: with 128 it gave up on every fifth request to a good clip, and
        # with 10240 a damaged one still takes less than 0.1 s.
        decord.logging.set_level(decord.logging.QUIET)
        return ""

    def version(self) -> str:  # noqa: D102
        import decord

        return decord.__version__

    def problem(self, info: MediaInfo) -> str:  # noqa: D102
        assert info.video is not None
        if info.container not in CONTAINERS:
            return f"container {info.container}"
        if info.video.codec not in self.codecs:
            return f"codec {info.video.codec}"
        if len(info.video.seconds) > self.long_num_frames:
            return "a long file"
        return next(iter(info.quirks), "")

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:  # noqa: D102
        import decord

        try:
            # Made and dropped here: a reader that lives longer hangs once a DataLoader forks.
            reader = decord.VideoReader(info.path, ctx=decord.cpu(0), num_threads=1)
            _check_count(info, video, self.name, len(reader))
            return reader.get_batch(indices.tolist()).asnumpy(), video.seconds[indices]
        except ClipError:
            raise
        except Exception as error:  # decord's own error is a bare Exception
            raise ClipError(info.path, f"decord cannot decode it ({type(error).__name__})") from error


class Torchcodec(FrameReader):
    """torchcodec, which turns frames upright by itself, on the system's FFmpeg."""

    name = "torchcodec"
    fix = (
        'pip install "mbt-lightning[torchcodec]" and FFmpeg 4 to 9 with its shared libraries (e.g. apt install ffmpeg)'
    )
    # With these its frames are off or missing, or it shows what PyAV refuses; edit lists and open groups it decodes
    # correctly.
    untrusted = (StreamQuirk.HIDDEN, StreamQuirk.UNTIMED, StreamQuirk.DAMAGED, StreamQuirk.NO_KEY)

    def why_not(self) -> str:  # noqa: D102
        try:
            import torchcodec
        except RuntimeError:  # how older versions say it
            return "torchcodec finds no FFmpeg that it can use"
        except Exception as error:
            return _why_no_import("torchcodec", error)
        return "" if torchcodec.ffmpeg_major_version else "torchcodec finds no FFmpeg that it can use"

    def version(self) -> str:  # noqa: D102
        import torchcodec

        return f"{torchcodec.__version__} on FFmpeg {torchcodec.ffmpeg_major_version}"

    def problem(self, info: MediaInfo) -> str:  # noqa: D102
        if info.container not in CONTAINERS:
            return f"container {info.container}"
        return next((quirk for quirk in info.quirks if quirk in self.untrusted), "")

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:  # noqa: D102
        from torchcodec.decoders import VideoDecoder

        try:
            # Its approximate mode takes the frame rate for constant.
            reader = VideoDecoder(
                info.path, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
            )
            _check_count(info, video, self.name, len(reader))
            # By number, as asking for a time fails in the last frame if the file does not give its length.
            frames = reader.get_frames_at(indices.tolist())
        except ClipError:
            raise
        except Exception as error:
            raise ClipError(info.path, f"torchcodec cannot decode it ({type(error).__name__})") from error
        seconds = frames.pts_seconds.numpy() - info.origin
        if np.abs(seconds - video.seconds[indices]).max() > sampling.TOLERANCE_SECONDS:
            raise ClipError(info.path, "torchcodec returns other frames than it was asked for")
        return frames.data.numpy(), seconds


class PyAV(FrameReader):
    """PyAV, which finds frames by their times: a seek to each group, or all from the start if seeking fails."""

    name = "pyav"

    def version(self) -> str:  # noqa: D102
        import av

        names = "libavformat", "libavcodec", "libswscale"
        libraries = ", ".join(f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in names)
        return f"{av.__version__} with {libraries}"

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:  # noqa: D102
        wanted = video.seconds[indices]
        try:
            return _decode_frames(info, video, wanted, seek=not video.is_counted)
        except ClipError:
            # MPEG-TS lands late, and a frame after a seek may lack its reference: reading from the start decides.
            return _decode_frames(info, video, wanted, seek=False)


DECODERS: dict[str, tuple[FrameReader, ...]] = {
    "auto": (Decord(), PyAV()),
    "decord": (Decord(), PyAV()),
    "torchcodec": (Torchcodec(), PyAV()),
    "pyav": (PyAV(),),
}
"""Values of `decoder`: readers in the order in which they are tried; the last one's verdict on a file counts."""


def check_decoder(decoder: str) -> None:
    """Raise UserError for a decoder that does not exist, or that is asked for by name and does not work here."""
    if decoder not in DECODERS:
        raise UserError(f"decoder is {decoder!r}; it must be one of {', '.join(DECODERS)}.")
    first = DECODERS[decoder][0]
    if first.name == decoder and (why := first.why_not()):
        raise UserError(f"decoder is {decoder!r}, but {why}: {first.fix}; or use decoder: auto.")


def read_frames(info: MediaInfo, video: Track, times: NDArray[np.float64], decoder: str) -> tuple[Tensor, Tensor]:
    """The frames on display at `times`: uint8 (T, H, W, 3), and float64 (T,) when each is first shown."""
    indices, back = np.unique(sampling.frames_on_display(times, video.seconds), return_inverse=True)
    *preferred, last = DECODERS[decoder]
    for reader in preferred:
        if reader.problem(info) or reader.why_not():
            continue
        try:
            frames, seconds = reader.read(info, video, indices)
            break
        except ClipError:
            continue  # the last reader's verdict on the file counts
    else:
        frames, seconds = last.read(info, video, indices)
    if len(back) > len(indices):  # a repeated frame comes as often as it is shown
        frames, seconds = frames[back], seconds[back]
    return torch.from_numpy(frames), torch.from_numpy(seconds)


def _why_no_import(package: str, error: Exception) -> str:
    """Why a package does not import."""
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{package} is not installed here"
    return f"{package} does not import here ({one_line(f'{type(error).__name__}: {error}')[:200]})"


def _check_count(info: MediaInfo, video: Track, name: str, count: int) -> None:
    """Raise ClipError if a decoder counts another number of frames than are shown."""
    if count != len(video.seconds):
        raise ClipError(info.path, f"{name} counts {count} frames, not {len(video.seconds)}")


def _decode_frames(info: MediaInfo, video: Track, wanted: NDArray[np.float64], seek: bool) -> Frames:
    """For each of the rising times the frame on display, and when it is first shown."""
    # Without seeking a neighbour will do where a frame was never there (at the open end of a broadcast recording).
    max_shift = sampling.TOLERANCE_SECONDS if seek else MAX_PICTURE_SHIFT_SECONDS
    images, seconds = [], []
    with open_media(info.path) as container:
        stream = best_stream(container, "video")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        frames = _timed(container, stream, info, video)
        shown, ahead = None, None
        for time in wanted:
            keys = video.key_seconds[video.key_seconds <= time + sampling.TOLERANCE_SECONDS]
            if seek and len(keys) > 1 and (shown is None or keys[-1] > shown[1]):
                container.seek(round((info.origin + keys[-1]) / stream.time_base), stream=stream)
                frames, shown, ahead = _timed(container, stream, info, video), None, None
            # The last frame shown by `time`; one that matches needs no look at the next.
            while shown is None or shown[1] < time - sampling.TOLERANCE_SECONDS:
                ahead = ahead or next(frames, None)
                if ahead is None or ahead[1] > time + sampling.TOLERANCE_SECONDS:
                    break
                shown, ahead = ahead, None
            nearest = shown or ahead
            if nearest is None or abs(nearest[1] - time) > max_shift:
                raise ClipError(info.path, f"the frame at {time:.3f} s cannot be decoded")
            if nearest[0].is_corrupt:
                raise ClipError(info.path, f"the frame at {time:.3f} s is damaged")
            images.append(_upright(nearest[0], video))
            seconds.append(nearest[1])
        return np.stack(images), np.array(seconds)


def _timed(container: Any, stream: Any, info: MediaInfo, video: Track) -> Iterator[tuple[Any, float]]:
    """The decoded frames from here on, each with its time on the clip's time line."""
    for number, frame in enumerate(container.decode(stream)):
        ticks = frame.pts if frame.pts is not None else frame.dts
        if video.is_counted:
            if number < len(video.seconds):
                yield frame, float(video.seconds[number])
        elif ticks is not None:
            yield frame, float(ticks * stream.time_base) - info.origin


def _upright(frame: Any, video: Track) -> NDArray[np.uint8]:
    """A decoded frame as RGB of the size that the file declares, turned as its display matrix says."""
    image = frame.to_ndarray(format="rgb24", width=video.width, height=video.height)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
