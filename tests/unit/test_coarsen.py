"""The ladder's middle step: what waits is merged and widened, and every sum stays what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.config_policies import MetricPolicy, Policies
from catchment.envelope import decode
from catchment.limits import Limits
from catchment.reach import Reach
from collectors.coarsen import Step, next_step
from collectors.waiting import Replacement, Waiting
from tests import otlp
from tests.durable_edge import DurableEdge, metric_rows, outbox_rows, totals_of
from tests.otlp import ns

_BUCKETS = (0.1, 0.5, 1.0)


def _filled(folder: Path, flushes: int, seconds: int = 20) -> DurableEdge:
    """Flushes of a counter, a gauge and a histogram, every some seconds, from a whole hour on."""
    edge = DurableEdge(folder, Limits())
    for i in range(flushes):
        at = 7200.0 + seconds * i + 1
        counts = [i, 2 * i, 0, i]
        edge.send(
            otlp.body(
                otlp.counter("hits", otlp.number(at, 10 * i, start=3600)),
                otlp.gauge("level", otlp.number(at, i)),
                otlp.histogram("took", otlp.explicit(at, counts, _BUCKETS, start=3600, total=float(i))),
            ),
            at,
        )
        edge.flush(at)
    return edge


def _sums(edge: DurableEdge) -> dict[str, tuple[float, ...]]:
    """Of each metric: everything that adds, and the extremes."""
    sums: dict[str, tuple[float, ...]] = {}
    for row in metric_rows(edge.outbox()):
        values = [row[name] or 0 for name in ("points", "count", "sum_int", "sum_float", "integral")]
        before = sums.get(row["metric"], (0,) * (len(values) + 1))
        buckets = sum(dict(row["histogram"]).values())
        sums[row["metric"]] = tuple(a + b for a, b in zip(before, [*values, buckets], strict=True))
    return sums


def _windows(edge: DurableEdge, lane: str) -> dict[tuple[int, int], int]:
    """Points by (window start in seconds, width)."""
    points: dict[tuple[int, int], int] = {}
    for table in outbox_rows(edge.outbox(), lane).values():
        for row in table.to_pylist():
            key = row["window_start_ns"] // 10**9, row["window_seconds"]
            points[key] = points.get(key, 0) + row["points"]
    return {key: count for key, count in points.items() if count}


def _digests(edge: DurableEdge, lane: str) -> int:
    headers = [decode(row.value).header for row in edge.outbox()]
    return sum(header.totals.digest for header in headers if header.lane == lane) % 2**64


def test_flushes_of_one_window_are_merged_first(tmp_path: Path) -> None:
    """The first step loses nothing: the same rows as those of all flushes merged, in fewer bytes."""
    edge = _filled(tmp_path, 12)
    rows, totals = metric_rows(edge.outbox()), totals_of(edge.outbox())
    before, digest = sum(len(row.value) for row in edge.outbox()), _digests(edge, "metrics_cluster")
    saved = edge.flusher.coarsen()
    assert saved > before / 3
    assert sum(len(row.value) for row in edge.outbox()) == before - saved
    assert metric_rows(edge.outbox()) == rows
    assert totals_of(edge.outbox()) == totals
    assert _digests(edge, "metrics_cluster") == _digests(edge, "totals") == digest


def test_windows_widen_step_by_step_and_every_sum_stays(tmp_path: Path) -> None:
    """Minutes become five minutes, then hours, then nothing is left to do; rows and totals agree window by window."""
    edge = _filled(tmp_path, 45)
    sums, digest = _sums(edge), _digests(edge, "metrics_cluster")
    widths = []
    while edge.flusher.coarsen():
        windows = _windows(edge, "metrics_cluster")
        assert windows == _windows(edge, "totals")
        assert _sums(edge) == sums
        assert _digests(edge, "metrics_cluster") == _digests(edge, "totals") == digest
        widths.append({seconds for _, seconds in windows})
    assert widths == [{60}, {300}, {3600}]
    assert edge.flusher.coarsen() == 0


def test_what_was_handed_over_stays_as_it_is(tmp_path: Path) -> None:
    """A publish whose outcome is unknown may have succeeded: its envelopes are the same ones when it is tried again."""
    edge = _filled(tmp_path, 6)
    handed = edge.state.hand_over(0, messages_max=3, bytes_max=10**9)
    edge.crash()
    assert edge.flusher.coarsen() > 0
    assert edge.outbox()[:3] == handed
    assert edge.state.handed() == handed[-1].sequence


def test_what_is_handed_over_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """The forwarder took an envelope while it was being merged: the merge is given up, and nothing changed."""
    edge = _filled(tmp_path, 4)
    step = next_step(edge.state.waiting(), edge.state.handed(), 60)
    assert step is not None
    edge.state.hand_over(0, messages_max=1, bytes_max=10**9)
    before = edge.outbox()
    sequences = [row.sequence for row in step.waiting]
    merged = Replacement(sequences, [("metrics_cluster", "k", b"merged")], 1, step.seconds, 999)
    assert not edge.state.replace_outbox(merged)
    assert edge.outbox() == before
    assert edge.state.meta(inbox_id="inbox-of-the-test", now_ns=0).sequence != 999


def _flushes(*merged_seconds: int, size: int = 10, minute: int = 0) -> list[Waiting]:
    """Two envelopes a flush, a flush each minute, the first one in that minute of an hour."""
    return [
        Waiting(2 * i + j + 1, "metrics_cluster", (minute + i) * 60 * 10**9, size, seconds)
        for i, seconds in enumerate(merged_seconds)
        for j in (0, 1)
    ]


@pytest.mark.parametrize(
    ("waiting", "handed", "expected"),
    [
        ([], 0, None),
        (_flushes(0), 0, (300, [1, 2])),
        (_flushes(0, 0), 0, (60, [1, 2, 3, 4])),
        (_flushes(0, 0, 0), 1, (60, [3, 4, 5, 6])),
        (_flushes(60, 0, 60, 0), 0, (60, [3, 4, 7, 8])),
        (_flushes(60, 60), 0, (300, [1, 2, 3, 4])),
        (_flushes(300, 300, 60), 0, (300, [3, 4, 5, 6])),
        (_flushes(300, 300, 60, minute=3), 0, (300, [5, 6])),
        (_flushes(3600, 0), 0, (300, [3, 4])),
        (_flushes(3600, 300), 0, (3600, [1, 2, 3, 4])),
        (_flushes(3600, 300, minute=59), 0, (3600, [3, 4])),
        (_flushes(300, 300), 0, (3600, [1, 2, 3, 4])),
        (_flushes(3600, 3600), 0, None),
        (_flushes(0, 0), 4, None),
        (_flushes(0, 0, 0, size=2 << 20), 0, (60, [1, 2, 3, 4])),
        (_flushes(0, 0, 0, size=4 << 20), 0, (300, [1, 2, 3, 4])),
        (_flushes(300, 0, 0, size=4 << 20), 0, (300, [1, 2, 3, 4])),
        (_flushes(0, 0, 0, size=4 << 20, minute=4), 0, (300, [1, 2])),
    ],
)
def test_the_oldest_that_is_merged_least_goes_first(
    waiting: list[Waiting], handed: int, expected: tuple[int, list[int]] | None
) -> None:
    """Whole flushes behind what was handed over, within the bytes of a step, by width."""
    step = next_step(waiting, handed, 60)
    found = None if step is None else (step.seconds, [row.sequence for row in step.waiting])
    assert found == expected
    assert step is None or isinstance(step, Step)


def test_a_window_takes_in_every_flush_that_comes_after(tmp_path: Path) -> None:
    """However long it lasts, an hour ends as one flush: what was widened before is merged with what comes later."""
    edge = DurableEdge(tmp_path, Limits())
    for minute in range(1, 60):
        at = 7200.0 + 60 * minute
        edge.send(otlp.body(otlp.counter("hits", otlp.number(at, minute, start=3600))), at)
        edge.flush(at)
        while edge.flusher.coarsen():
            pass
        assert len({row.created_ns for row in edge.state.waiting()}) <= 2
    assert _windows(edge, "metrics_cluster") == {(ns(7200) // 10**9, 3600): 59}
    assert _windows(edge, "totals") == {(ns(7200) // 10**9, 3600): 59}


def test_what_waits_is_merged_by_its_reach(tmp_path: Path) -> None:
    """Cluster rows of another reach stay envelopes of their own through every step, and their sums what they were."""
    policies = Policies(metrics=(MetricPolicy(match="level", reach=Reach.REGION),))
    edge = DurableEdge(tmp_path, Limits(), policies)
    for at in (7201.0, 7221.0, 7501.0):
        edge.send(
            otlp.body(otlp.counter("hits", otlp.number(at, 1, start=3600)), otlp.gauge("level", otlp.number(at, 2))), at
        )
        edge.flush(at)
    before = _sums(edge), _digests(edge, "metrics_cluster")
    while edge.flusher.coarsen():
        pass
    found = [decode(row.value) for row in edge.outbox() if row.lane == "metrics_cluster"]
    metrics = {each.header.reach: sorted(each.rows["metric"].unique().to_pylist()) for each in found}
    assert metrics == {"global": ["hits"], "region": ["level"]} and len(found) == 2
    assert (_sums(edge), _digests(edge, "metrics_cluster")) == before
