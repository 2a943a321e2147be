"""Remote write through the edge's core: what samples become, which are refused, and histograms cut into pieces."""

from __future__ import annotations

import pytest

from catchment.errors import Invalid
from catchment.limits import Limits
from collectors.decode.families import MetricType
from collectors.decode.remote_wire import REMOTE_WRITE_1
from collectors.records import Outcome
from tests import remote_write as rw
from tests.edge_harness import EdgeHarness, Row, add_histograms, received, total

INF = float("inf")
BOUNDS = [0.5, 1]


def send(edge: EdgeHarness, *bodies: bytes, at: float) -> list[Outcome]:
    """Send requests of 1.0 that are all taken, in whole or in part."""
    outcomes = edge.send(*bodies, at=at, content_type=REMOTE_WRITE_1)
    assert all(isinstance(outcome, Outcome) for outcome in outcomes), outcomes
    return outcomes  # type: ignore[return-value]


def requests(time: float, turn: int) -> list[rw.Series]:
    """A histogram that grows by (1, 2, 3) and 1.5 each turn."""
    return rw.histogram("req_seconds", time, [turn, 2 * turn, 3 * turn], 1.5 * turn, BOUNDS)


def grown(rows: list[Row]) -> tuple[int, float, dict[tuple[float, float], int]]:
    """Count, sum and buckets of that histogram."""
    return (
        total(rows, "req_seconds", "count"),
        total(rows, "req_seconds", "sum_float"),
        add_histograms(rows, "req_seconds"),
    )


def test_samples_become_counters_and_gauges_by_name() -> None:
    """Without a declared type ``_total`` is a counter, anything else a gauge; ``job`` is the service."""
    edge = EdgeHarness()
    for time, value in ((1, 5), (16, 9)):
        send(
            edge,
            rw.body((rw.labels("hits_total", code="200"), [(time, value)]), (rw.labels("level"), [(time, value / 2)])),
            at=time,
        )
    rows = {row["metric"]: row for row in edge.flush(20)}
    assert (rows["hits_total"]["kind"], rows["hits_total"]["sum_int"]) == ("counter", 4)
    assert (rows["hits_total"]["service"], rows["hits_total"]["attributes"]) == ("shop", '{"code":"200"}')
    assert (rows["level"]["kind"], rows["level"]["max"], rows["level"]["count"]) == ("gauge", 4.5, 2)
    assert edge.tally == {("baseline", "points"): 1}


def test_a_declared_type_makes_a_counter_of_any_name() -> None:
    """Metadata of an earlier request, or of the same one, decides what later samples are."""
    edge = EdgeHarness()
    send(edge, rw.body(metadata={"hits": MetricType.COUNTER}), at=1)
    send(edge, rw.body((rw.labels("hits"), [(2, 5)]), (rw.labels("sent"), [(2, 1)])), at=2)
    declared = {"sent": MetricType.COUNTER}
    send(edge, rw.body((rw.labels("hits"), [(3, 7)]), (rw.labels("sent"), [(3, 2)]), metadata=declared), at=3)
    send(edge, rw.body((rw.labels("sent"), [(4, 5)])), at=4)
    rows = edge.flush(5)
    found = {(row["metric"], row["kind"]): row for row in rows}
    assert found["hits", "counter"]["sum_int"] == 2
    assert found["sent", "gauge"]["count"] == 1
    assert found["sent", "counter"]["sum_int"] == 3


