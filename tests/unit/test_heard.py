"""Signs of life: what of late and of early points a cluster's heartbeats tell."""

from __future__ import annotations

import numpy as np

from catchment.windows import NANOSECONDS as NS
from collectors.heard import Heard, SignsOfLife

MINUTE = 60 * NS
NOW = 1_000_000 * MINUTE


def signs() -> SignsOfLife:
    """Signs of life in minutes, points of the last hour included."""
    return SignsOfLife(window_seconds=60, late_seconds=3600)


def test_points_are_a_sign_of_life_in_their_own_window_unless_it_is_too_old_or_not_over() -> None:
    """Late points vouch for their window with the labels of the latest request; others leave it as it is."""
    found = signs()
    found.hear(7, Heard('{"zone":"a"}', NOW - 2 * MINUTE, "p1"))
    found.hear(7, Heard('{"zone":"b"}', NOW + 5, "p2"))
    windows = [NOW - 60 * MINUTE, NOW - 61 * MINUTE, NOW - 2 * MINUTE, NOW, NOW + 9 * MINUTE]
    found.points(np.full(5, 7), np.array(windows))
    assert found.drain(NOW + 10) == {
        (7, NOW): Heard('{"zone":"b"}', NOW + 5, "p2"),
        (7, NOW - 2 * MINUTE): Heard('{"zone":"a"}', NOW - 2 * MINUTE, "p1"),
    }
    found.points(np.array([7, 7]), np.array([NOW - 60 * MINUTE] * 2))
    found.hear(7, Heard('{"zone":"b"}', NOW + 6, "p2"))
    assert found.drain(NOW)[7, NOW - 60 * MINUTE] == Heard('{"zone":"b"}', NOW - 59 * MINUTE - 1, "p2")
    assert found.drain(NOW) == {}


def test_what_a_failed_flush_drained_comes_with_the_next_one() -> None:
    """Put back, signs of life of late points keep their windows."""
    found = signs()
    found.points(np.array([1]), np.array([NOW - 5 * MINUTE]))
    drained = found.drain(NOW)
    assert list(drained) == [(1, NOW - 5 * MINUTE)]
    found.put_back(drained)
    assert found.drain(NOW) == drained
