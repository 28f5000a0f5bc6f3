"""The frames of a file at given times, from one of several decoders that all give the same pixels.

A `FrameReader` is one decoder: it reports whether it works on this machine and which files it cannot handle, and reads
frames. `DECODERS` lists the readers in the order in which they are tried. Their pixels are equal, except for 10-bit,
interlaced and odd-sized video, where their FFmpegs convert colours differently, by 0.5 of 255 on average.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbt_lightning.data import sampling
from mbt_lightning.data.media.probe import ClipError, MediaInfo, StreamQuirk, Track, best_stream, open_media
from mbt_lightning.errors import UserError, one_line

MAX_SHIFT_SECONDS = 0.5
# The formats for which decord and torchcodec were measured to be correct; PyAV reads the others.
CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}
Frames = tuple[NDArray[np.uint8], NDArray[np.float64]]  # (T, H, W, 3), and (T,) when each is shown


class FrameReader:
    """A video decoder. To add one: derive a class, and add it to `DECODERS`."""

    name: str
    fix = ""
    """How to make it work."""

    def why_not(self) -> str:
        """Why it cannot work on this machine, or ""."""
        return ""

    def version(self) -> str:
        """Its version and that of its FFmpeg."""
        raise NotImplementedError

    def problem(self, info: MediaInfo) -> str:
        """Why it cannot be used for this file, or ""."""
        return ""

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:
        """The frames at ascending indices into `video.seconds`, upright, and when each is shown.

        Raises:
            ClipError: it fails, or its number or times of frames differ from those of `probe`.
        """
        raise NotImplementedError


class Decord(FrameReader):
    """decord rotates frames itself, and has its own FFmpeg 4.1."""

    name = "decord"
    fix = "pip install decord (x86-64 Linux and Windows only)"
    codecs = ("h264", "hevc", "vp8", "vp9", "mpeg4")
    # Beyond this its own listing of all packets, at each opening, takes longer than decoding.
    max_frames = 10_000

    def why_not(self) -> str:
        try:
            import decord
        except Exception as error:
            return _why_no_import("decord", error)
        # DECORD_EOF_RETRY_MAX stays at decord's 10240: with 128 every fifth request to a good clip failed, and with
        # 10240 a damaged one still takes less than 0.1 s.
        decord.logging.set_level(decord.logging.QUIET)
        return ""

    def version(self) -> str:
        import decord

        return decord.__version__

    def problem(self, info: MediaInfo) -> str:
        assert info.video is not None
        if info.container not in CONTAINERS:
            return f"container {info.container}"
        if info.video.codec not in self.codecs:
            return f"codec {info.video.codec}"
        if len(info.video.seconds) > self.max_frames:
            return "a long file"
        return next(iter(info.quirks), "")

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:
        import decord

        try:
            # Created and dropped here: a reader that lives longer hangs when a DataLoader forks.
            reader = decord.VideoReader(info.path, ctx=decord.cpu(0), num_threads=1)
            _check_count(info, video, self.name, len(reader))
            return reader.get_batch(indices.tolist()).asnumpy(), video.seconds[indices]
        except ClipError:
            raise
        except Exception as error:  # decord's own error is a bare Exception
            raise ClipError(info.path, f"decord cannot decode it ({type(error).__name__})") from error


class Torchcodec(FrameReader):
    """torchcodec rotates frames itself, with the system's FFmpeg."""

    name = "torchcodec"
    fix = (
        'pip install "mbt-lightning[torchcodec]" and FFmpeg 4 to 9 with its shared libraries (e.g. apt install ffmpeg)'
    )
    # With these its frames are wrong or missing, or it shows what PyAV refuses; edit lists and open groups are fine.
    untrusted = (
        StreamQuirk.HIDDEN,
        StreamQuirk.UNTIMED,
        StreamQuirk.DAMAGED,
        StreamQuirk.NO_KEY,
        StreamQuirk.OTHER_TRACK,
    )

    def why_not(self) -> str:
        try:
            import torchcodec
        except RuntimeError:  # of older versions
            return "torchcodec finds no usable FFmpeg"
        except Exception as error:
            return _why_no_import("torchcodec", error)
        return "" if torchcodec.ffmpeg_major_version else "torchcodec finds no usable FFmpeg"

    def version(self) -> str:
        import torchcodec

        return f"{torchcodec.__version__} on FFmpeg {torchcodec.ffmpeg_major_version}"

    def problem(self, info: MediaInfo) -> str:
        if info.container not in CONTAINERS:
            return f"container {info.container}"
        return next((quirk for quirk in info.quirks if quirk in self.untrusted), "")

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:
        from torchcodec.decoders import VideoDecoder

        try:
            # Its approximate mode assumes a constant frame rate.
            reader = VideoDecoder(
                info.path, dimension_order="NHWC", num_ffmpeg_threads=1, device="cpu", seek_mode="exact"
            )
            _check_count(info, video, self.name, len(reader))
            # By number: requests by time fail in the last frame if the file does not declare its length.
            frames = reader.get_frames_at(indices.tolist())
        except ClipError:
            raise
        except Exception as error:
            raise ClipError(info.path, f"torchcodec cannot decode it ({type(error).__name__})") from error
        seconds = frames.pts_seconds.numpy() - info.origin
        if np.abs(seconds - video.seconds[indices]).max() > sampling.TOLERANCE_SECONDS:
            raise ClipError(info.path, "torchcodec returns other frames than the requested ones")
        return frames.data.numpy(), seconds


