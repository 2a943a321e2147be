"""The table of lives: chains of siblings, eviction, floors, the arena, and saving."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from collectors.life_table import restore, to_table, touched_lives
from collectors.lives import DTYPES, NEVER_NS, Lives


def _add(lives: Lives, *pairs: tuple[int, int], series: int = 0) -> list[int]:
    ids = np.array([stream for stream, _ in pairs], np.uint64)
    starts = np.array([start for _, start in pairs], np.int64)
    return [int(row) for row in lives.add(ids, starts, np.full(len(pairs), series, np.int32))]


def _find(lives: Lives, *pairs: tuple[int, int]) -> list[int]:
    ids = np.array([stream for stream, _ in pairs], np.uint64)
    return [int(row) for row in lives.find(ids, np.array([start for _, start in pairs], np.int64))]


def _see(lives: Lives, rows: list[int], times: list[int]) -> None:
    lives.columns.time_ns[rows] = times
    lives.columns.touched[rows] = True


@pytest.mark.parametrize("seed", range(5))
def test_lives_are_found_by_stream_and_start(seed: int) -> None:
    """Added in any batches, several of one stream in one batch included, each is found and no other."""
    rng = Random(seed)
    lives, expected = Lives(0), dict[tuple[int, int], int]()
    pairs = [(stream * 7919 + 1, start) for stream in range(300) for start in range(rng.randint(1, 6))]
    rng.shuffle(pairs)
    while pairs:
        batch = [pairs.pop() for _ in range(min(len(pairs), rng.choice((1, 10, 400))))]
        expected.update(zip(batch, _add(lives, *batch), strict=True))
    assert _find(lives, *expected) == list(expected.values())
    assert _find(lives, (1, 99), (2, 0), (7, 0)) == [-1, -1, -1]
    assert sorted(expected.values()) == list(range(len(lives)))


def test_a_new_row_starts_clean() -> None:
    """Rows of lives that were evicted leave nothing to those that come after."""
    lives = Lives(0)
    rows = _add(lives, (1, 5), (2, 6))
    for name in DTYPES:
        getattr(lives.columns, name)[rows] = 1
    lives.evict(np.zeros(2, np.bool_))
    (row,) = _add(lives, (3, 7), series=4)
    values = {name: getattr(lives.columns, name)[row] for name in DTYPES}
    assert (values.pop("stream_id"), values.pop("start_ns"), values.pop("series")) == (3, 7, 4)
    assert (values.pop("time_ns"), values.pop("next_life")) == (NEVER_NS, -1)
    assert not any(values.values())


def test_the_sibling_idle_longest_goes_and_leaves_its_start_as_floor() -> None:
    """Beyond the limit the idlest is dead, not found, and its start is a floor for its stream alone."""
    lives = Lives(0)
    rows = _add(lives, (1, 10), (1, 20), (1, 30), (2, 15))
    _see(lives, rows, [300, 100, 200, 50])
    lives.limit_siblings(2)
    assert _find(lives, (1, 10), (1, 20), (1, 30), (2, 15)) == [rows[0], -1, rows[2], rows[3]]
    assert lives.columns.floor_ns[rows].tolist()[0::2] == [20, 20]
    assert lives.columns.floor_ns[rows[3]] == 0
    assert lives.known_since_ns == 0
    assert lives.any_dead
    (later,) = _add(lives, (1, 40))
    assert lives.columns.floor_ns[later] == 20


def test_a_life_whose_first_point_is_on_its_way_is_not_evicted() -> None:
    """A point that is staged would find its life gone, and be lost: such lives stay until they were counted."""
    lives = Lives(0)
    rows = _add(lives, *((1, start) for start in range(5)))
    lives.limit_siblings(2)
    assert _find(lives, *((1, start) for start in range(5))) == rows
    _see(lives, rows, [1, 2, 3, 4, 5])
    lives.limit_siblings(2)
    assert _find(lives, *((1, start) for start in range(5))) == [-1, -1, -1, rows[3], rows[4]]


def test_a_dead_row_raises_known_since_only_with_its_whole_stream() -> None:
    """While a sibling remembers the floor, the collector need not; when the last one goes, it must."""
    lives = Lives(0)
    rows = _add(lives, (1, 10), (1, 20))
    _see(lives, rows, [200, 100])
    lives.limit_siblings(1)
    lives.evict(np.array([True, False]))
    assert (lives.known_since_ns, len(lives), lives.any_dead) == (0, 1, False)
    lives.evict(np.array([False]))
    assert lives.known_since_ns == 20


def test_a_dead_row_that_is_still_named_is_not_found_again() -> None:
    """An eviction that must keep a dead row for points on their way leaves it out of the chains."""
    lives = Lives(0)
    rows = _add(lives, (1, 10), (1, 20), (2, 5))
    _see(lives, rows, [100, 200, 300])
    lives.limit_siblings(1)
    again = _add(lives, (1, 10))
    moved = lives.evict(np.array([True, True, False, True]))
    assert lives.any_dead
    assert _find(lives, (1, 10), (1, 20)) == [moved[again[0]], moved[rows[1]]]
    lives.evict(np.array([True, False, False]))
    assert _find(lives, (1, 10), (1, 20)) == [-1, -1]


def test_a_life_without_points_leaves_known_since() -> None:
    """What was never counted cannot be counted twice."""
    lives = Lives(5)
    _add(lives, (1, 100))
    lives.evict(np.array([False]))
    assert lives.known_since_ns == 5


def test_many_lives_of_one_stream_in_one_batch_take_no_more_than_linear_time() -> None:
    """A hostile request with 200,000 starts of one stream is linked and limited like any other."""
    lives = Lives(0)
    rows = _add(lives, *((1, start) for start in range(200_000)))
    _see(lives, rows, list(range(200_000)))
    lives.limit_siblings(8)
    assert _find(lives, (1, 199_991), (1, 199_992), (1, 199_999)) == [-1, rows[-8], rows[-1]]


@pytest.mark.parametrize("seed", range(5))
def test_eviction_keeps_the_rest_as_it_was(seed: int) -> None:
    """Rows move, chains are linked anew, baselines stay theirs."""
    rng = Random(seed)
    lives = Lives(0)
    pairs = [(rng.randint(1, 40), start) for start in range(200)]
    rows = np.array(_add(lives, *pairs))
    offsets = np.arange(201) * 3
    lives.set_buckets(rows, offsets, np.arange(600), np.arange(600, dtype=np.uint64))
    keep = np.array([rng.random() < 0.5 for _ in rows])
    moved = lives.evict(keep)
    assert len(lives) == keep.sum()
    found = _find(lives, *pairs)
    assert found == moved.tolist()
    kept = np.flatnonzero(keep)
    _, keys, counts = lives.buckets(moved[kept].astype(np.intp))
    assert keys.tolist() == [3 * row + i for row in kept.tolist() for i in range(3)]
    assert counts.tolist() == keys.tolist()


def test_the_arena_is_bounded() -> None:
    """Baselines replaced over and over take no more than a few times their own room."""
    lives = Lives(0)
    rows = np.array(_add(lives, *((stream, 0) for stream in range(1, 101))))
    for turn in range(200):
        offsets = np.arange(101) * 20
        lives.set_buckets(rows, offsets, np.arange(2000) + turn, np.ones(2000, np.uint64))
    assert len(lives.arena_keys) <= 4 * 2000
    assert lives.buckets(rows)[1].tolist() == (np.arange(2000) + 199).tolist()


def test_baselines_that_begin_anew_give_their_room_back() -> None:
    """What policy takes again, once for each of its raw keys, has as much room for baselines as before."""
    lives = Lives(0, baseline_buckets_max=10)
    rows = np.array(_add(lives, (1, 0), (2, 0)))
    for _ in range(3):
        lives.set_buckets(rows, np.array([0, 5, 10]), np.arange(10), np.ones(10, np.uint64))
        assert lives.buckets(rows)[0].tolist() == [0, 5, 10]
        lives.take_again(rows[[0, 0, 1]].astype(np.int32), np.ones(3, np.bool_))
        assert lives.buckets(rows)[0].tolist() == [0, 0, 0]


def test_saving_and_restoring_gives_the_same_lives() -> None:
    """All that matters survives; of several saved rows of one life the last stands."""
    lives = Lives(0)
    rows = np.array(_add(lives, (1, 10), (1, 20), (2**64 - 1, 0)))
    lives.set_buckets(rows, np.array([0, 2, 2, 3]), np.array([-5, 7, 9]), np.array([1, 2**63, 3], np.uint64))
    _see(lives, rows.tolist(), [100, 200, 300])
    first = to_table(lives, rows)
    lives.columns.value_int[1], lives.columns.floor_ns[1] = -(2**63), 9
    lives.set_buckets(rows[1:2], np.array([0, 1]), np.array([11]), np.array([4], np.uint64))
    again = Lives(0)
    restore(again, [first, to_table(lives, rows[1:2])])
    found = _find(again, (1, 10), (1, 20), (2**64 - 1, 0))
    assert sorted(found) == [0, 1, 2]
    state = again.columns
    assert state.time_ns[found].tolist() == [100, 200, 300]
    assert (state.value_int[found[1]], state.floor_ns[found[1]]) == (-(2**63), 9)
    offsets, keys, counts = again.buckets(np.array(found))
    assert (offsets.tolist(), keys.tolist(), counts.tolist()) == ([0, 2, 3, 4], [-5, 7, 11, 9], [1, 2**63, 4, 3])


def test_a_dead_life_that_still_changed_is_saved() -> None:
    """Points staged before an eviction still move the dead row: its older state must not come back after a restart."""
    lives = Lives(0)
    rows = _add(lives, (1, 10), (1, 20))
    _see(lives, rows, [100, 200])
    before = to_table(lives, np.array(rows))
    lives.columns.touched[:] = False
    lives.limit_siblings(1)
    lives.columns.value_int[rows[0]] = 12
    _see(lives, rows[:1], [250])
    again = Lives(0)
    restore(again, [before, to_table(lives, touched_lives(lives))])
    (found,) = _find(again, (1, 10))
    assert (again.columns.time_ns[found], again.columns.value_int[found]) == (250, 12)
    assert again.columns.floor_ns[_find(again, (1, 20))].tolist() == [10]


def test_restoring_nothing_is_an_empty_table() -> None:
    """A folder just born has no lives."""
    lives = Lives(3)
    restore(lives, [])
    assert (len(lives), lives.known_since_ns, _find(lives, (1, 0))) == (0, 3, [-1])
