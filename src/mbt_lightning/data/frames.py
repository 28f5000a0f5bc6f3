"""The pictures of a file at given times, by one of several decoders that all give the same pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbt_lightning.data import sampling
from mbt_lightning.data.probe import (
    ClipError,
    MediaInfo,
    Track,
    best_stream,
    open_media,
)

MAX_PICTURE_SHIFT_SECONDS = 0.5
Pictures = tuple[NDArray[np.uint8], NDArray[np.float64]]  # (T, H, W, 3), and (T,) when each is really shown
# A reader's arguments: the file, its stream of pictures, rising indices into `Track.seconds`.
FrameReader = Callable[[MediaInfo, Track, NDArray[np.intp]], Pictures]


def read_frames(info: MediaInfo, video: Track, times: NDArray[np.float64], decoder: str) -> tuple[Tensor, Tensor]:
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
    decord = find_decord()
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


def find_decord() -> Any:
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
    with open_media(info.path) as container:
        stream = best_stream(container, "video")
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