class PyAV(FrameReader):
    """PyAV, which finds frames by their times: a seek to each group, or all from the start if seeking fails."""

    name = "pyav"

    def version(self) -> str:
        import av

        names = "libavformat", "libavcodec", "libswscale"
        libraries = ", ".join(f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in names)
        return f"{av.__version__} with {libraries}"

    def read(self, info: MediaInfo, video: Track, indices: NDArray[np.intp]) -> Frames:
        times = video.seconds[indices]
        try:
            return _decode_frames(info, video, times, seek=not video.is_counted)
        except ClipError:
            # Seeks in MPEG-TS land late, and a frame after a seek may lack its reference: sequential reading decides.
            return _decode_frames(info, video, times, seek=False)


DECODERS: dict[str, tuple[FrameReader, ...]] = {
    "auto": (Decord(), PyAV()),
    "decord": (Decord(), PyAV()),
    "torchcodec": (Torchcodec(), PyAV()),
    "pyav": (PyAV(),),
}
"""The values of `decoder`: readers in the order in which they are tried; the error of the last one counts."""


def check_decoder(decoder: str) -> None:
    """Raise UserError for a decoder that does not exist, or that is named but does not work here."""
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
            continue  # the last reader's error counts
    else:
        frames, seconds = last.read(info, video, indices)
    if len(back) > len(indices):  # a held frame is repeated
        frames, seconds = frames[back], seconds[back]
    return _with_square_pixels(torch.from_numpy(frames), video), torch.from_numpy(seconds)


def _with_square_pixels(frames: Tensor, video: Track) -> Tensor:
    """Frames (T, H, W, 3) as they are shown: stored pixels that are not square are widened or narrowed."""
    if video.aspect == 1:
        return frames
    height, width = frames.shape[1:3]
    is_upright = (height, width) == (video.height, video.width)  # else it was rotated by a quarter
    shape = (height, round(width * video.aspect)) if is_upright else (round(height * video.aspect), width)
    pixels = frames.permute(0, 3, 1, 2).float()
    shown = torch.nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
    return shown.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _why_no_import(package: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{package} is not installed"
    return f"{package} cannot be imported ({one_line(f'{type(error).__name__}: {error}')[:200]})"


def _check_count(info: MediaInfo, video: Track, name: str, count: int) -> None:
    if count != len(video.seconds):
        raise ClipError(info.path, f"{name} counts {count} frames, not {len(video.seconds)}")


def _decode_frames(info: MediaInfo, video: Track, times: NDArray[np.float64], seek: bool) -> Frames:
    """For each of the ascending times the frame on display, and when it is first shown."""
    # Without seeking, a neighbour replaces a frame that was never there (at the open end of a broadcast recording).
    max_shift = sampling.TOLERANCE_SECONDS if seek else MAX_SHIFT_SECONDS
    images, seconds = [], []
    with open_media(info.path) as container:
        stream = best_stream(container, "video")
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        lost: set[float] = set()  # times of packets that cannot be decoded, or that may refer to one
        decoded = _timed(container, stream, info, video, lost)
        shown, ahead = None, None
        for time in times:
            keys = video.key_seconds[video.key_seconds <= time + sampling.TOLERANCE_SECONDS]
            if seek and len(keys) > 1 and (shown is None or keys[-1] > shown[1]):
                container.seek(round((info.origin + keys[-1]) / stream.time_base), stream=stream)
                decoded, shown, ahead = _timed(container, stream, info, video, lost), None, None
            # The last frame shown by `time`; an exact match needs no look at the next one.
            while shown is None or shown[1] < time - sampling.TOLERANCE_SECONDS:
                ahead = ahead or next(decoded, None)
                if ahead is None or ahead[1] > time + sampling.TOLERANCE_SECONDS:
                    break
                shown, ahead = ahead, None
            nearest = shown or ahead
            shift = math.inf if nearest is None else abs(nearest[1] - time)
            if nearest is None or shift > (sampling.TOLERANCE_SECONDS if lost else max_shift):
                raise ClipError(info.path, f"the frame at {time:.3f} s cannot be decoded")
            if nearest[0].is_corrupt or nearest[1] in lost:
                raise ClipError(info.path, f"the frame at {time:.3f} s is damaged")
            images.append(_upright(nearest[0], video))
            seconds.append(nearest[1])
        return np.stack(images), np.array(seconds)


def _timed(container: Any, stream: Any, info: MediaInfo, video: Track, lost: set[float]) -> Iterator[tuple[Any, float]]:
    """The decoded frames from here on, each with its time on the clip's time line.

    A damaged packet is passed over; its time and those of the packets that may refer to it, up to the next key frame,
    are added to `lost`.
    """
    number, is_damaged = 0, False
    for packet in container.demux(stream):
        is_damaged = is_damaged and not packet.is_keyframe
        frames: list[Any] = []
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if video.is_counted:
                raise  # the numbers of later frames are not known
            is_damaged = True
        if is_damaged and packet.pts is not None:
            lost.add(_seconds(packet.pts, stream, info))
        for frame in frames:
            ticks = frame.pts if frame.pts is not None else frame.dts
            if video.is_counted:
                if number < len(video.seconds):
                    yield frame, float(video.seconds[number])
                number += 1
            elif ticks is not None:
                yield frame, _seconds(ticks, stream, info)


def _seconds(ticks: int, stream: Any, info: MediaInfo) -> float:
    return float(ticks * stream.time_base) - info.origin


def _upright(frame: Any, video: Track) -> NDArray[np.uint8]:
    """A decoded frame as RGB of the declared size, rotated by its display matrix."""
    image = frame.to_ndarray(format="rgb24", width=video.width, height=video.height)
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
