"""Whatever policies change to, whenever, with whatever crashes: the sums over all series stay what they were."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.config_policies import MetricPolicy, Policies
from catchment.limits import Limits
from catchment.reach import Reach
from tests.durable_edge import DurableEdge, metric_rows, totals_of
from tests.edge_harness import Row
from tests.edge_streams import streams
from tests.otlp import SECOND_NS

_EXACT = ("points", "count", "sum_int")
_FLOATS = ("sum_float", "integral", "observed_seconds")


def policies(rng: Random) -> Policies:
    """Some rules that drop no metric: by metric, tenant and attribute; what they keep, and how it leaves."""
    rules = [
        MetricPolicy(
            match=rng.choice(("*", "hits", "l*", "lat*", "exp*", "sent", "rpc")),
            tenants=rng.choice(((), (), ("acme",), ("umb*", "nobody"))),
            attributes=rng.choice(({}, {}, {"k8s.pod.name": "pod-[0-2]"}, {"route": "/"}, {"service.name": "sh*"})),
            keep=rng.choice(((), ("route",), ("k8s.pod.name",), ("*",), ("nothing",))),
            drop=rng.choice((("nothing",), ("route",), ("k8s.*",))),
            reach=rng.choice((None, *Reach)),
            resolution_seconds=rng.choice((None, 60, 300, 3600)),
            flush_seconds=rng.choice((None, 60.0, 300.0)),
            histogram_scale=rng.choice((None, 5, 2, 0, -3)),
        )
        for _ in range(rng.randint(0, 3))
    ]
    return Policies(
        default_drop=rng.choice(((), ("k8s.pod.*",), ("*",))), reach=rng.choice(tuple(Reach)), metrics=tuple(rules)
    )


def sums_of(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    """The sums over all series by tenant, cluster, metric and hour.

    Of a histogram all that its buckets hold, since they may be wider; ``added`` is what rounding is measured by.
    """
    sums: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        into = sums.setdefault(
            (*(row[name] for name in ("tenant", "cluster", "metric", "kind", "unit")), row["window"] // 3600),
            dict.fromkeys((*_EXACT, *_FLOATS, "in_buckets", "added"), 0),
        )
        for name in (*_EXACT, *_FLOATS):
            into[name] += row[name]
        into["added"] += sum(abs(row[name]) for name in _FLOATS)
        into["in_buckets"] += sum(row["histogram"].values())
    return sums


def totals_by_hour(edge: DurableEdge) -> dict[tuple[str, str, int], tuple[int, int]]:
    """Points and digests of control totals by tenant, cluster and hour."""
    totals: dict[tuple[str, str, int], tuple[int, int]] = {}
    for (tenant, cluster, start_ns), (points, digest) in totals_of(edge.outbox()).items():
        key = tenant, cluster, start_ns // (3600 * SECOND_NS)
        before = totals.get(key, (0, 0))
        totals[key] = before[0] + points, (before[1] + digest) % 2**64
    return totals


def assert_same_sums(given_rows: list[Row], expected: list[Row]) -> None:
    """Equal by metric and hour; sums of floats within 1e-9 of what was added."""
    have, want = sums_of(given_rows), sums_of(expected)
    assert have.keys() == want.keys()
    for key, row in want.items():
        for name in (*_EXACT, "in_buckets"):
            assert have[key][name] == row[name], (name, key)
        for name in _FLOATS:
            assert have[key][name] == pytest.approx(row[name], rel=1e-9, abs=1e-3 + 1e-9 * row["added"]), (name, key)


@settings(max_examples=25)
@given(st.integers(0, 2**63).map(Random))
def test_changes_of_policies_change_no_sum(rng: Random) -> None:
    """Changes under way and at restarts, crashes before and after, retries: no point is lost or counted twice."""
    written = streams(rng, writers_max=6, points_max=10)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        steady = DurableEdge(Path(one), Limits())
        shaken = DurableEdge(Path(other), Limits(points_per_chunk_max=rng.choice((1, 3, 10**6))), policies(rng))
        for i, each in enumerate(written):
            steady.send(each.body, each.time, each.tenant, each.cluster)
            shaken.send(each.body, each.time, each.tenant, each.cluster)
            if rng.random() < 0.2:
                again = written[rng.randint(0, i)]
                shaken.send(again.body, each.time, again.tenant, again.cluster)
            if rng.random() < 0.2:
                shaken.flush(each.time)
            if rng.random() < 0.2:
                shaken.change(policies(rng), each.time)
            if rng.random() < 0.25:
                shaken.crash(policies(rng) if rng.random() < 0.3 else None)
        for edge in (steady, shaken):
            edge.flush(written[-1].time + 400, release=True)
            assert edge.state.held() == []
        assert_same_sums(metric_rows(shaken.outbox()), metric_rows(steady.outbox()))
        assert totals_by_hour(shaken) == totals_by_hour(steady)
        assert shaken.state.acknowledged() == steady.state.acknowledged()
        steady.state.close()
        shaken.state.close()
