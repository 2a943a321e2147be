"""A collector that starts again keeps since when it knows streams: only another name of its cluster makes all new."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from catchment.config import Cluster, Config
from catchment.limits import Limits
from catchment.log.sqlite import SqliteLog
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from collectors.collector import Collector
from collectors.collector import opened as opened_under
from collectors.content import PROTOBUF
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import REMOTE_WRITE_1
from collectors.records import Received
from tests import otlp
from tests import remote_write as write
from tests.durable_edge import DurableEdge, metric_rows
from tests.edge_harness import EdgeHarness, total
from tests.otlp import ns


def opened(folder: Path, cluster: str, at: float) -> Collector:
    """The collector of a folder, which starts at a time."""
    config = replace(Config(), data_dir=folder, cluster=Cluster(name=cluster)).for_collector()
    log = SqliteLog.open(folder / "log.db")
    return Collector(config, log, Telemetry(), Tracing("collector"), lambda: ns(at))


@pytest.mark.parametrize("tenant", ["default", "acme"])
@pytest.mark.parametrize(("cluster", "known_since"), [("tokyo-1", 0), ("tokyo-2", 60)])
def test_known_since(tmp_path: Path, tenant: str, cluster: str, known_since: float) -> None:
    """What was scraped for any tenant is of the same cluster: after a restart what began since the first start still
    counts from zero, and begins anew only where the cluster is called otherwise.
    """
    body = otlp.body(otlp.gauge("level", otlp.number(1, 1.0)))
    request = Received("metrics", tenant, "tokyo-1", "{}", "application/x-protobuf", "", ns(1), "", body)
    first = opened(tmp_path, "tokyo-1", 0)
    try:
        _, staged = first.edge.stage([request], [body])
        first.edge.apply(staged, [request])
        asyncio.run(first.flushing.once())
    finally:
        first.close()
    second = opened(tmp_path, cluster, 60)
    try:
        assert second.edge.lives.known_since_ns == ns(known_since)
    finally:
        second.close()


_WIDE = Limits()
_NARROW = replace(
    _WIDE,
    streams_max=1,
    metric_name_bytes_max=1,
    attribute_count_max=0,
    attribute_value_bytes_max=1,
    past_seconds_max=1,
    histogram_buckets_max=1,
)


@pytest.mark.parametrize("first", [_WIDE, _NARROW])
def test_limits_of_another_start_do_not_judge_what_was_acknowledged(tmp_path: Path, first: Limits) -> None:
    """Points that were taken before a kill are taken in the replay though the limits are lower then, and what was
    rejected stays so though they are higher; what comes after the start is judged by the new ones.
    """
    log = SqliteLog.open(tmp_path / "log.db")
    taken = []
    for at, limits in enumerate((first, _NARROW if first == _WIDE else _WIDE, first)):
        config = replace(Config(), data_dir=tmp_path, limits=limits).for_collector()
        collector = opened_under(config, log, Telemetry(), Tracing("collector"), lambda: ns(20))
        try:
            taken.append(sum(points for points, _ in collector._state.acknowledged().values()))
            asyncio.run(submitted(collector, three_points(at)))
        finally:
            collector.close()
    assert taken == ([0, 3, 3] if first == _WIDE else [0, 0, 3])


def test_held_samples_are_taken_in_before_limits_change(tmp_path: Path) -> None:
    """A histogram of remote write that is whole, and was only held since more buckets might come, is not refused by
    limits of the next start; types that are known stay known though fewer may be.
    """
    log = SqliteLog.open(tmp_path / "log.db")
    families = {f"orders_{number}": MetricType.COUNTER for number in range(3)}
    orders = [(write.labels(name), [(1, 5.0), (2, 8.0)]) for name in families]
    body = write.body(*write.histogram("seconds", 1, [1, 2, 3], 4.0, [0.5, 1.0]), *orders, metadata=families)
    taken = []
    for limits in (_WIDE, replace(_NARROW, histogram_parts_max=1, metric_families_max=1)):
        config = replace(Config(), data_dir=tmp_path, limits=limits).for_collector()
        collector = opened_under(config, log, Telemetry(), Tracing("collector"), lambda: ns(3))
        try:
            taken.append(sum(points for points, _ in collector._state.acknowledged().values()))
            if limits == _WIDE:
                asyncio.run(submitted(collector, body, REMOTE_WRITE_1))
            else:
                rows = metric_rows(collector._state.outbox(0, messages_max=100, bytes_max=1 << 30))
        finally:
            collector.close()
    assert taken == [0, 7]
    assert {(row["metric"], row["kind"], row["sum_int"]) for row in rows if row["metric"] in families} == {
        (name, "counter", 3) for name in families
    }


async def submitted(collector: Collector, body: bytes, content_type: str = PROTOBUF) -> None:
    """Send one request, which is durable then and no flush has taken it."""
    working = asyncio.create_task(collector._intake.run())
    request = Received("metrics", "default", "tokyo-1", "{}", content_type, "", ns(20), "", body)
    await collector._intake.submit(request)
    collector._intake.close()
    await working


def three_points(at: float) -> bytes:
    """Two of counters, one of a histogram."""
    numbers = [otlp.number(at, 1, start=at - 1, attributes={"user": user}) for user in ("ann", "bob")]
    seconds = otlp.explicit(at, [1, 0, 0], [1.0, 2.0], start=at - 1)
    return otlp.body(
        otlp.counter("orders", *numbers, temporality=otlp.DELTA),
        otlp.histogram("seconds", seconds, temporality=otlp.DELTA),
    )


def hits(at: float, *users: int) -> bytes:
    """A first point of each user's stream."""
    points = [otlp.number(at, 1, start=at - 1, attributes={"user": user}) for user in users]
    return otlp.body(otlp.counter("hits", *points, temporality=otlp.DELTA))


def test_streams_that_took_the_room_of_evicted_ones_find_it_again(tmp_path: Path) -> None:
    """What was acknowledged into the room that a flush had made is not refused when it is replayed."""
    edge = DurableEdge(tmp_path, Limits(streams_max=20))
    edge.send(hits(10, *range(20)), 10)
    edge.flush(15)
    edge.flush(1000)
    edge.send(hits(1010, 100, 101), 1010)
    edge.crash()
    edge.flush(1020)
    assert total(metric_rows(edge.outbox()), "hits", "sum_int") == 22


def test_the_last_room_is_found_again_in_larger_batches() -> None:
    """Points of kinds that a batch looks at first do not take the room of those that were there first."""
    edge = EdgeHarness(Limits(streams_max=2))
    waits = otlp.body(otlp.histogram("waits", otlp.explicit(10, [1, 1], [1.0], start=9), temporality=otlp.DELTA))
    edge.edge.replay(begins=True)
    edge.send(waits, hits(10, 1, 2), at=10)
    edge.send(hits(11, 3), at=11)
    rows = edge.flush(12)
    assert total(rows, "waits", "count") == total(rows, "hits", "sum_int") == 2
    assert edge.points_tallied("streams_full") == 1
