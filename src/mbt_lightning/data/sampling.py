"""Which frames and which window of a clip: plain arithmetic on seconds and indices, no files.

All times are in seconds on the clip's time line, where 0 is its first frame (see `records.Clip`). A function that
needs chance takes the drawn number, so that the same draw always gives the same window.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from mbt_lightning.errors import UserError

# Containers round times (Matroska to whole milliseconds): a frame counts as on display this much too early.
TOLERANCE_SECONDS = 1e-3


def chance(*source: object) -> random.Random:
    """A source of random numbers that depends only on what it is named after.

    Args:
        source: what the draw is for, and the numbers it may depend on, e.g. `("window", seed, epoch, index)`.
    """
    return random.Random(" ".join(map(str, source)))


def frame_times(start_seconds: float, window_seconds: float, num_frames: int) -> NDArray[np.float64]:
    """The times at which a window is looked at: `num_frames` equal steps, the first at its start.

    Args:
        start_seconds: start of the window.
        window_seconds: its length; its end is not looked at.
        num_frames: how many times.

    Returns:
        float64 (T,) seconds.

    Raises:
        UserError: a length or a number that is not positive.
    """
    if not window_seconds > 0:
        raise UserError(f"window_seconds is {window_seconds}; it must be above 0 seconds.")
    if num_frames < 1:
        raise UserError(f"num_frames is {num_frames}; it must be 1 or more.")
    return start_seconds + np.arange(num_frames, dtype=np.float64) * (window_seconds / num_frames)


def frames_on_display(times: NDArray[np.float64], presentation_seconds: NDArray[np.float64]) -> NDArray[np.intp]:
    """The frame on display at each time: the last one that was presented by then.

    Args:
        times: (T,) seconds.
        presentation_seconds: (F,) when each frame is first shown, rising; F is 1 or more.

    Returns:
        (T,) indices into `presentation_seconds`; before the first frame the first, after the last the last.
    """
    assert len(presentation_seconds) > 0, "a table without frames"
    return np.maximum(np.searchsorted(presentation_seconds, times + TOLERANCE_SECONDS, side="right") - 1, 0)


def random_start(duration_seconds: float, window_seconds: float, u: float) -> float:
    """A start drawn evenly from all windows inside the clip.

    Args:
        duration_seconds: length of the clip or of its labelled segment.
        window_seconds: length of the window.
        u: the drawn number, from 0 to just below 1.

    Returns:
        Seconds from the start of the clip or segment; 0 where it is shorter than the window.
    """
    if not 0 <= u < 1:
        raise UserError(f"u is {u}; it must be a number from 0 to just below 1.")
    return u * max(0.0, duration_seconds - window_seconds)


def centre_start(duration_seconds: float, window_seconds: float) -> float:
    """The start that puts the window into the middle of the clip; 0 where the clip is shorter than the window.

    Args:
        duration_seconds: length of the clip or of its labelled segment.
        window_seconds: length of the window.
    """
    return max(0.0, duration_seconds - window_seconds) / 2


def view_starts(duration_seconds: float, window_seconds: float, num_views: int) -> list[float]:
    """The starts of several windows that cover the clip evenly: the first starts with it, the last ends with it.

    One view is in the middle; views of a clip that is shorter than the window all start at 0.

    Args:
        duration_seconds: length of the clip or of its labelled segment.
        window_seconds: length of each window.
        num_views: how many windows.

    Raises:
        UserError: fewer than one view.
    """
    if num_views < 1:
        raise UserError(f"num_views is {num_views}; it must be 1 or more.")
    if num_views == 1:
        return [centre_start(duration_seconds, window_seconds)]
    room = max(0.0, duration_seconds - window_seconds)
    return [room * view / (num_views - 1) for view in range(num_views)]


def uniform_frame_indices(num_frames_available: int, num_wanted: int) -> list[int]:
    """Indices of `num_wanted` frames, one from the middle of each of as many equal parts of the clip.

    Args:
        num_frames_available: frames in the clip.
        num_wanted: frames wanted; if these are more than there are, some come twice.
    """
    _check_counts(num_frames_available, num_wanted)
    return [(2 * i + 1) * num_frames_available // (2 * num_wanted) for i in range(num_wanted)]


def authors_frame_indices(num_frames_available: int, num_wanted: int) -> list[int]:
    """Indices as the MBT authors' released `temporal_sampling` chooses them, oddities kept.

    They are arange(F/(n+1), F, F/(n+1)), rounded half to even in float32. How many steps such a range has depends on
    its own rounding, so that some pairs give one index more than was asked for (F=8, n=2 gives [3, 5, 7]), which may
    repeat the last frame (F=4, n=2 gives [1, 3, 3]). Where at least as many are wanted as there are, all come once,
    and none is repeated.

    Args:
        num_frames_available: frames in the clip, F.
        num_wanted: frames wanted, n.
    """
    _check_counts(num_frames_available, num_wanted)
    if num_wanted >= num_frames_available:
        return list(range(num_frames_available))
    step = num_frames_available / (num_wanted + 1)
    # As in jax.numpy.arange: the number of steps is computed in float64, their values in float32.
    steps = np.arange(step, num_frames_available, step, dtype=np.float32)
    last = num_frames_available - 1
    return [min(int(index), last) for index in np.round(steps)]


def _check_counts(num_frames_available: int, num_wanted: int) -> None:
    for name, count in {"num_frames_available": num_frames_available, "num_wanted": num_wanted}.items():
        if count < 1:
            raise UserError(f"{name} is {count}; it must be 1 or more.")
