"""What rules do with the rows of what they keep: wider windows, rarer flushes, coarser histograms."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import pytest

from catchment.config_policies import MetricPolicy, Policies
from catchment.envelope import decode
from catchment.errors import Retry
from catchment.limits import Limits
from tests.durable_edge import DurableEdge, metric_rows, totals_of
from tests.edge_harness import Row, add_histograms, total
from tests.model.test_collector_state import failing_after
from tests.otlp import (
    CUMULATIVE,
    DELTA,
    body,
    counter,
    explicit,
    exponential,
    exponential_histogram,
    gauge,
    histogram,
    number,
)

COARSE = Policies(metrics=(MetricPolicy(match="coarse.*", resolution_seconds=300),))
SLOW = Policies(metrics=(MetricPolicy(match="slow.*", flush_seconds=60.0),))


def _send(edge: DurableEdge, at: float, value: int, *names: str) -> None:
    edge.send(body(*(counter(name, number(at, value, start=1)) for name in names)), at)


def _envelopes(edge: DurableEdge, lane: str = "metrics_cluster") -> list[list[Row]]:
    return [decode(row.value).rows.to_pylist() for row in edge.outbox() if row.lane == lane]


def _metrics(edge: DurableEdge) -> list[tuple[str, int]]:
    return [(row["metric"], int(row["sum_int"])) for rows in _envelopes(edge) for row in rows]


def test_resolution_makes_wider_windows_of_the_same_sums(tmp_path: Path) -> None:
    """A rule's rows are of five minutes, one a series and window, others of one; what they add up to is the same."""
    edge = DurableEdge(tmp_path, Limits(points_per_chunk_max=2), COARSE)
    for minute in range(10):
        at = 60.0 * minute + 30
        _send(edge, at, 10 * minute, "coarse.hits", "hits")
        edge.send(body(gauge("coarse.level", number(at, minute)), gauge("level", number(at, minute))), at)
    edge.flush(2000)
    rows = metric_rows(edge.outbox())
    widths = {row["metric"]: row["window_seconds"] for row in rows}
    assert widths == {"coarse.hits": 300, "coarse.level": 300, "hits": 60, "level": 60}
    assert [row["window"] for row in rows if row["metric"] == "coarse.hits"] == [0.0, 300.0]
    for name in ("points", "count", "sum_int", "integral", "observed_seconds"):
        for metric in ("hits", "level"):
            assert total(rows, f"coarse.{metric}", name) == total(rows, metric, name) != 0 or name in _NEUTRAL[metric]
    (first, second) = (row for row in rows if row["metric"] == "coarse.level" and row["count"])
    assert [(row["min"], row["max"], row["last_value"]) for row in (first, second)] == [(0, 4, 4), (5, 9, 9)]


_NEUTRAL = {"hits": ("integral", "observed_seconds"), "level": ()}


def test_control_totals_of_wider_windows_are_their_own(tmp_path: Path) -> None:
    """A window of five minutes and one of one that begin together have a row each, with the digest of their points."""
    edge = DurableEdge(tmp_path, Limits(), COARSE)
    _send(edge, 310, 5, "coarse.hits", "hits")
    _send(edge, 320, 7, "coarse.hits", "hits")
    _send(edge, 400, 9, "coarse.hits")
    edge.flush(410)
    ((*totals,),) = _envelopes(edge, "totals")
    assert sorted((row["window_seconds"], row["points"], row["rows"]) for row in totals) == [(60, 2, 1), (300, 3, 1)]
    digest = sum(decode(row.value).header.totals.digest for row in edge.outbox() if row.lane == "metrics_cluster")
    assert (
        sum(row["digest"] for row in totals) % 2**64
        == digest % 2**64
        == edge.state.acknowledged()["acme", "metrics"][1]
    )
    assert len({row["digest"] for row in totals}) == 2


def test_a_held_gauge_goes_on_in_wide_windows_after_a_restart(tmp_path: Path) -> None:
    """The treatment of a series is persisted with it: staleness ends without another point."""
    edge = DurableEdge(tmp_path, Limits(), COARSE)
    edge.send(body(gauge("coarse.level", number(10, 3))), 10)
    edge.flush(20)
    edge.crash()
    edge.flush(1000)
    rows = metric_rows(edge.outbox())
    assert {row["window_seconds"] for row in rows} == {300}
    assert total(rows, "coarse.level", "observed_seconds") == 300


