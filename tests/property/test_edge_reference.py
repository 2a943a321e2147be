"""The edge gives what the plain reference gives: by series and window, exact for integers, counts and buckets."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from catchment.limits import Limits
from collectors.edge import Drained
from tests.edge_harness import EdgeHarness, Row, rows_of
from tests.edge_reference import Cell, Key, Reference
from tests.edge_streams import Written, streams
from tests.otlp import SECOND_NS, T0_NS, ns

RANDOM = st.integers(0, 2**63).map(Random)


def cells_of(rows: list[Row]) -> dict[Key, Cell]:
    """Rows of any number of flushes, added up by series and window in plain Python."""
    cells: dict[Key, Cell] = {}
    for row in rows:
        texts = (row[name] for name in ("tenant", "cluster", "service", "metric", "kind", "unit", "attributes"))
        cell = cells.setdefault((*texts, T0_NS + round(row["window"] * SECOND_NS)), Cell())
        for name in ("points", "count", "sum_int", "sum_float", "integral", "observed_seconds"):
            setattr(cell, name, getattr(cell, name) + row[name])
        cell.see(row["min"], row["max"])
        cell.histogram.update(row["histogram"])
        if row["last_time_ns"] is not None:
            cell.last = max(cell.last or (0, 0.0), (row["last_time_ns"], row["last_value"]))
        if row["exemplar_value"] is not None:
            found = tuple(row[f"exemplar_{part}"] for part in ("value", "time_ns", "trace_id", "span_id"))
            cell.exemplar = found if cell.exemplar is None else max(cell.exemplar, found)
    return cells


def assert_equal(given_cells: dict[Key, Cell], expected: dict[Key, Cell]) -> None:
    """Exact but for sums of fractions, which may differ by what their magnitudes leave uncertain."""
    for key in {*given_cells, *expected}:
        have, want = given_cells.get(key, Cell()), expected.get(key, Cell())
        for name in ("points", "count", "sum_int", "histogram", "min", "max", "last", "exemplar"):
            assert getattr(have, name) == getattr(want, name), (name, key)
        for name in ("sum_float", "integral", "observed_seconds"):
            tolerance = 1e-9 * max(want.magnitude, want.observed_seconds)
            assert getattr(have, name) == pytest.approx(getattr(want, name), rel=1e-9, abs=tolerance), (name, key)


def digests_of(drained: list[Drained], edge: EdgeHarness) -> Counter[tuple[str, str, int]]:
    """The digests of any number of flushes, added up by tenant, cluster and window."""
    result: Counter[tuple[str, str, int]] = Counter()
    for each in drained:
        for (slot, _, window_ns), digest in each.digests.items():
            place = edge.catalog.places[slot]
            key = (place.tenant, place.cluster, window_ns)
            result[key] = (result[key] + digest) % 2**64
    return result


def _arrivals(rng: Random, written: list[Written]) -> list[Written]:
    """The points as they arrive: some late, some twice."""
    arriving = [
        (each.time + (rng.choice((5.0, 100.0, 700.0)) if rng.random() < 0.1 else 0.0), each) for each in written
    ]
    arriving += [(time + rng.choice((0.0, 1.0, 500.0)), each) for time, each in arriving if rng.random() < 0.15]
    return [each for _, each in sorted(arriving, key=lambda pair: pair[0])]


@settings(max_examples=60)
@given(RANDOM)
@example(Random(392))  # a start behind its time
@example(Random(126707))  # the same, and no value
def test_edge_equals_the_reference(rng: Random) -> None:
    """All kinds together, with resets, gaps, bad values, late and repeated points, in several requests and flushes."""
    edge = EdgeHarness()
    reference = Reference(known_since_ns=ns(-3600))
    rows: list[Row] = []
    now = 0.0
    batch: list[Written] = []
    arrivals = _arrivals(rng, streams(rng))
    for i, each in enumerate(arrivals):
        now = max(now, each.time)
        batch.append(each)
        if rng.random() < 0.3 or i == len(arrivals) - 1:
            for one in batch:
                edge.send(one.body, at=now, tenant=one.tenant, cluster=one.cluster)
                reference.apply(one.tenant, one.cluster, one.body)
            batch = []
        if rng.random() < 0.15:
            rows += edge.flush(now)
            reference.drain(ns(now))
    rows += edge.flush(now + 400)
    reference.drain(ns(now + 400))
    assert_equal(cells_of(rows), reference.cells)
    digests = digests_of(edge.drained, edge)
    assert +digests == +reference.digests
    for reason in ("baseline", "reset", "no_recorded_value", "late_gauge"):
        assert edge.points_tallied(reason) == reference.tally[reason], reason
    # A late point that came twice may be called either.
    skipped = [edge.points_tallied(reason) for reason in ("repeated", "late_cumulative")]
    assert sum(skipped) == reference.tally["repeated"] + reference.tally["late_cumulative"]


@settings(max_examples=30)
@given(RANDOM)
def test_edge_gives_the_same_for_any_split_retry_and_chunking(rng: Random) -> None:
    """The same points in other requests, chunks and flushes, some sent twice, give the same cells and digest."""
    written = streams(rng, writers_max=5, points_max=8)
    whole = EdgeHarness()
    for each in written:
        whole.send(each.body, at=each.time, tenant=each.tenant, cluster=each.cluster)
    expected = whole.flush(written[-1].time + 400)

    edge = EdgeHarness(Limits(points_per_chunk_max=rng.choice((1, 2, 5, 10**6))))
    rows: list[Row] = []
    sent: list[Written] = []
    for each in written:
        sent.append(each)
        edge.send(each.body, at=each.time, tenant=each.tenant, cluster=each.cluster)
        if rng.random() < 0.3:
            again = rng.choice(sent)
            edge.send(again.body, at=each.time, tenant=again.tenant, cluster=again.cluster)
        if rng.random() < 0.2:
            drained = edge.edge.drain(ns(each.time))
            if rng.random() < 0.3:
                edge.edge.put_back(drained)
            else:
                rows += rows_of(drained.rows)
                edge.drained.append(drained)
                edge.seen.seal(ns(each.time), edge.limits.lateness_seconds * SECOND_NS)
    rows += edge.flush(written[-1].time + 400)
    want = cells_of(expected)
    for cell in want.values():
        cell.magnitude = abs(cell.sum_float) + abs(cell.integral) + 1e6
    assert_equal(cells_of(rows), want)
    assert +digests_of(edge.drained, edge) == +digests_of(whole.drained, whole)


@settings(max_examples=20)
@given(RANDOM)
def test_edge_gives_the_same_for_many_points_in_one_body(rng: Random) -> None:
    """All points of a sender in one body, in any order, give the same cells as one body each."""
    written = streams(rng, writers_max=5, points_max=8)
    apart, together = EdgeHarness(), EdgeHarness()
    for each in written:
        apart.send(each.body, at=written[-1].time, tenant=each.tenant, cluster=each.cluster)
    rng.shuffle(written)
    senders = {(each.tenant, each.cluster) for each in written}
    now = max(each.time for each in written)
    for tenant, cluster in sorted(senders):
        bodies = [each.body for each in written if (each.tenant, each.cluster) == (tenant, cluster)]
        # Protobuf messages concatenate: repeated fields are appended.
        together.send(b"".join(bodies), at=now, tenant=tenant, cluster=cluster)
    want = cells_of(apart.flush(now + 400))
    for cell in want.values():
        cell.magnitude = abs(cell.sum_float) + abs(cell.integral) + 1e6
    assert_equal(cells_of(together.flush(now + 400)), want)
    assert +digests_of(together.drained, together) == +digests_of(apart.drained, apart)
