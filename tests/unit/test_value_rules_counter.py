"""The rows "counter", "first point", "delta" and "order" of the table of value rules."""

from __future__ import annotations

import random

import pytest

from catchment.limits import Limits
from tests.edge_harness import EdgeHarness, by_window, received, rows_of, total
from tests.otlp import DELTA, body, counter, gauge, ns, number

MAX = 2**63 - 1


def _sum(*points: tuple[float, float], start: float | None = 0.0, name: str = "hits", **attributes: str) -> bytes:
    return body(counter(name, *(number(time, value, start=start, attributes=attributes) for time, value in points)))


def _delta(*points: tuple[float, float, float], name: str = "hits", monotonic: bool = True) -> bytes:
    made = (number(time, value, start=start) for start, time, value in points)
    return body(counter(name, *made, temporality=DELTA, monotonic=monotonic))


def test_counter_becomes_its_increase() -> None:
    """Each point adds what the value rose by since the point before it, as an integer."""
    edge = EdgeHarness()
    edge.send(_sum((10, 5), (20, 7), (30, 7), (40, 20)), at=40)
    rows = edge.flush(41)
    assert len(rows) == 1
    assert (rows[0]["sum_int"], rows[0]["sum_float"], rows[0]["count"], rows[0]["points"]) == (20, 0.0, 4, 4)
    assert rows[0]["kind"] == "counter"
    assert edge.tally == {}


def test_counter_goes_on_across_flushes() -> None:
    """The baseline outlives the flush."""
    edge = EdgeHarness()
    edge.send(_sum((10, 5)), at=10)
    assert total(edge.flush(11), "hits", "sum_int") == 5
    edge.send(_sum((20, 9)), at=20)
    assert total(edge.flush(21), "hits", "sum_int") == 4


def test_counter_resets_by_fall() -> None:
    """A value below the one before it, with the same start, counts from zero and is noted."""
    edge = EdgeHarness()
    edge.send(_sum((10, 100), (20, 3), (30, 4)), at=30)
    assert total(edge.flush(31), "hits", "sum_int") == 104
    assert edge.points_tallied("reset") == 1


def test_counter_resets_by_fall_across_a_flush() -> None:
    """A fall is seen against the persisted baseline too."""
    edge = EdgeHarness()
    edge.send(_sum((10, 100)), at=10)
    edge.flush(11)
    edge.send(_sum((20, 3)), at=20)
    assert total(edge.flush(21), "hits", "sum_int") == 3
    assert edge.points_tallied("reset") == 1


def test_counter_resets_by_start_time() -> None:
    """A new start is a new life: it counts from zero even though its value is higher, and is no reset by fall."""
    edge = EdgeHarness()
    edge.send(_sum((10, 100)), at=10)
    edge.send(_sum((30, 150), start=20), at=30)
    assert total(edge.flush(31), "hits", "sum_int") == 250
    assert edge.tally == {}


def test_counter_reset_with_gaps_between_requests() -> None:
    """A restart that is first seen two flushes later loses nothing that it counted."""
    edge = EdgeHarness()
    edge.send(_sum((10, 100)), at=10)
    rows = edge.flush(11)
    rows += edge.flush(60)
    edge.send(_sum((300, 40), start=100), at=300)
    rows += edge.flush(301)
    assert total(rows, "hits", "sum_int") == 140


def test_counter_of_several_values_in_one_body() -> None:
    """Several points of one stream in one body all count, each in its window, in whatever order they stand."""
    edge = EdgeHarness()
    edge.send(_sum((130, 9), (10, 2), (70, 5)), at=130)
    assert by_window(edge.flush(131), "hits", "sum_int") == {0: 2, 60: 3, 120: 4}


