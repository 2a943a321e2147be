"""Any restart, clean or by a crash, gives the same totals, digests and points, by what stands in the outbox."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catchment.limits import Limits
from tests.durable_edge import DurableEdge, metric_rows, totals_of
from tests.edge_harness import Row
from tests.edge_streams import streams
from tests.otlp import body, counter, number

FLOATS = ("sum_float", "integral", "observed_seconds")


def _by_key(rows: list[Row]) -> dict[tuple[Any, ...], Row]:
    keys = ("tenant", "cluster", "series_id", "window")
    return {tuple(row[key] for key in keys): row for row in rows}


def assert_same_rows(given_rows: list[Row], expected: list[Row]) -> None:
    """Equal by series and window; sums of floats within 1e-9 of what was added."""
    have, want = _by_key(given_rows), _by_key(expected)
    assert have.keys() == want.keys()
    for key, row in want.items():
        for name, value in row.items():
            if name in FLOATS:
                assert have[key][name] == pytest.approx(value, rel=1e-9, abs=1e-3), (name, key)
            else:
                assert have[key][name] == value, (name, key)


@settings(max_examples=10)
@given(st.integers(0, 2**63).map(Random))
def test_restarts_change_nothing(rng: Random) -> None:
    """Restarts after a flush, crashes before one, retries and small chunks: as if one process had never stopped."""
    written = streams(rng, writers_max=6, points_max=10)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        steady = DurableEdge(Path(one), Limits())
        shaken = DurableEdge(Path(other), Limits(points_per_chunk_max=rng.choice((1, 3, 10**6))))
        for i, each in enumerate(written):
            steady.send(each.body, each.time, each.tenant, each.cluster)
            shaken.send(each.body, each.time, each.tenant, each.cluster)
            if rng.random() < 0.2:
                again = written[rng.randint(0, i)]
                shaken.send(again.body, each.time, again.tenant, again.cluster)
            if rng.random() < 0.25:
                shaken.flush(each.time)
            if rng.random() < 0.25:
                shaken.crash()
        for edge in (steady, shaken):
            edge.flush(written[-1].time + 400)
        assert_same_rows(metric_rows(shaken.outbox()), metric_rows(steady.outbox()))
        assert totals_of(shaken.outbox()) == totals_of(steady.outbox())
        assert shaken.state.acknowledged() == steady.state.acknowledged()
        steady.state.close()
        shaken.state.close()


@settings(max_examples=8)
@given(st.integers(0, 2**63).map(Random))
def test_crashes_with_too_many_writers_never_count_twice(rng: Random) -> None:
    """Eleven writers of one stream evict each other; whatever is lost is a baseline, and nothing is counted twice."""
    with tempfile.TemporaryDirectory() as folder:
        edge = DurableEdge(Path(folder), Limits(points_per_chunk_max=rng.choice((1, 4, 10**6))))
        values = [0] * 11
        time = 100.0
        for _ in range(40):
            time += 1
            writer = rng.randrange(11)
            values[writer] += rng.randint(1, 100)
            point = number(time, values[writer], start=writer + 1)
            edge.send(body(counter("hits", point)), time)
            if rng.random() < 0.3:
                edge.flush(time)
            if rng.random() < 0.2:
                edge.crash()
        edge.flush(time)
        assert sum(row["sum_int"] for row in metric_rows(edge.outbox())) <= sum(values)
        edge.state.close()
