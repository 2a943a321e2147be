"""The memory of points: bounded, in segments, honest about what it forgot."""

from __future__ import annotations

import numpy as np
import pytest

from collectors.seen import SeenPoints


def _add(seen: SeenPoints, *points: tuple[int, int]) -> None:
    seen.add(np.array([p for p, _ in points], np.uint64), np.array([t for _, t in points], np.int64))


def _known(seen: SeenPoints, *hashes: int) -> list[bool]:
    return [bool(known) for known in seen.contains(np.array(hashes, np.uint64))]


@pytest.mark.parametrize("sealed", [False, True])
def test_what_was_added_is_known(sealed: bool) -> None:
    """In the open segment and in a closed one alike."""
    seen = SeenPoints(100, 0)
    _add(seen, (5, 10), (2**64 - 1, 11))
    _add(seen, (3, 9))
    if sealed:
        segment, forgotten = seen.seal(12, 100)
        assert segment is not None and (segment.time_ns_max, forgotten) == (11, 0)
    assert _known(seen, 5, 3, 2**64 - 1, 4, 0) == [True, True, True, False, False]


def test_segments_older_than_the_lateness_are_forgotten() -> None:
    """The horizon says up to which time repeats are no longer known."""
    seen = SeenPoints(100, 0)
    _add(seen, (1, 10))
    seen.seal(10, 50)
    _add(seen, (2, 40))
    assert seen.seal(60, 50)[1] == 0
    assert seen.seal(61, 50) == (None, 1)
    assert (_known(seen, 1, 2), seen.horizon_ns) == ([False, True], 10)


def test_too_many_points_push_the_oldest_out() -> None:
    """The bound holds at every flush, and the horizon rises with what goes."""
    seen = SeenPoints(10, 0)
    for flush in range(5):
        _add(seen, *((flush * 4 + i + 1, flush * 100 + i) for i in range(4)))
        seen.seal(flush * 100, 10**9)
        assert len(seen) <= 10
    assert _known(seen, 12, 13, 20) == [False, True, True]
    assert seen.horizon_ns == 203


def test_too_many_points_within_one_flush_are_bounded_too() -> None:
    """A long flush cannot fill the memory: the oldest of its points go, and the horizon owns up to it."""
    seen = SeenPoints(10, 0)
    for part in range(100):
        _add(seen, *((part * 4 + i + 1, part) for i in range(4)))
        assert len(seen) <= 10
    assert _known(seen, 1, 400) == [False, True]
    assert seen.horizon_ns >= 97
    _add(seen, *((1000 + i, 200) for i in range(50)))
    assert len(seen) <= 10 and seen.horizon_ns == 200


def test_restored_segments_are_known() -> None:
    """What a flush closed and a restart brings back is what it was."""
    seen = SeenPoints(100, 0)
    _add(seen, (9, 10), (4, 11))
    segment, _ = seen.seal(12, 100)
    assert segment is not None
    again = SeenPoints(100, 7)
    again.restore(segment)
    assert (_known(again, 9, 4, 5), len(again), again.horizon_ns) == ([True, True, False], 2, 7)