def test_counter_of_several_workers_in_one_body() -> None:
    """Points of one metric that differ in attributes dropped by policy are several streams of one series."""
    edge = EdgeHarness()
    points = [number(10, 5 + i, start=0, attributes={"k8s.pod.name": f"pod-{i}", "route": "/"}) for i in range(10)]
    edge.send(body(counter("hits", *points)), at=10)
    rows = edge.flush(11)
    assert len(rows) == 1
    assert rows[0]["attributes"] == '{"route":"/"}'
    assert rows[0]["sum_int"] == sum(5 + i for i in range(10))


def test_counter_increase_is_put_where_it_happened_not_when_it_was_flushed() -> None:
    """Rows carry the window of the event time, whatever the time of receipt and of the flush."""
    edge = EdgeHarness()
    edge.send(_sum((10, 5)), at=500)
    assert by_window(edge.flush(900), "hits", "sum_int") == {0: 5}


def test_counter_at_a_window_s_end_belongs_to_that_window() -> None:
    """OTLP intervals are (start, time]: an increase at the very end of a window is that window's."""
    edge = EdgeHarness()
    edge.send(_sum((60, 5), (120, 7)), at=120)
    edge.send(body(counter("next", number(60 + 1e-9, 1, start=0))), at=120)
    rows = edge.flush(121)
    assert by_window(rows, "hits", "sum_int") == {0: 5, 60: 2}
    assert by_window(rows, "next", "sum_int") == {60: 1}


def test_counter_differences_int64_extremes_exactly() -> None:
    """Neighbouring values near 2^63 differ by one, which a double could not tell."""
    edge = EdgeHarness()
    edge.send(_sum((10, MAX - 3), (20, MAX - 1), (30, MAX)), at=30)
    assert total(edge.flush(31), "hits", "sum_int") == MAX


def test_counter_sums_beyond_int64() -> None:
    """The increases of several streams add up beyond 63 bits, to the unit, in one row."""
    edge = EdgeHarness()
    points = [number(10, MAX - i, start=0, attributes={"k8s.pod.name": str(i)}) for i in range(9)]
    edge.send(body(counter("hits", *points)), at=10)
    rows = edge.flush(11)
    assert [row["sum_int"] for row in rows] == [9 * MAX - 36]
    assert rows[0]["sum_int"] > 2**64


def test_counter_of_doubles_is_a_sum_of_doubles() -> None:
    """Doubles go to sum_float and leave sum_int alone."""
    edge = EdgeHarness()
    edge.send(_sum((10, 0.5), (20, 2.25)), at=20)
    rows = edge.flush(21)
    assert (rows[0]["sum_int"], rows[0]["sum_float"]) == (0, 2.25)


def test_counter_of_mixed_ints_and_doubles_in_one_stream() -> None:
    """A stream that changes between int and double is one stream; its increases add up over both sums."""
    edge = EdgeHarness()
    edge.send(_sum((10, 10), (20, 12.5), (30, 15), (40, 15.25), (50, 3), (55, 4)), at=55)
    rows = edge.flush(56)
    assert rows[0]["sum_int"] + rows[0]["sum_float"] == 15.25 + 4
    assert edge.points_tallied("reset") == 1
    edge.send(_sum((60, 4.5)), at=60)
    edge.send(_sum((61, 1)), at=61)
    rows = edge.flush(62)
    assert total(rows, "hits", "sum_int") == 1
    assert total(rows, "hits", "sum_float") == 0.5


def test_counter_with_overlapping_lives_is_not_taken_for_resets() -> None:
    """Eight writers of one stream, told apart by their starts, count side by side."""
    edge = EdgeHarness()
    expected = 0
    for time in (100, 110, 120):
        for writer in range(8):
            edge.send(_sum((time + writer / 10, 1000 * (8 - writer) + time), start=writer + 1), at=time + 1)
    for writer in range(8):
        expected += 1000 * (8 - writer) + 120
    assert total(edge.flush(125), "hits", "sum_int") == expected
    assert edge.tally == {}


