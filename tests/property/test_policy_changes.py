"""Whatever policies change to, whenever, with whatever crashes: the sums over all series stay what they were."""

from __future__ import annotations

import tempfile
from collections import Counter
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
        )
        for _ in range(rng.randint(0, 3))
    ]
    return Policies(
        default_drop=rng.choice(((), ("k8s.pod.*",), ("*",))), reach=rng.choice(tuple(Reach)), metrics=tuple(rules)
    )


def sums_of(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    """The sums over all series by tenant, cluster, metric and window, with their histograms."""
    sums: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        into = sums.setdefault(
            tuple(row[name] for name in ("tenant", "cluster", "metric", "kind", "unit", "window")),
            {**dict.fromkeys((*_EXACT, *_FLOATS), 0), "histogram": Counter()},
        )
        for name in (*_EXACT, *_FLOATS):
            into[name] += row[name]
        into["histogram"].update(row["histogram"])
    return sums


def assert_same_sums(given_rows: list[Row], expected: list[Row]) -> None:
    """Equal by metric and window; sums of floats within 1e-9 of what was added."""
    have, want = sums_of(given_rows), sums_of(expected)
    assert have.keys() == want.keys()
    for key, row in want.items():
        for name in (*_EXACT, "histogram"):
            assert have[key][name] == row[name], (name, key)
        for name in _FLOATS:
            assert have[key][name] == pytest.approx(row[name], rel=1e-9, abs=1e-3), (name, key)


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
            edge.flush(written[-1].time + 400)
        assert_same_sums(metric_rows(shaken.outbox()), metric_rows(steady.outbox()))
        assert totals_of(shaken.outbox()) == totals_of(steady.outbox())
        assert shaken.state.acknowledged() == steady.state.acknowledged()
        steady.state.close()
        shaken.state.close()