def test_flush_holds_rows_until_their_period_is_over(tmp_path: Path) -> None:
    """Rows of a slow rule leave once a minute, merged, with their own control totals; others with each flush."""
    edge = DurableEdge(tmp_path, Limits(), SLOW)
    held = []
    for step in range(1, 20):
        _send(edge, 10.0 * step, step, "slow.hits", "hits")
        edge.flush(10.0 * step + 1)
        held.append(len(edge.state.held()))
        assert sum(points for points, _ in totals_of(edge.outbox()).values()) == sum(
            row["points"] for rows in _envelopes(edge) for row in rows
        )
        if step % 3 == 0:
            edge.crash()
    slow = [value for metric, value in _metrics(edge) if metric == "slow.hits"]
    assert len([value for metric, value in _metrics(edge) if metric == "hits"]) >= 19
    # A metric and its control totals a flush; what leaves takes the fresh rows along.
    assert set(held) >= {0, 2, 4, 6, 8} and max(held) <= 12
    leaves = [place for place, count in enumerate(held) if count == 0]
    assert len(leaves) == 3 and {later - sooner for sooner, later in itertools.pairwise(leaves)} <= {6, 7}
    edge.flush(400, release=True)
    assert edge.state.held() == []
    assert len(slow) < 19 and total(metric_rows(edge.outbox()), "slow.hits", "sum_int") == 19
    assert edge.state.acknowledged()["acme", "metrics"][0] == 38


def test_held_rows_are_merged_when_they_are_many(tmp_path: Path) -> None:
    """However short the flush, what is held stays a few envelopes, and leaves as one row a series and window."""
    edge = DurableEdge(tmp_path, Limits(), Policies(metrics=(MetricPolicy(match="*", flush_seconds=3600.0),)))
    most = 0
    for step in range(1, 100):
        _send(edge, 100 + step / 4, step, "hits")
        edge.flush(100 + step / 4)
        most = max(most, len(edge.state.held()))
    assert most <= 2 * 17 and _envelopes(edge) == []
    edge.flush(130, release=True)
    assert _metrics(edge) == [("hits", 80), ("hits", 19)]
    assert sum(points for points, _ in totals_of(edge.outbox()).values()) == 99


@pytest.mark.parametrize("statements", range(0, 14, 2))
def test_a_flush_that_fails_holds_and_lets_go_of_nothing(tmp_path: Path, statements: int) -> None:
    """Whether it fails while rows are held or while they leave: they are in one place, once, after a crash too."""
    edge = DurableEdge(tmp_path, Limits(), SLOW)
    for at, release in ((10.0, False), (20.0, False), (30.0, True)):
        _send(edge, at, int(at), "slow.hits", "hits")
        before = len(edge.state.held()), len(edge.outbox())
        try:
            with failing_after(edge.state, statements):
                edge.flush(at, release=release)
        except Retry:
            assert (len(edge.state.held()), len(edge.outbox())) == before
            edge.crash()
            edge.flush(at, release=release)
    rows = metric_rows(edge.outbox())
    assert total(rows, "slow.hits", "sum_int") == total(rows, "hits", "sum_int") == 30
    assert edge.state.held() == []


def test_a_held_envelope_that_cannot_be_read_stays_and_stops_nothing(tmp_path: Path) -> None:
    """What a newer program held waits for it; everything else leaves as ever."""
    edge = DurableEdge(tmp_path, Limits(), SLOW)
    _send(edge, 10, 5, "slow.hits", "hits")
    edge.flush(11)
    database = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    database.execute("INSERT INTO held (seconds, since_ns, value) VALUES (60, 1, x'00')")
    database.close()
    for at in (20.0, 30.0):
        _send(edge, at, int(at), "slow.hits", "hits")
        edge.flush(at + 1)
    edge.flush(40, release=True)
    assert total(metric_rows(edge.outbox()), "slow.hits", "sum_int") == 30
    assert [part.since_ns for part in edge.state.held()] == [1]


