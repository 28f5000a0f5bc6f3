import numpy as np
import pytest

from mbt_lightning.data import sampling
from mbt_lightning.errors import UserError


def test_frame_times_are_equal_steps_that_leave_the_end_out():
    np.testing.assert_allclose(sampling.frame_times(1.5, 8.0, 4), [1.5, 3.5, 5.5, 7.5])
    np.testing.assert_allclose(sampling.frame_times(0.0, 2.0, 1), [0.0])


@pytest.mark.parametrize("window, count, text", [(0, 8, "window_seconds is 0"), (1.0, 0, "num_frames is 0")])
def test_frame_times_refuse_what_is_not_positive(window, count, text):
    with pytest.raises(UserError, match=text):
        sampling.frame_times(0.0, window, count)


def test_the_picture_on_display_is_the_last_one_shown_by_then():
    shown = np.array([0.0, 0.04, 0.5, 0.54])
    times = np.array([0.0, 0.039, 0.04, 0.3, 0.49, 0.5, 9.0])
    #                            0.039 is within a millisecond of 0.04: containers round that much
    assert sampling.frames_on_display(times, shown).tolist() == [0, 1, 1, 1, 1, 2, 3]
    assert sampling.frames_on_display(np.array([0.038]), shown).tolist() == [0]
    assert sampling.frames_on_display(np.array([-1.0]), shown).tolist() == [0]


def test_a_random_start_keeps_the_window_inside_the_clip():
    assert sampling.random_start(10.0, 8.0, 0.0) == 0.0
    assert sampling.random_start(10.0, 8.0, 0.5) == pytest.approx(1.0)
    assert sampling.random_start(10.0, 8.0, 0.999999) < 2.0
    assert sampling.random_start(3.0, 8.0, 0.7) == 0.0
    with pytest.raises(UserError, match=r"u is 1\.0; it must be in"):
        sampling.random_start(10.0, 8.0, 1.0)


def test_centre_start():
    assert sampling.centre_start(10.0, 8.0) == pytest.approx(1.0)
    assert sampling.centre_start(3.0, 8.0) == 0.0


def test_views_cover_the_clip_from_end_to_end():
    assert sampling.view_starts(10.0, 8.0, 4) == pytest.approx([0, 2 / 3, 4 / 3, 2])
    assert sampling.view_starts(10.0, 8.0, 2) == pytest.approx([0, 2])
    assert sampling.view_starts(10.0, 8.0, 1) == pytest.approx([1])
    assert sampling.view_starts(5.0, 8.0, 3) == [0, 0, 0]
    with pytest.raises(UserError, match="num_views is 0"):
        sampling.view_starts(10.0, 8.0, 0)


@pytest.mark.parametrize(
    "available, wanted, indices",
    [
        (4, 2, [1, 3, 3]),  # one more than asked for, the last twice
        (8, 2, [3, 5, 7]),
        (32, 8, [4, 7, 11, 14, 18, 21, 25, 28]),
        (32, 4, [6, 13, 19, 26]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 8, [0, 1, 2]),
    ],
)
def test_the_authors_indices_with_their_oddities(available, wanted, indices):
    assert sampling.authors_frame_indices(available, wanted) == indices


def test_the_authors_indices_may_be_one_too_many():
    assert len(sampling.authors_frame_indices(32, 6)) == 7


def test_indices_refuse_counts_below_one():
    with pytest.raises(UserError, match="num_frames_available is 0; it must be 1 or more"):
        sampling.authors_frame_indices(0, 4)
    with pytest.raises(UserError, match="num_wanted is 0; it must be 1 or more"):
        sampling.authors_frame_indices(4, 0)
