"""Remote write however it is cut into requests, sent again, flushed and crashed: an OTLP sender's totals."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.errors import Retry
from catchment.limits import Limits
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import REMOTE_WRITE_1
from tests import otlp
from tests import remote_write as rw
from tests.durable_edge import DurableEdge, metric_rows
from tests.edge_harness import EdgeHarness, Row, add_histograms, total
from tests.model.test_collector_state import failing_after

BOUNDS = [0.5, 1.0, 2.5]
PERIOD = 15.0
TYPES = {"hits": MetricType.COUNTER, "rpc": MetricType.SUMMARY, "req_seconds": MetricType.HISTOGRAM}


class Target:
    """What is scraped: a counter, two histograms, a summary; it may restart and count from zero."""

    def __init__(self, random: Random, restarts: bool) -> None:
        self._random = random
        self._restarts = restarts
        self._zero()

    def _zero(self) -> None:
        self.hits = 0
        self.buckets = [[0] * 4, [0] * 4]
        self.sums = [0.0, 0.0]
        self.calls = 0

    def move(self) -> None:
        """Something happens between two scrapes."""
        if self._restarts and self._random.random() < 0.2:
            self._zero()
            # What a fall cannot show nobody can count: a restarted target is caught before it has grown past itself.
            return
        self.hits += self._random.randrange(5)
        self.calls += self._random.randrange(3)
        for own in range(2):
            for bucket in range(4):
                grown = self._random.randrange(4)
                self.buckets[own][bucket] += grown
                self.sums[own] += 0.25 * grown * (bucket + 1)

    def prometheus(self, time: float) -> list[rw.Series]:
        """What Prometheus has of a scrape."""
        series: list[rw.Series] = [(rw.labels("hits"), [(time, float(self.hits))])]
        for own in range(2):
            series += rw.histogram("req_seconds", time, self.buckets[own], self.sums[own], BOUNDS, path=f"/{own}")
        series.append((rw.labels("rpc", quantile="0.9"), [(time, 0.5)]))
        series.append((rw.labels("rpc_sum"), [(time, 2.0 * self.calls)]))
        series.append((rw.labels("rpc_count"), [(time, float(self.calls))]))
        return series

    def opentelemetry(self, time: float) -> bytes:
        """The same as an OTLP sender has it that does not know its start."""
        return otlp.body(
            otlp.counter("hits", otlp.number(time, self.hits)),
            otlp.histogram(
                "req_seconds",
                *(
                    otlp.explicit(time, self.buckets[own], BOUNDS, total=self.sums[own], attributes={"path": f"/{own}"})
                    for own in range(2)
                ),
            ),
            otlp.summary("rpc", otlp.quantiles(time, self.calls, 2.0 * self.calls)),
            resource={"service.name": "shop", "service.instance.id": "a:80"},
        )


def totals(rows: Sequence[Row]) -> dict[str, object]:
    """All that must be equal."""
    return {
        "hits": total(rows, "hits", "sum_int") + total(rows, "hits", "sum_float"),
        "count": total(rows, "req_seconds", "count"),
        "sum": total(rows, "req_seconds", "sum_float"),
        "histogram": {key: count for key, count in add_histograms(rows, "req_seconds").items() if count},
        "calls": total(rows, "rpc", "count"),
        "seconds": total(rows, "rpc", "sum_float"),
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), scrapes=st.integers(2, 8), shards=st.integers(1, 5), restarts=st.booleans())
def test_any_partition_gives_the_totals_of_an_otlp_sender(seed: int, scrapes: int, shards: int, restarts: bool) -> None:
    """Series are sharded, each shard is cut into requests at will and sent at its own pace, requests are repeated, the
    collector flushes, fails to flush and dies in between; types come first, as they do after Prometheus' first minute.
    """
    random = Random(seed)
    target = Target(random, restarts)
    honest = EdgeHarness()
    queues: list[list[rw.Series]] = [[] for _ in range(shards)]
    expected: list[Row] = []
    shard_of: dict[str, int] = {}
    for turn in range(scrapes):
        time = PERIOD * (turn + 1)
        for series in target.prometheus(time):
            shard = shard_of.setdefault(str(sorted(series[0].items())), random.randrange(shards))
            queues[shard].append(series)
        honest.send(target.opentelemetry(time), at=time)
        target.move()
    expected += honest.flush(10_000)
    with tempfile.TemporaryDirectory() as folder:
        # A sender that is this slow needs more time to make its series known.
        limits = Limits(points_per_chunk_max=random.choice([1, 7, 65_536]), parts_settle_seconds=58)
        edge = DurableEdge(Path(folder), limits)
        now = PERIOD * scrapes
        edge.send(rw.body(metadata=TYPES), now, content_type=REMOTE_WRITE_1)
        sent: list[bytes] = []
        while any(queues):
            now += random.choice([0.01, 0.5])
            queue = random.choice([queue for queue in queues if queue])
            size = random.randrange(1, 8)
            sent.append(rw.body(*queue[:size]))
            del queue[:size]
            edge.send(sent[-1], now, content_type=REMOTE_WRITE_1)
            if random.random() < 0.2:
                edge.send(random.choice(sent), now, content_type=REMOTE_WRITE_1)
            what = random.random()
            if what < 0.2:
                edge.flush(now)
            elif what < 0.3:
                with contextlib.suppress(Retry), failing_after(edge.state, random.randrange(12)):
                    edge.flush(now)
            elif what < 0.4:
                edge.crash()
        edge.flush(now + 58)
        edge.flush(now + 100)
        found = totals(metric_rows(edge.outbox()))
        edge.state.close()
    assert found == totals(expected)


def test_a_crash_at_every_request_gives_the_same_rows(tmp_path: Path) -> None:
    """Types, parts and held samples are those of the position: whether the folder was flushed and reopened after any
    request, or never, the same comes out.
    """
    target = Target(Random(1), restarts=False)
    bodies: list[tuple[bytes, float]] = []
    for turn in range(4):
        time = PERIOD * (turn + 1)
        series = target.prometheus(time)
        bodies += [(rw.body(*series[:5]), time), (rw.body(*series[5:9]), time), (rw.body(*series[9:]), time)]
        if turn == 1:
            bodies.append((rw.body(metadata=TYPES), time))
        target.move()

    def run(flushed: Sequence[int], crashed: Sequence[int]) -> list[Row]:
        folder = tmp_path / f"{flushed}{crashed}"
        folder.mkdir()
        edge = DurableEdge(folder, Limits())
        for at, (body, time) in enumerate(bodies):
            edge.send(body, time, content_type=REMOTE_WRITE_1)
            if at in flushed:
                edge.flush(time)
            if at in crashed:
                edge.crash()
        edge.flush(100)
        rows = metric_rows(edge.outbox())
        edge.state.close()
        return rows

    expected = totals(run((), ()))
    for at in range(len(bodies)):
        assert totals(run((at,), (at,))) == expected
        if at:
            assert totals(run((at - 1,), (at,))) == expected
