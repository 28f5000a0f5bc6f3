"""Which frames and which window of a clip: arithmetic on seconds and indices, without files.

All times are in seconds on the clip's time line, where 0 is its first frame (see `records.Clip`). Random functions take
the drawn number as an argument, so the same draw always gives the same window.
"""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from mbt_lightning.errors import UserError

# Containers round times (Matroska to whole milliseconds): a frame counts as on display this much too early.
TOLERANCE_SECONDS = 1e-3


def chance(*source: object) -> random.Random:
    """A random number generator that depends only on the given values.

    Args:
        source: the purpose of the draw and the numbers it may depend on, e.g. `("window", seed, epoch, index)`.
    """
    return random.Random(" ".join(map(str, source)))


def frame_times(start_seconds: float, window_seconds: float, num_frames: int) -> NDArray[np.float64]:
    """`num_frames` equally spaced times in a window, the first at its start, none at its end: float64 (T,) seconds.

    Raises:
        UserError: a length or a number that is not positive.
    """
    if not window_seconds > 0:
        raise UserError(f"window_seconds is {window_seconds}; it must be above 0 seconds.")
    if num_frames < 1:
        raise UserError(f"num_frames is {num_frames}; it must be 1 or more.")
    return start_seconds + np.arange(num_frames, dtype=np.float64) * (window_seconds / num_frames)


def frames_on_display(times: NDArray[np.float64], presentation_seconds: NDArray[np.float64]) -> NDArray[np.intp]:
    """The frame on display at each time: the last one presented by then, or else the first.

    Args:
        times: (T,) seconds.
        presentation_seconds: (F,) start of each frame, ascending; F is 1 or more.

    Returns:
        (T,) indices into `presentation_seconds`.
    """
    assert len(presentation_seconds) > 0, "a table without frames"
    return np.maximum(np.searchsorted(presentation_seconds, times + TOLERANCE_SECONDS, side="right") - 1, 0)


def random_start(duration_seconds: float, window_seconds: float, u: float) -> float:
    """A start for `u` in [0, 1), uniform over all windows inside the clip; 0 if it is shorter than the window."""
    if not 0 <= u < 1:
        raise UserError(f"u is {u}; it must be in [0, 1).")
    return u * max(0.0, duration_seconds - window_seconds)


def centre_start(duration_seconds: float, window_seconds: float) -> float:
    """The start that centres the window in the clip or segment; 0 if it is shorter than the window."""
    return max(0.0, duration_seconds - window_seconds) / 2


def view_starts(duration_seconds: float, window_seconds: float, num_views: int) -> list[float]:
    """The starts of several windows that cover the clip evenly: the first starts with it, the last ends with it.

    One view is centred; views of a clip that is shorter than the window all start at 0.

    Raises:
        UserError: fewer than one view.
    """
    if num_views < 1:
        raise UserError(f"num_views is {num_views}; it must be 1 or more.")
    if num_views == 1:
        return [centre_start(duration_seconds, window_seconds)]
    room = max(0.0, duration_seconds - window_seconds)
    return [room * view / (num_views - 1) for view in range(num_views)]


def authors_frame_indices(num_frames_available: int, num_wanted: int) -> list[int]:
    """Indices as chosen by the MBT authors' released `temporal_sampling`, with its quirks.

    They are arange(F/(n+1), F, F/(n+1)), rounded half to even in float32, for F frames and n wanted ones. The number of
    steps of such a range depends on its own rounding, so some pairs give one index too many (F=8, n=2 gives [3, 5, 7]),
    which may repeat the last frame (F=4, n=2 gives [1, 3, 3]). If n is F or more, all frames come once.
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