@pytest.mark.parametrize("bits", [63, 0])
def test_a_histogram_cut_between_requests_is_one_point(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Parts that come in several requests, over flushes, make the point when the last one is there; also where they are
    too many, or too long apart, for the short way of sorting them.
    """
    monkeypatch.setattr("collectors.reassembly._BITS", bits)
    edge = EdgeHarness()
    send(edge, rw.body(*requests(1, 1)), at=1)
    rows = edge.flush(10)
    for turn in (2, 3):
        series = requests(15 * turn, turn)
        for at in range(len(series)):
            send(edge, rw.body(series[at]), at=15 * turn)
            rows += edge.flush(15 * turn)
    assert grown(rows) == (12, 3.0, {(-INF, 0.5): 2, (0.5, 1.0): 4, (1.0, INF): 6})
    assert edge.tally == {("baseline", "points"): 1}


def test_a_new_histogram_waits_for_its_series() -> None:
    """The first point of a group stays until its parts had time to come, so that it is not taken for whole too soon."""
    edge = EdgeHarness()
    series = requests(1, 1)
    send(edge, rw.body(*series[1:]), at=1)
    assert edge.flush(2) == []
    send(edge, rw.body(series[0]), at=3)
    edge.flush(7)
    assert edge.tally == {("baseline", "points"): 1}
    send(edge, rw.body(*requests(16, 2)), at=16)
    assert grown(edge.flush(17)) == (6, 1.5, {(-INF, 0.5): 1, (0.5, 1.0): 2, (1.0, INF): 3})


def test_a_bucket_that_comes_later_is_no_reset() -> None:
    """A part that nobody knew of when the first points were counted refines the next ones; nothing counts twice."""
    edge = EdgeHarness()
    send(edge, rw.body(*requests(1, 1)[1:]), at=1)
    edge.flush(7)
    send(edge, rw.body(*requests(16, 2)[1:]), at=16)
    rows = edge.flush(17)
    send(edge, rw.body(*requests(31, 3)), at=31)
    rows += edge.flush(32)
    send(edge, rw.body(*requests(46, 4)), at=46)
    rows += edge.flush(47)
    assert grown(rows) == (18, 4.5, {(-INF, 1.0): 6, (-INF, 0.5): 1, (0.5, 1.0): 2, (1.0, INF): 9})
    assert edge.points_tallied("reset") == 0


def test_a_bucket_that_stays_away_is_done_without() -> None:
    """After ``held_seconds_max`` a point is counted without it, with a remark; the group has what is left of it."""
    edge = EdgeHarness()
    send(edge, rw.body(*requests(1, 1)), at=1)
    edge.flush(7)
    send(edge, rw.body(*requests(16, 2)[1:]), at=16)
    assert edge.flush(75) == []
    rows = edge.flush(76)
    assert edge.points_tallied("buckets_missing") == 1
    send(edge, rw.body(*requests(91, 3)[1:]), at=91)
    rows += edge.flush(92)
    assert grown(rows) == (12, 3.0, {(-INF, 1.0): 6, (1.0, INF): 6})


def test_a_point_without_its_sum_is_given_up_and_nothing_is_lost() -> None:
    """Its increase is in the next whole point."""
    edge = EdgeHarness()
    send(edge, rw.body(*requests(1, 1)), at=1)
    edge.flush(7)
    send(edge, rw.body(*[s for s in requests(16, 2) if not s[0]["__name__"].endswith("_sum")]), at=16)
    rows = edge.flush(80)
    assert edge.points_tallied("parts_missing") == 1
    send(edge, rw.body(*requests(91, 3)), at=91)
    rows += edge.flush(92)
    assert grown(rows) == (12, 3.0, {(-INF, 0.5): 2, (0.5, 1.0): 4, (1.0, INF): 6})


def test_retries_count_once() -> None:
    """A request that is sent again, whole or in pieces, before or after a flush, is repeated."""
    edge = EdgeHarness()
    rows = []
    for turn in (1, 2):
        body = rw.body(*requests(15 * turn, turn), (rw.labels("hits_total"), [(15 * turn, turn)]))
        send(edge, body, body, at=15 * turn)
        rows += edge.flush(15 * turn + 7)
        send(edge, body, rw.body(requests(15 * turn, turn)[1]), at=15 * turn + 8)
        rows += edge.flush(15 * turn + 9)
    assert grown(rows) == (6, 1.5, {(-INF, 0.5): 1, (0.5, 1.0): 2, (1.0, INF): 3})
    assert total(rows, "hits_total", "sum_int") == 1
    # Of the counter twice a turn, of the histogram once: what came before it was out counts by sample.
    assert (edge.points_tallied("repeated"), edge.tally["repeated", "samples"]) == (6, 2 * (5 + 1))


def test_stale_markers_end_gauges_and_are_skipped_for_what_counts() -> None:
    """A gauge is held up to its stale marker; a counter and a histogram go on where they were."""
    edge = EdgeHarness()

    def scrape(time: float, turn: int, stale: bool = False) -> None:
        series = [
            *requests(time, turn),
            (rw.labels("level"), [(time, 2.0)]),
            (rw.labels("hits_total"), [(time, float(turn))]),
        ]
        if stale:
            series = [(names, [(time, rw.STALE)]) for names, _ in series]
        send(edge, rw.body(*series), at=time)

    scrape(0, 1)
    rows = edge.flush(8)
    scrape(10, 1, stale=True)
    rows += edge.flush(12)
    scrape(20, 3)
    rows += edge.flush(400)
    assert total(rows, "level", "observed_seconds") == 10 + 300
    assert total(rows, "hits_total", "sum_int") == 2
    assert grown(rows)[0] == 12
    assert edge.points_tallied("no_recorded_value") == 2
    assert edge.tally["no_recorded_value", "samples"] == 5


def test_summaries_keep_count_and_sum() -> None:
    """Quantiles are counted and dropped; NaN among them harms nothing."""
    edge = EdgeHarness()
    send(edge, rw.body(metadata={"rpc": MetricType.SUMMARY}), at=0)
    rows = []
    for turn in (1, 2):
        time = 10 * turn
        series = [
            (rw.labels("rpc", quantile="0.5"), [(time, float("nan"))]),
            (rw.labels("rpc_sum"), [(time, 2.5 * turn)]),
            (rw.labels("rpc_count"), [(time, 4.0 * turn)]),
        ]
        for one in series:
            send(edge, rw.body(one), at=time)
        rows += edge.flush(time + 6)
    assert [row["kind"] for row in rows] == ["summary"] * 2
    assert (total(rows, "rpc", "count"), total(rows, "rpc", "sum_float")) == (4, 2.5)
    assert edge.tally["summary_quantiles", "values"] == 2


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"job": "shop"}, "no_name"),
        ({}, "no_name"),
        ({"__name__": "x", "": "y"}, "attributes_malformed"),
        ({"__name__": "x" * 2000}, "name_too_long"),
        ({"__name__": "x", "a": "b" * 5000}, "attribute_too_long"),
        ({"__name__": "x", **{f"l{i}": "v" for i in range(200)}}, "attributes_too_many"),
    ],
)
def test_series_that_cannot_be_used_are_refused_alone(names: dict[str, str], reason: str) -> None:
    """The sender is told how many samples and why; those beside them count."""
    edge = EdgeHarness()
    (outcome,) = send(edge, rw.body((names, [(1, 1), (2, 2)]), (rw.labels("level"), [(1, 1)])), at=1)
    assert outcome.points_rejected == 2 and reason in outcome.message and outcome.written.samples == 1
    assert [row["metric"] for row in edge.flush(2)] == ["level"]
    assert edge.points_tallied(reason) == 2


def test_a_label_that_stands_twice_is_refused() -> None:
    """Which of the values is meant nobody can know."""
    request = rw.pb.WriteRequest.FromString(rw.body((rw.labels("level"), [(1, 1)])))
    request.timeseries[0].labels.append(rw.pb.Label(name=b"job", value=b"other").SerializeToString())
    edge = EdgeHarness()
    (outcome,) = send(edge, request.SerializeToString(), at=1)
    assert outcome.points_rejected == 1 and "attributes_malformed" in outcome.message


def test_labels_in_another_order_are_the_same_series() -> None:
    """Unsorted labels are taken, though the specification wants them sorted."""
    edge = EdgeHarness()
    for time, names in (
        (1, rw.labels("hits_total", a="1")),
        (2, dict(reversed(rw.labels("hits_total", a="1").items()))),
    ):
        send(edge, rw.body((names, [(time, time)])), at=time)
    (row,) = edge.flush(3)
    assert row["sum_int"] == 1


def test_times_are_checked_and_told() -> None:
    """Samples of long ago or of tomorrow are refused, in the answer too."""
    edge = EdgeHarness(Limits(past_seconds_max=60, future_seconds_max=60))
    (outcome,) = send(edge, rw.body((rw.labels("level"), [(1, 1), (100, 1), (200, 1)])), at=100)
    assert (outcome.points_rejected, outcome.written.samples) == (2, 1)
    edge.flush(100)
    assert (edge.points_tallied("too_old"), edge.points_tallied("too_far_in_future")) == (1, 1)


def test_nan_is_skipped_without_telling() -> None:
    """Prometheus writes NaN as an ordinary value, and would only log an answer that it cannot act upon."""
    edge = EdgeHarness()
    (outcome,) = send(edge, rw.body((rw.labels("level"), [(1, float("nan")), (2, 3.0)])), at=2)
    assert outcome.points_rejected == 0
    (row,) = edge.flush(3)
    assert (row["count"], edge.points_tallied("not_finite")) == (1, 1)


def test_a_bad_request_hurts_no_other() -> None:
    """A request that is no message is `Invalid`; the one that came with it counts."""
    edge = EdgeHarness()
    good = rw.body((rw.labels("level"), [(1, 1)]))
    bad, fine = edge.send(good[:-1], good, at=1, content_type=REMOTE_WRITE_1)
    assert isinstance(bad, Invalid) and isinstance(fine, Outcome)
    assert len(edge.flush(2)) == 1


def test_two_clusters_learn_types_of_their_own() -> None:
    """What one cluster declares says nothing of another's series."""
    edge = EdgeHarness()
    for cluster in ("tokyo-1", "osaka-1"):
        body = rw.body(metadata={"hits": MetricType.COUNTER}) if cluster == "tokyo-1" else rw.body()
        edge.send(body, at=0, cluster=cluster, content_type=REMOTE_WRITE_1)
        edge.send(rw.body((rw.labels("hits"), [(1, 1)])), at=1, cluster=cluster, content_type=REMOTE_WRITE_1)
    assert sorted(row["kind"] for row in edge.flush(2)) == ["counter", "gauge"]


def test_what_is_held_is_bounded() -> None:
    """Beyond the limit the points that wait longest are given up."""
    edge = EdgeHarness(Limits(held_samples_max=6))
    for turn in (1, 2, 3):
        send(edge, rw.body(*requests(turn, turn)[1:]), at=turn)
    edge.flush(3)
    assert edge.points_tallied("parts_missing") == 2
    assert len(edge.edge.remote.reassembly.held) == 4


def test_caches_that_are_full_are_emptied_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """More series than are remembered cost time, nothing else: what is held, and staged meanwhile, counts as ever."""
    monkeypatch.setattr("collectors.remote_series._ROWS_MAX", 3)
    edge = EdgeHarness(Limits(points_per_chunk_max=2))
    rows: list[Row] = []
    for turn in (1, 2, 3):
        time = 15.0 * turn
        bodies = [rw.body(series) for series in requests(time, turn)]
        bodies.append(rw.body((rw.labels("hits_total"), [(time, float(turn))])))
        staged = []
        for body in bodies:
            request = received(body, time, content_type=REMOTE_WRITE_1)
            staged.append((edge.edge.stage([request], [body])[1], request))
        for each, request in staged:
            edge.edge.apply(each, [request])
        rows += edge.flush(time + 6)
    assert edge.edge.remote.series.generation > 3
    assert grown(rows) == (12, 3.0, {(-INF, 0.5): 2, (0.5, 1.0): 4, (1.0, INF): 6})
    assert total(rows, "hits_total", "sum_int") == 2


def test_types_beyond_the_limit_stay_unknown() -> None:
    """Families that find no room are counted, and their series are what their names say."""
    edge = EdgeHarness(Limits(metric_families_max=1))
    send(edge, rw.body(metadata={"a": MetricType.COUNTER, "b": MetricType.COUNTER}), at=0)
    send(edge, rw.body((rw.labels("a"), [(1, 1)]), (rw.labels("b"), [(1, 1)])), at=1)
    assert {row["metric"]: row["kind"] for row in edge.flush(2)} == {"a": "counter", "b": "gauge"}
    assert edge.tally["families_full", "families"] == 1
