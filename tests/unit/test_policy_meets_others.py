"""Changes of policies where they meet budgets, their sketches, and what remote write holds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from catchment.algebra.distinct import estimate
from catchment.config_policies import MetricPolicy, Policies
from catchment.envelope import decode
from catchment.limits import Limits
from collectors.decode.remote_wire import REMOTE_WRITE_1
from tests import remote_write as rw
from tests.durable_edge import DurableEdge, metric_rows, outbox_rows
from tests.edge_harness import add_histograms, total
from tests.otlp import body, counter, ns, number

INF = float("inf")
PLAIN = Policies(default_drop=("user",))
BY_USER = Policies(label="by-user", default_drop=())


def _orders(edge: DurableEdge, at: float, users: int) -> None:
    points = [number(at, 10 + at, start=1, attributes={"user": f"u{n}", "route": n % 2}) for n in range(users)]
    edge.send(body(counter("orders", *points)), at)


def _sketched(edge: DurableEdge) -> dict[str, tuple[int, int, int]]:
    """Distinct values, streams and folded ones by attribute of the metric, over all flushes."""
    found = outbox_rows(edge.outbox(), "cardinality").get("acme", pa.table({}))
    return {
        row["attribute"]: (round(estimate(dict(row["registers"]))), row["streams"], row["folded"])
        for row in found.to_pylist()
        if row["metric"] == "orders"
    }


def test_streams_that_get_another_series_are_sketched_again(tmp_path: Path) -> None:
    """What policy keeps now is seen at once, not when senders restart; our restart, or an equal series, is no news."""
    edge = DurableEdge(tmp_path, Limits(), PLAIN)
    _orders(edge, 10, 20)
    edge.flush(15)
    assert _sketched(edge) == {"": (2, 20, 0), "route": (2, 20, 0)}
    edge.crash()
    _orders(edge, 20, 20)
    wider = MetricPolicy(match="orders", drop=("user",), resolution_seconds=300)
    edge.change(Policies(default_drop=("user",), metrics=(wider,)), 25)
    _orders(edge, 30, 20)
    edge.flush(35)
    assert _sketched(edge) == {"": (2, 20, 0), "route": (2, 20, 0)}
    edge.change(BY_USER, 40)
    _orders(edge, 45, 20)
    edge.flush(50)
    assert _sketched(edge) == {"": (22, 40, 0), "route": (2, 40, 0), "user": (20, 20, 0)}
    edge.state.close()


def test_folds_after_a_change_are_counted_and_told(tmp_path: Path) -> None:
    """A policy that keeps too much folds streams that were there before: counted by reason, and the log says which
    attribute, of what budgets count now: series of before are no part of it.
    """
    edge = DurableEdge(tmp_path, Limits(series_per_metric_max=12), PLAIN)
    _orders(edge, 10, 20)
    edge.flush(15)
    edge.change(BY_USER, 20)
    _orders(edge, 25, 20)
    explosion = edge.edge.exploded(ns(30))
    assert explosion is not None
    assert (explosion.metric, explosion.attribute, explosion.values, explosion.series) == ("orders", "user", 12, 12)
    edge.flush(30)
    drops = {row["reason"]: row["count"] for row in outbox_rows(edge.outbox(), "drops")["acme"].to_pylist()}
    assert drops["overflow_metric"] == 8
    assert _sketched(edge)["user"] == (20, 20, 8)
    assert total(metric_rows(edge.outbox()), "orders", "sum_int") == 20 * 35
    edge.state.close()


def test_the_texts_of_series_have_their_budget_anew(tmp_path: Path) -> None:
    """Series of before a change take no room of ``series_bytes_per_tenant_max`` from those of after."""
    edge = DurableEdge(tmp_path, Limits(series_bytes_per_tenant_max=700), BY_USER)
    _orders(edge, 10, 20)
    edge.flush(15)
    edge.change(PLAIN, 20)
    _orders(edge, 25, 20)
    edge.flush(30)
    edge.change(BY_USER, 35)
    _orders(edge, 40, 20)
    edge.flush(45)
    rows = metric_rows(edge.outbox())
    assert len({row["attributes"] for row in rows}) == 22
    assert not any("overflow" in row["attributes"] for row in rows)
    assert total(rows, "orders", "sum_int") == 20 * 50
    edge.state.close()


def test_a_histogram_whose_parts_come_before_and_after_a_change_counts_once(tmp_path: Path) -> None:
    """What remote write holds at the cut becomes a point once it is whole, under the policies of then; so too when we
    die before, and between, the flushes.
    """

    def send(*series: rw.Series, at: float) -> None:
        edge.send(rw.body(*series), at, content_type=REMOTE_WRITE_1)

    def latency(time: float, turn: int) -> list[rw.Series]:
        return rw.histogram("latency_seconds", time, [turn, 2 * turn], 1.0 * turn, [0.5], pod="p")

    edge = DurableEdge(tmp_path, Limits(), Policies(default_drop=("pod",)))
    send(*latency(1, 1), at=1)
    edge.flush(7)
    send(*latency(16, 2)[1:], at=16)
    edge.change(BY_USER, 20)
    edge.crash()
    send(latency(16, 2)[0], at=21)
    edge.crash()
    edge.flush(25)
    send(*latency(31, 3), at=31)
    edge.flush(35)
    rows = metric_rows(edge.outbox())
    assert add_histograms(rows, "latency_seconds") == {(-INF, 0.5): 2, (0.5, INF): 4}
    assert {row["attributes"] for row in rows if row["count"]} == {'{"pod":"p","service.instance.id":"a:80"}'}
    versions = {decode(row.value).header.policy_version for row in edge.outbox() if row.lane == "metrics_cluster"}
    assert versions == {Policies(default_drop=("pod",)).version, BY_USER.version}
    edge.state.close()