def test_counter_with_a_ninth_life_evicts_the_idlest_without_a_spike() -> None:
    """The life idle longest makes room; if it speaks again it is a baseline, counted, and never a second total."""
    edge = EdgeHarness()
    for writer in range(9):
        edge.send(_sum((100 + writer, 50), start=writer + 1), at=109)
        edge.flush(109)
    edge.send(_sum((120, 57), start=1), at=120)
    rows = edge.flush(121)
    assert total(rows, "hits", "sum_int") == 0
    assert edge.points_tallied("baseline") == 1
    edge.send(_sum((130, 60), start=1), at=130)
    assert total(edge.flush(131), "hits", "sum_int") == 3


def test_counter_with_nine_new_lives_in_one_body_loses_none() -> None:
    """Writers beyond the eight that arrive at once have their first points counted before anyone is evicted."""
    edge = EdgeHarness()
    points = [number(100, 10, start=writer + 1) for writer in range(12)]
    edge.send(body(counter("hits", *points)), at=100)
    assert total(edge.flush(101), "hits", "sum_int") == 120


def test_counter_writers_beyond_eight_do_not_cost_other_streams_their_young_points() -> None:
    """What is already applied keeps its increase when another stream's life is evicted right after."""
    edge = EdgeHarness()
    edge.send(_sum((100, 7), start=50, name="young"), at=100)
    for writer in range(12):
        edge.send(_sum((100 + writer, 50), start=writer + 80), at=112)
    assert total(edge.flush(113), "young", "sum_int") == 7


def test_first_point_counts_from_zero_when_young() -> None:
    """A life that began after the collector did is counted in full."""
    edge = EdgeHarness(known_since=0)
    edge.send(_sum((10, 5), start=0.000000001), at=10)
    assert total(edge.flush(11), "hits", "sum_int") == 5


@pytest.mark.parametrize("start", [0.0, -100.0])
def test_first_point_is_a_baseline_when_old(start: float) -> None:
    """A life that began at or before the collector's own birth adds nothing at first, and is counted by reason."""
    edge = EdgeHarness(known_since=0)
    edge.send(_sum((10, 1_000_000), start=start), at=10)
    edge.send(_sum((20, 1_000_003), start=start), at=20)
    rows = edge.flush(21)
    assert total(rows, "hits", "sum_int") == 3
    assert total(rows, "hits", "points") == 2
    assert edge.points_tallied("baseline") == 1


def test_first_point_without_a_start_is_a_baseline() -> None:
    """start 0 means unknown: nothing can be said about the first value."""
    edge = EdgeHarness()
    edge.send(_sum((10, 1000), (20, 1001), start=None), at=20)
    assert total(edge.flush(21), "hits", "sum_int") == 1
    assert edge.points_tallied("baseline") == 1


def test_first_point_whose_start_is_its_time_contributes_nothing() -> None:
    """start = time is OTLP's unknown start: the point is the zero of those that follow with the same start."""
    edge = EdgeHarness()
    edge.send(_sum((10, 500), start=10), at=10)
    edge.send(_sum((20, 507), start=10), at=20)
    assert total(edge.flush(21), "hits", "sum_int") == 7


def test_first_point_after_eviction_is_a_baseline() -> None:
    """An idle stream that was evicted and returns makes no spike: known_since rose to its start."""
    edge = EdgeHarness(Limits(stream_idle_seconds=100))
    edge.send(_sum((10, 500), start=5), at=10)
    edge.flush(11)
    assert edge.edge.evict_idle(ns(200)) == 1
    assert edge.lives.known_since_ns == ns(5)
    edge.send(_sum((200, 510), start=5), at=200)
    edge.send(_sum((200, 4), start=5, name="as old"), at=200)
    edge.send(_sum((200, 4), start=6, name="younger"), at=200)
    rows = edge.flush(201)
    assert total(rows, "hits", "sum_int") == 0
    assert total(rows, "as old", "sum_int") == 0
    assert total(rows, "younger", "sum_int") == 4
    assert edge.points_tallied("baseline") == 2


