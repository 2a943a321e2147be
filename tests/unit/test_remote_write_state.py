"""What remote write saves with a flush: parts, types and held samples after a restart."""

from __future__ import annotations

from pathlib import Path

from catchment.limits import Limits
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import REMOTE_WRITE_1
from tests import remote_write as rw
from tests.durable_edge import DurableEdge, metric_rows
from tests.edge_harness import add_histograms, total

INF = float("inf")


def histogram(time: float, turn: int) -> list[rw.Series]:
    """A histogram that grows by (1, 2) each turn."""
    return rw.histogram("req_seconds", time, [turn, 2 * turn], 1.0 * turn, [0.5])


def send(edge: DurableEdge, *series: rw.Series, at: float) -> None:
    """Send a request of 1.0."""
    edge.send(rw.body(*series), at, content_type=REMOTE_WRITE_1)


def test_parts_are_known_after_a_restart(tmp_path: Path) -> None:
    """A point that lacks a part waits for it, longer than a new histogram would; one that has all goes at once."""
    edge = DurableEdge(tmp_path, Limits())
    send(edge, *histogram(1, 1), at=1)
    edge.flush(7)
    edge.crash()
    send(edge, *histogram(16, 2)[1:], at=16)
    edge.flush(40)
    assert total(metric_rows(edge.outbox()), "req_seconds", "count") == 0
    edge.crash()
    send(edge, histogram(16, 2)[0], at=41)
    edge.flush(41)
    rows = metric_rows(edge.outbox())
    assert add_histograms(rows, "req_seconds") == {(-INF, 0.5): 1, (0.5, INF): 2}
    edge.state.close()


def test_a_part_that_ended_is_not_waited_for_after_a_restart(tmp_path: Path) -> None:
    """What a stale marker took away stays away, though segments of before know it."""
    edge = DurableEdge(tmp_path, Limits())
    send(edge, *histogram(1, 1), at=1)
    edge.flush(7)
    send(edge, (histogram(10, 1)[0][0], [(10, rw.STALE)]), at=10)
    edge.flush(10)
    edge.crash()
    send(edge, *histogram(16, 2)[1:], at=16)
    edge.flush(16)
    assert add_histograms(metric_rows(edge.outbox()), "req_seconds") == {(-INF, INF): 3}
    edge.state.close()


def test_segments_of_parts_are_rewritten_when_they_outweigh_what_there_is(tmp_path: Path) -> None:
    """Parts that come and go leave no more behind than three times what there is, and are right after it."""
    edge = DurableEdge(tmp_path, Limits())
    send(edge, *histogram(1, 1), at=1)
    edge.flush(7)
    edge.edge.remote._parts_saved = 10_000
    edge.flush(8)
    assert edge.edge.remote._parts_saved == 4
    edge.crash()
    send(edge, *histogram(16, 2), at=16)
    edge.flush(16)
    assert add_histograms(metric_rows(edge.outbox()), "req_seconds") == {(-INF, 0.5): 1, (0.5, INF): 2}
    edge.state.close()


def test_idle_parts_are_forgotten_and_caches_emptied(tmp_path: Path) -> None:
    """After a day without points nothing is known of a histogram; what is held outlives the caches."""
    edge = DurableEdge(tmp_path, Limits(stream_idle_seconds=3600))
    send(edge, *histogram(1, 1), at=1)
    edge.flush(7)
    send(edge, *rw.histogram("other", 5000, [1], 1.0, []), at=5000)
    send(edge, *rw.histogram("other", 5015, [2], 2.0, [])[1:], at=5015)
    edge.flush(5020)
    assert len(edge.edge.remote.parts) == 3
    generation = edge.edge.remote.series.generation
    assert generation == 1
    send(edge, rw.histogram("other", 5015, [2], 2.0, [])[0], at=5021)
    edge.flush(5022)
    assert total(metric_rows(edge.outbox()), "other", "count") == 1
    edge.crash()
    assert len(edge.edge.remote.parts) == 3
    edge.state.close()


def test_types_are_known_after_a_restart(tmp_path: Path) -> None:
    """A counter stays one, with its baseline: its kind is part of the stream's identity."""
    edge = DurableEdge(tmp_path, Limits())
    edge.send(rw.body(metadata={"hits": MetricType.COUNTER}), 0, content_type=REMOTE_WRITE_1)
    send(edge, (rw.labels("hits"), [(1, 5.0)]), at=1)
    edge.flush(2)
    edge.crash()
    send(edge, (rw.labels("hits"), [(16, 9.0)]), at=16)
    edge.flush(17)
    (row,) = metric_rows(edge.outbox())
    assert (row["kind"], row["sum_int"]) == ("counter", 4)
    edge.state.close()
