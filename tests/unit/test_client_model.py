"""Scrapes in protobuf through the edge: what a target counted is what the rows hold, as it is with text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.config_policies import MetricPolicy, Policies
from collectors.decode.client_messages import FamilyType
from collectors.decode.client_model import number_text
from collectors.decode.remote_wire import REMOTE_WRITE_2
from collectors.scrape.record import CONTENT_TYPE, Reading, Record
from collectors.scrape.survey import Survey, Surveyor
from tests import client_model as cm
from tests import remote_write as rw
from tests.client_model import GOLDEN, LABELS, pb, reading, scrape, scrape_body
from tests.conformance.native_target import (
    KEYS,
    all_observed,
    classic_counts,
    native_bucket,
    native_counts,
)
from tests.edge_harness import EdgeHarness, Row, add_histograms, total
from tests.otlp import T0_NS, ns

# Seconds after T0. The program is older than what an edge knows that begins here: its first scrape counts nothing.
RECORDED = 1_795_722_960 - T0_NS / 1e9
KEEP = Policies(metrics=(MetricPolicy(match="*", keep=("key", "le")),))


def recorded(**more: Any) -> list[Row]:
    """The rows of a recorded Go program between two of its turns."""
    edge = EdgeHarness(policies=KEEP, known_since=RECORDED)
    for i in (1, 2):
        body = (GOLDEN / f"client_golang_{i}.protobuf").read_bytes()
        scrape_body(edge, body, at=RECORDED + 15 * i, reading=reading(**more))
    return edge.flush(RECORDED + 60)


def by_key(rows: list[Row], metric: str) -> dict[str, Row]:
    """The rows of a metric by their attribute ``key``."""
    return {json.loads(row["attributes"])["key"]: row for row in rows if row["metric"] == metric}


def test_a_recorded_go_program_is_the_same_in_text() -> None:
    """Counters, gauges, summaries and classic histograms of protobuf make the rows that the text format makes."""
    texts = EdgeHarness(policies=KEEP, known_since=RECORDED)
    for i in (1, 2):
        body = (GOLDEN / f"client_golang_{i}.txt").read_bytes()
        scrape_body(texts, body, at=RECORDED + 15 * i, reading=Reading(LABELS))

    def comparable(rows: list[Row]) -> list[dict[str, Any]]:
        # Text 0.0.4 has no exemplars.
        kept = [{k: v for k, v in row.items() if not k.startswith("exemplar")} for row in rows]
        return sorted(kept, key=lambda row: (row["metric"], row["attributes"], row["kind"]))

    own = recorded(native_histograms=False)
    assert {"orders_total", "depth", "rpc_seconds", "classic_seconds", "both_seconds"} <= {row["metric"] for row in own}
    assert comparable(own) == comparable(texts.flush(RECORDED + 60))


def test_native_histograms_of_a_recorded_go_program() -> None:
    """What it observed in a turn is in exponential buckets, zeros and negative ones too, with the exemplar."""
    rows = recorded()
    for n, key in enumerate(KEYS):
        values = all_observed(range(2, 3), n)
        for metric in ("native_seconds", "both_seconds"):
            row = by_key(rows, metric)[key]
            found = {native_bucket(*interval): count for interval, count in row["histogram"].items()}
            assert found == native_counts(values), (metric, key)
            assert (row["count"], row["sum_float"]) == (len(values), pytest.approx(sum(values)))
            assert row["exemplar_trace_id"] == "0123456789abcdef0123456789abcdef"
        row = by_key(rows, "classic_seconds")[key]
        assert row["histogram"] == classic_counts(values)


def test_classic_histograms_beside_native_ones() -> None:
    """With always_scrape_classic_histograms they are counters of their own, so that nothing counts twice."""
    rows = recorded(classic_histograms=True)
    values = all_observed(range(2, 3), 0)
    assert by_key(rows, "both_seconds")["k0"]["count"] == len(values)
    assert by_key(rows, "both_seconds_count")["k0"]["kind"] == "counter"
    assert by_key(rows, "both_seconds_count")["k0"]["sum_int"] == len(values)
    buckets = {
        attributes["le"]: row["sum_int"]
        for row in rows
        if row["metric"] == "both_seconds_bucket" and (attributes := json.loads(row["attributes"]))["key"] == "k0"
    }
    expected = {"0.25": 0.25, "1.0": 1.0, "4.0": 4.0, "16.0": 16.0, "+Inf": float("inf")}
    assert buckets == {le: sum(value <= bound for value in values) for le, bound in expected.items()}


_SPARSE = st.dictionaries(st.integers(-40, 40), st.integers(0, 1000), max_size=12)


@given(
    st.integers(-4, 8),
    _SPARSE,
    _SPARSE,
    st.integers(0, 50),
    st.booleans(),
    st.floats(-1e6, 1e6),
)
def test_native_histograms_are_those_of_remote_write(
    schema: int, positive: dict[int, int], negative: dict[int, int], zeros: int, as_float: bool, added: float
) -> None:
    """A native histogram makes the same row however it came: schema, spans, signs, zeros, integers or floats."""
    written, scraped = EdgeHarness(), EdgeHarness()
    for at, times in ((15, 1), (30, 3)):
        message = rw.native(
            at,
            schema,
            {index: count * times for index, count in positive.items()},
            negative={index: count * times for index, count in negative.items()},
            zeros=zeros * times,
            total=added * times,
            as_float=as_float,
        )
        written.send(
            rw.body_2((rw.labels("size"), []), natives={"size": [message]}), at=at, content_type=REMOTE_WRITE_2
        )
        metric = pb.Metric(histogram=cm.native_of(message))
        scrape(scraped, cm.family("size", FamilyType.HISTOGRAM, metric), at=at)
    expected, rows = written.flush(60), scraped.flush(60)
    assert add_histograms(rows, "size") == add_histograms(expected, "size")
    for value in ("count", "sum_float"):
        assert total(rows, "size", value) == total(expected, "size", value)
    assert scraped.tally == written.tally


def test_a_reset_of_a_native_histogram() -> None:
    """One that fell began anew: all that it has since counts."""
    edge = EdgeHarness()
    for at, count in ((15, 10), (30, 14), (45, 3)):
        metric = pb.Metric(histogram=cm.native_of(rw.native(at, 3, {5: count})))
        scrape(edge, cm.family("size", FamilyType.HISTOGRAM, metric), at=at)
    assert total(edge.flush(60), "size", "count") == 4 + 3


def test_gauge_histograms() -> None:
    """A native gauge histogram is counted as refused; a classic one is gauges, as in text."""
    edge = EdgeHarness()
    native = pb.Metric(histogram=cm.native_of(rw.native(15, 3, {5: 2})))
    classic = pb.Metric(histogram=cm.classic([1, 3], [0.5], 2.0))
    outcome = scrape(
        edge,
        cm.family("waiting", FamilyType.GAUGE_HISTOGRAM, native),
        cm.family("held", FamilyType.GAUGE_HISTOGRAM, classic),
        at=15,
    )
    assert outcome.points_rejected == 1
    rows = edge.flush(60)
    assert {(row["metric"], row["kind"]) for row in rows} == {
        ("held_bucket", "gauge"),
        ("held_count", "gauge"),
        ("held_sum", "gauge"),
    }
    assert edge.points_tallied("unknown_temporality") == 1


def test_custom_buckets_have_no_bounds_here() -> None:
    """Schema -53 in this format has one bucket, that of everything; one with more is refused, not guessed."""
    edge = EdgeHarness()
    for at in (15, 30):
        metric = pb.Metric(histogram=cm.native_of(rw.native(at, -53, {0: at})))
        wrong = pb.Metric(label=cm.labels(a="b"), histogram=cm.native_of(rw.native(at, -53, {0: at, 1: at})))
        scrape(edge, cm.family("size", FamilyType.HISTOGRAM, metric, wrong), at=at)
    assert add_histograms(edge.flush(60), "size") == {(float("-inf"), float("inf")): 15}
    assert edge.points_tallied("buckets_malformed") == 2


def test_created_counts_from_zero() -> None:
    """With the time of its creation all that is young counts whole at once."""
    edge = EdgeHarness()
    created = pb.Timestamp(seconds=ns(-10) // 10**9, nanos=5)
    native = cm.native_of(rw.native(5, 3, {5: 6}))
    native.created_timestamp.CopyFrom(created)
    classic = cm.classic([2, 3], [1.0], 4.5)
    classic.created_timestamp.CopyFrom(created)
    summary = pb.Summary(sample_count=2, sample_sum=1, created_timestamp=created)
    scrape(
        edge,
        cm.family("hits_total", FamilyType.COUNTER, pb.Metric(counter=pb.Counter(value=7, created_timestamp=created))),
        cm.family("size", FamilyType.HISTOGRAM, pb.Metric(histogram=native)),
        cm.family("seconds", FamilyType.HISTOGRAM, pb.Metric(histogram=classic)),
        cm.family("latency", FamilyType.SUMMARY, pb.Metric(summary=summary)),
        at=5,
    )
    rows = edge.flush(60)
    assert total(rows, "hits_total", "sum_int") == 7
    assert {metric: total(rows, metric, "count") for metric in ("size", "seconds", "latency")} == {
        "size": 6,
        "seconds": 3,
        "latency": 2,
    }
    assert not edge.points_tallied("baseline")


def test_exemplars() -> None:
    """Those of counters and buckets have their sample's time where they have none; of a native histogram's own ones,
    or else its classic buckets', only those with a time are taken.
    """
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    def exemplar(value: float, at: float | None) -> bytes:
        ids = [pb.LabelPair(name=b"trace_id", value=trace.encode()), pb.LabelPair(name=b"span_id", value=span.encode())]
        message = pb.Exemplar(label=ids, value=value)
        if at is not None:
            message.timestamp.seconds = ns(at) // 10**9
        encoded: bytes = message.SerializeToString()
        return encoded

    edge = EdgeHarness()
    for at in (5, 20):
        hits = pb.Metric(counter=pb.Counter(value=at, exemplar=exemplar(1.5, None)))
        classic = cm.classic([at, at], [1.0], at)
        classic.bucket[0].exemplar = exemplar(0.5, at)
        own = cm.native_of(rw.native(at, 3, {5: at}))
        own.exemplars.extend([exemplar(9.0, None), exemplar(2.5, at)])
        other = cm.native_of(rw.native(at, 3, {5: at}))
        other.bucket.add(cumulative_count=at, upper_bound=4.0, exemplar=exemplar(3.5, at))
        scrape(
            edge,
            cm.family("hits_total", FamilyType.COUNTER, hits),
            cm.family("seconds", FamilyType.HISTOGRAM, pb.Metric(histogram=classic)),
            cm.family("own", FamilyType.HISTOGRAM, pb.Metric(histogram=own)),
            cm.family("other", FamilyType.HISTOGRAM, pb.Metric(histogram=other)),
            at=at,
        )
    rows = {row["metric"]: row for row in edge.flush(60)}
    for metric, value in (("hits_total", 1.5), ("seconds", 0.5), ("own", 2.5), ("other", 3.5)):
        row = rows[metric]
        assert (row["exemplar_value"], row["exemplar_trace_id"], row["exemplar_span_id"]) == (value, trace, span)


def test_bad_metrics_hurt_no_others() -> None:
    """A metric without the field of its type, of an unknown type, with labels that are none or too many, or with a
    stale marker is counted; all others count.
    """
    edge = EdgeHarness()
    gauge = pb.Number(value=2)
    twice = [*cm.labels(a="b"), *cm.labels(a="c")]
    outcome = scrape(
        edge,
        cm.family("level", FamilyType.GAUGE, pb.Metric(gauge=gauge), pb.Metric(untyped=gauge)),
        cm.family("odd", 17, pb.Metric(gauge=gauge)),
        cm.family("level", FamilyType.GAUGE, pb.Metric(label=[b"\x0a\xff"], gauge=gauge)),
        cm.family("level", FamilyType.GAUGE, pb.Metric(label=twice, gauge=gauge)),
        cm.family("", FamilyType.GAUGE, pb.Metric(gauge=gauge)),
        cm.family("level", FamilyType.GAUGE, pb.Metric(label=[b""] * 2000, gauge=gauge)),
        cm.family("ended", FamilyType.GAUGE, pb.Metric(gauge=pb.Number(value=rw.STALE))),
        cm.family("empty", FamilyType.GAUGE),
        cm.family("thing", FamilyType.UNTYPED, pb.Metric(untyped=gauge)),
        at=0,
    )
    assert outcome.points_rejected == 7
    rows = edge.flush(10)
    assert {row["metric"]: row["sum_int"] for row in rows} == {"level": 2, "thing": 2}
    assert edge.points_tallied("line_malformed") == 7


def test_names_and_units() -> None:
    """Names, labels and units of any letters come out as they went in; a sample's own timestamp counts."""
    edge = EdgeHarness()
    named = {"path": 'a "b"\n\\c', "ünit": "é"}
    metric = pb.Metric(label=cm.labels(**named), counter=pb.Counter(value=3), timestamp_ms=ns(-30) // 10**6)
    again = pb.Metric(label=cm.labels(**named), counter=pb.Counter(value=8), timestamp_ms=ns(-20) // 10**6)
    for each in (metric, again):
        scrape(edge, cm.family('my "requests" {x}', FamilyType.COUNTER, each, unit="two words"), at=0)
    (row,) = edge.flush(10)
    assert (row["metric"], row["kind"], row["unit"]) == ('my "requests" {x}', "counter", "two words")
    assert (row["sum_int"], row["window"], json.loads(row["attributes"])) == (5, -60, named)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.0"),
        (1.0, "1.0"),
        (0.25, "0.25"),
        (-2.5, "-2.5"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (250000.0, "250000.0"),
        (1e6, "1e+06"),
        (1048576.0, "1.048576e+06"),
        (1.5e300, "1.5e+300"),
        (-1e-7, "-1e-07"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_bounds_are_written_as_prometheus_does(number: float, text: str) -> None:
    """A bound that becomes a label is the one that Prometheus 3 makes of it."""
    assert number_text(number) == text


def test_a_gauge_that_is_no_longer_offered() -> None:
    """A survey of protobuf names the gauges that have ended, by name, type and unit, and nothing else."""
    surveyor = Surveyor(1000)

    def survey(*families: bytes) -> Survey:
        return surveyor.survey(Record(ns(0), reading().line(), b"", cm.delimited(*families), b""))

    gauge = pb.Metric(gauge=pb.Number(value=2))
    native = cm.family("size", FamilyType.HISTOGRAM, pb.Metric(histogram=cm.native_of(rw.native(0, 3, {5: 2}))))
    hits = cm.family("hits_total", FamilyType.COUNTER, pb.Metric(counter=pb.Counter(value=2)))
    labelled = pb.Metric(label=cm.labels(a='"'), gauge=pb.Number(value=2))
    before = survey(native, hits, cm.family("level_bytes", FamilyType.GAUGE, gauge, labelled, unit="bytes"))
    after = survey(cm.family("level_bytes", FamilyType.GAUGE, gauge, unit="bytes"))
    assert (before.samples, before.kept, after.samples) == (4, 4, 1)
    assert (before.added(Survey()), after.added(before)) == (4, 0)
    ended = before.ended(after)
    assert ended == (b'# TYPE "level_bytes" gauge\n# UNIT "level_bytes" bytes\n{"level_bytes","a"="\\""} stale\n')
    edge = EdgeHarness()
    body = cm.delimited(cm.family("level_bytes", FamilyType.GAUGE, labelled, unit="bytes"))
    for at, record in (
        (0, Record(ns(0), reading().line(), b"", body, b"")),
        (15, Record(ns(15), reading().line(), b"", b"", ended)),
    ):
        edge.send(record.payload(), at=at, content_type=CONTENT_TYPE)
    assert total(edge.flush(600), "level_bytes", "observed_seconds") == 15