def test_eviction_leaves_points_on_their_way() -> None:
    """Points staged before an eviction and applied after it count for their own streams, old and new ones."""
    edge = EdgeHarness(Limits(stream_idle_seconds=100))
    for i in range(10):
        edge.send(_sum((10, 5), start=1, name=f"idle {i}"), at=10)
    edge.send(_sum((10, 5), start=1, name="old"), at=10)
    edge.flush(11)
    late = [_sum((300, 9), start=1, name="old"), _sum((300, 3), start=200, name="new")]
    requests = [received(one, 300) for one in late]
    _, staged = edge.edge.stage(requests, late)
    assert edge.edge.evict_idle(ns(300)) == 10
    edge.edge.apply(staged, requests)
    edge.send(_sum((310, 10), start=1, name="old"), _sum((310, 4), start=200, name="new"), at=310)
    rows = edge.flush(311)
    assert (total(rows, "old", "sum_int"), total(rows, "new", "sum_int")) == (5, 4)
    assert edge.tally == {}


def test_eviction_of_a_stream_without_start_leaves_known_since() -> None:
    """A gauge has no start: forgetting it says nothing about counters."""
    edge = EdgeHarness(Limits(stream_idle_seconds=100))
    edge.send(body(gauge("level", number(10, 1))), at=10)
    edge.flush(11)
    edge.flush(500)
    assert edge.edge.evict_idle(ns(500)) == 1
    assert edge.lives.known_since_ns == ns(-3600)


def test_delta_adds() -> None:
    """Delta points add their values, each in the window of its end."""
    edge = EdgeHarness()
    edge.send(_delta((0, 10, 3), (10, 60, 4), (60, 61, 5)), at=61)
    assert by_window(edge.flush(62), "hits", "sum_int") == {0: 7, 60: 5}


def test_delta_needs_no_birth() -> None:
    """Delta values older than the collector count as any other: they say what happened, not since when."""
    edge = EdgeHarness(known_since=100)
    edge.send(_delta((0, 10, 3)), at=110)
    assert total(edge.flush(111), "hits", "sum_int") == 3
    assert edge.tally == {}


def test_delta_that_is_not_monotonic_may_fall() -> None:
    """Changes of an up-down counter are added with their sign."""
    edge = EdgeHarness()
    edge.send(_delta((0, 10, 3), (10, 20, -7), (20, 30, -0.5), monotonic=False), at=61)
    rows = edge.flush(62)
    assert (total(rows, "hits", "sum_int"), total(rows, "hits", "sum_float")) == (-4, -0.5)


def test_delta_extremes_add_beyond_int64() -> None:
    """Sums of delta values leave Int64 in both directions without wrapping."""
    edge = EdgeHarness()
    edge.send(_delta(*((i, i + 1, MAX) for i in range(5))), at=61)
    edge.send(_delta(*((i, i + 1, -MAX - 1) for i in range(5)), name="down", monotonic=False), at=61)
    rows = edge.flush(62)
    assert total(rows, "hits", "sum_int") == 5 * MAX
    assert total(rows, "down", "sum_int") == -5 * 2**63


@pytest.mark.parametrize("flush_between", [False, True])
def test_delta_repeat_counts_once(flush_between: bool) -> None:
    """The same (stream, start, time) is added once, within a flush and across flushes, and counted as repeated."""
    edge = EdgeHarness()
    rows = []
    for _ in range(3):
        edge.send(_delta((0, 10, 3), (10, 20, 4)), at=20)
        rows += edge.flush(21) if flush_between else []
    rows += edge.flush(22)
    assert total(rows, "hits", "sum_int") == 7
    assert edge.points_tallied("repeated") == 4