def test_what_waits_is_merged_with_windows_of_several_widths(tmp_path: Path) -> None:
    """The ladder of an outage widens minutes to five of them and leaves what is as wide already; sums stay."""
    edge = DurableEdge(tmp_path, Limits(), COARSE)
    for minute in range(10):
        _send(edge, 60.0 * minute + 30, minute + 1, "coarse.hits", "hits")
        edge.flush(60.0 * minute + 31)
    before = edge.state.acknowledged()
    while edge.flusher.coarsen():
        pass
    rows = [row for rows in _envelopes(edge) for row in rows]
    assert {row["window_seconds"] for row in rows} <= {300, 3600}
    assert [sum(each for name, each in _metrics(edge) if name == metric) for metric in ("hits", "coarse.hits")] == [
        10
    ] * 2
    totals = totals_of(edge.outbox()).values()
    assert sum(points for points, _ in totals) == before["acme", "metrics"][0] == 20
    assert sum(digest for _, digest in totals) % 2**64 == before["acme", "metrics"][1]


def test_what_is_held_leaves_before_policies_change(tmp_path: Path) -> None:
    """Under the version that it was made under, also when the change comes with a restart."""
    edge = DurableEdge(tmp_path, Limits(), SLOW)
    _send(edge, 10, 5, "slow.hits")
    edge.flush(11)
    edge.change(COARSE, 12)
    assert edge.state.held() == [] and _metrics(edge) == [("slow.hits", 5)]
    edge.change(SLOW, 13)
    _send(edge, 20, 7, "slow.hits")
    edge.flush(21)
    edge.crash(COARSE)
    assert edge.state.held() == []
    versions = [decode(row.value).header.policy_version for row in edge.outbox() if row.lane == "metrics_cluster"]
    assert versions == [SLOW.version] * 2


def _scale(scale: int) -> Policies:
    return Policies(metrics=(MetricPolicy(match="*", histogram_scale=scale),))


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_histogram_scale_folds_exponential_histograms(tmp_path: Path, temporality: int) -> None:
    """Their buckets are those of the scale; negative ones and the zero bucket too; nothing leaves its interval."""
    edge = DurableEdge(tmp_path, Limits(), _scale(0))
    point = exponential(10, 5, 0, [1] * 64, negative_offset=32, negative=[2] * 32, zeros=7, total=0.0, start=1)
    edge.send(body(exponential_histogram("exp", point, temporality=temporality)), 10)
    edge.flush(20)
    found = add_histograms(metric_rows(edge.outbox()), "exp")
    assert found == {(1.0, 2.0): 32, (2.0, 4.0): 32, (-4.0, -2.0): 64, (0.0, 0.0): 7}


def test_histogram_scale_leaves_explicit_bounds_and_coarser_scales(tmp_path: Path) -> None:
    """Bounds are the sender's choice; a scale below the limit stays; other metrics keep theirs."""
    edge = DurableEdge(tmp_path, Limits(), Policies(metrics=(MetricPolicy(match="exp*", histogram_scale=2),)))
    exp = exponential(10, 0, 0, [3], start=1)
    lat = explicit(10, [1, 2, 4], [1.05, 1.1], start=1)
    fine = exponential(10, 5, 0, [5, 6], start=1)
    edge.send(
        body(exponential_histogram("exp", exp), histogram("exp.lat", lat), exponential_histogram("fine", fine)),
        10,
    )
    edge.flush(20)
    rows = metric_rows(edge.outbox())
    assert add_histograms(rows, "exp") == {(1.0, 2.0): 3}
    assert len(add_histograms(rows, "exp.lat")) == 3 and len(add_histograms(rows, "fine")) == 2


def test_a_finer_scale_comes_back_with_the_next_increase(tmp_path: Path) -> None:
    """Baselines stay as fine as they came, so a change of the rule is no reset and loses no bucket."""
    edge = DurableEdge(tmp_path, Limits(), _scale(0))
    for at, policies in ((10, _scale(-1)), (20, Policies()), (30, None)):
        edge.send(body(exponential_histogram("exp", exponential(at, 5, 0, [at, at], total=1.0, start=1))), at)
        if policies is not None:
            edge.change(policies, at + 1)
    edge.flush(40)
    found = sorted(add_histograms(metric_rows(edge.outbox()), "exp").items())
    assert [(count, interval) for interval, count in found if interval in ((1.0, 2.0), (1.0, 4.0))] == [
        (20, (1.0, 2.0)),
        (20, (1.0, 4.0)),
    ]
    assert [count for _, count in found] == [10, 20, 20, 10]
    assert not [row for row in _envelopes(edge, "drops") if row]