def test_delta_of_equal_time_and_other_start_is_no_repeat() -> None:
    """Two writers that end an interval at the same instant are told apart by start."""
    edge = EdgeHarness()
    edge.send(_delta((0, 10, 3)), at=20)
    edge.send(_delta((1, 10, 3)), at=20)
    rows = edge.flush(21)
    edge.send(_delta((2, 10, 3)), at=20)
    rows += edge.flush(22)
    assert total(rows, "hits", "sum_int") == 9
    assert edge.tally == {}


def test_delta_older_than_what_is_remembered_is_accepted_as_unverified() -> None:
    """Beyond the lateness nobody can tell a repeat: the point counts, and the doubt is counted with it."""
    edge = EdgeHarness(Limits(lateness_seconds=60))
    edge.send(_delta((0, 10, 3)), at=20)
    edge.flush(21)
    edge.send(_delta((290, 300, 5)), at=300)
    rows = edge.flush(301)
    edge.send(_delta((1, 11, 4)), at=301)
    edge.send(_delta((250, 260, 2)), at=301)
    rows += edge.flush(302)
    assert total(rows, "hits", "sum_int") == 11
    assert edge.points_tallied("unverified") == 0, "only a time at or before the largest forgotten one is doubtful"
    edge.send(_delta((2, 10, 8)), at=301)
    edge.flush(303)
    assert edge.points_tallied("unverified") == 1


def test_order_of_points_within_a_flush_does_not_matter() -> None:
    """Any order of the same points in requests gives the same rows."""
    points = [(float(t), 10 * t) for t in range(1, 30)]
    expected = None
    for seed in range(5):
        edge = EdgeHarness(window_seconds=10)
        shuffled = points[:]
        random.Random(seed).shuffle(shuffled)
        for i in range(0, len(shuffled), 7):
            edge.send(_sum(*shuffled[i : i + 7]), at=30)
        rows = edge.flush(31)
        expected = expected or rows
        assert rows == expected
    assert total(expected or [], "hits", "sum_int") == 290


def test_late_cumulative_point_adds_nothing_and_is_counted() -> None:
    """A point that comes after a later one was flushed: its increase is in already."""
    edge = EdgeHarness()
    edge.send(_sum((10, 5)), at=10)
    edge.send(_sum((30, 9)), at=30)
    rows = edge.flush(31)
    edge.send(_sum((20, 6)), at=40)
    edge.send(_sum((40, 10)), at=40)
    rows += edge.flush(41)
    assert total(rows, "hits", "sum_int") == 10
    assert edge.points_tallied("late_cumulative") == 1
    assert edge.points_tallied("reset") == 0


@pytest.mark.parametrize("flush_between", [False, True])
def test_repeated_cumulative_point_adds_nothing_and_is_counted(flush_between: bool) -> None:
    """A request whose answer was lost and that is sent again counts once."""
    edge = EdgeHarness()
    rows = []
    for _ in range(2):
        edge.send(_sum((10, 5), (20, 8)), at=20)
        rows += edge.flush(21) if flush_between else []
    rows += edge.flush(22)
    assert total(rows, "hits", "sum_int") == 8
    assert total(rows, "hits", "points") == 2
    assert edge.points_tallied("repeated") + edge.points_tallied("late_cumulative") == 2


def test_failed_flush_is_put_back_whole() -> None:
    """What a failed flush drained comes again with the next one, once, together with what arrived since."""
    edge = EdgeHarness()
    edge.send(_sum((10, 5)), at=10)
    drained = edge.edge.drain(ns(11))
    digests = dict(drained.digests)
    edge.edge.put_back(drained)
    edge.send(_sum((20, 8)), at=20)
    again = edge.edge.drain(ns(21))
    rows = rows_of(again.rows)
    assert len(rows) == 1
    assert (rows[0]["sum_int"], rows[0]["points"]) == (8, 2)
    assert list(again.digests) == list(digests)
    assert again.digests != digests
