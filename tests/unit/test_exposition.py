"""Scrapes through the edge: what a target counted is what the rows hold."""

from __future__ import annotations

import json
from typing import Any

import prometheus_client as prom
import prometheus_client.openmetrics.exposition as openmetrics
import pytest

from catchment.config_policies import MetricPolicy, Policies
from catchment.errors import Invalid
from collectors.records import Outcome
from collectors.scrape.record import CONTENT_TYPE, Format, Reading, Record
from collectors.scrape.relabel import Rule
from tests.edge_harness import EdgeHarness, Row, total
from tests.otlp import ns

KEEP_INSTANCE = Policies(metrics=(MetricPolicy(match="*", keep=("*",)),))
TARGET = {"job": "shop/checkout", "instance": "10.0.0.1:80"}


class Target:
    """A program with one metric of each sort, that is scraped."""

    def __init__(self, *, is_openmetrics: bool = False, **reading: Any) -> None:
        self.registry = prom.CollectorRegistry()
        self.is_openmetrics = is_openmetrics
        self.reading = Reading(TARGET, format=Format.OPENMETRICS if is_openmetrics else Format.TEXT, **reading)
        self.requests = prom.Counter("requests", "r", ["path"], registry=self.registry)
        self.level = prom.Gauge("level", "l", registry=self.registry)
        self.seconds = prom.Histogram("seconds", "s", registry=self.registry, buckets=(0.1, 1, 10))
        self.latency = prom.Summary("latency", "q", registry=self.registry)

    def record(self, at: float, body: bytes | None = None, ended: bytes = b"", up: int = 1) -> bytes:
        """What a scrape leaves."""
        if body is None:
            generate: Any = openmetrics.generate_latest if self.is_openmetrics else prom.generate_latest
            # Its clock is not the test's.
            body = b"\n".join(line for line in generate(self.registry).split(b"\n") if b"_created" not in line)
        return Record(ns(at), self.reading.line(), b"# TYPE up gauge\nup %d\n" % up, body, ended).payload()


def scrape(edge: EdgeHarness, *records: bytes, at: float) -> list[Outcome]:
    """Send records as a collector's own scraper does."""
    outcomes = edge.send(*records, at=at, content_type=CONTENT_TYPE)
    assert all(isinstance(outcome, Outcome) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Outcome)]


def text_scrape(edge: EdgeHarness, *texts: str, at: float, **reading: Any) -> list[Outcome]:
    """Scrape targets that answer some text."""
    line = Reading(TARGET, **reading).line()
    return scrape(edge, *(Record(ns(at), line, b"", text.encode(), b"").payload() for text in texts), at=at)


def one(rows: list[Row], metric: str) -> Row:
    """The one row of a metric."""
    (row,) = [row for row in rows if row["metric"] == metric]
    return row


@pytest.mark.parametrize("is_openmetrics", [False, True])
def test_a_client_library_adds_up(is_openmetrics: bool) -> None:
    """What the Python client counts between scrapes is in the rows, in both of its formats."""
    edge, target = EdgeHarness(), Target(is_openmetrics=is_openmetrics)
    target.requests.labels("/").inc(5)
    target.seconds.observe(0.05)
    target.latency.observe(3)
    target.level.set(2)
    scrape(edge, target.record(5), at=5)
    for i in range(1, 4):
        target.requests.labels("/").inc(10)
        target.level.set(i)
        for value in (0.05, 0.5, 5, 50):
            target.seconds.observe(value * i)
        target.latency.observe(1.5)
        scrape(edge, target.record(5 + 15 * i), at=5 + 15 * i)
    rows = edge.flush(60)
    assert total(rows, "requests_total", "sum_int") == 30
    assert total(rows, "seconds", "count") == 12
    assert total(rows, "seconds", "sum_float") == pytest.approx(55.55 * 6)
    histogram = sorted(one(rows, "seconds")["histogram"].items())
    assert [upper for (_, upper), _ in histogram] == pytest.approx([0.1, 1, 10, float("inf")])
    assert [count for _, count in histogram] == [2, 3, 3, 4]
    assert (total(rows, "latency", "count"), total(rows, "latency", "sum_float")) == (3, 4.5)
    level = one(rows, "level")
    assert (level["kind"], level["min"], level["max"], level["last_value"]) == ("gauge", 1, 3, 3)
    assert one(rows, "up")["count"] == 4
    assert {row["service"] for row in rows} == {"shop/checkout"}


def test_created_counts_from_zero() -> None:
    """With the time of its creation a counter, a histogram and a summary that are young count whole at once."""
    edge = EdgeHarness()
    start = ns(-10) / 1e9
    text = (
        f"# TYPE requests counter\nrequests_total 7\nrequests_created {start}\n"
        '# TYPE seconds histogram\nseconds_bucket{le="1"} 2\nseconds_bucket{le="+Inf"} 3\n'
        f"seconds_count 3\nseconds_sum 4.5\nseconds_created {start}\n"
        f"# TYPE latency summary\nlatency_count 2\nlatency_sum 1\nlatency_created {start}\n# EOF\n"
    )
    text_scrape(edge, text, at=5, format=Format.OPENMETRICS)
    rows = edge.flush(60)
    assert one(rows, "requests_total")["sum_int"] == 7
    assert (one(rows, "seconds")["count"], one(rows, "seconds")["sum_float"]) == (3, 4.5)
    assert one(rows, "latency")["count"] == 2
    assert not edge.points_tallied("baseline")


def test_counters_that_differ_by_their_suffix() -> None:
    """Counters ``hits`` and ``hits_total`` with equal labels are two streams, of which neither moves the other."""
    edge = EdgeHarness()
    for at, hits, total_hits in ((0, 100, 5), (15, 110, 6)):
        text = f"# TYPE hits counter\nhits {hits}\n# TYPE hits_total counter\nhits_total {total_hits}\n"
        text_scrape(edge, text, at=at)
    rows = edge.flush(60)
    assert (total(rows, "hits", "sum_int"), total(rows, "hits_total", "sum_int")) == (10, 1)
    assert not edge.points_tallied("reset")


def test_labels_of_target_and_sample() -> None:
    """A sample's label that the target has is renamed, or wins with honor_labels; an empty one is none."""
    text = '# TYPE level gauge\nlevel{job="mine",instance="",zone="a",exported_job="x"} 1\n'
    edge = EdgeHarness(policies=KEEP_INSTANCE)
    text_scrape(edge, text, at=0)
    row = one(edge.flush(10), "level")
    assert row["service"] == "shop/checkout"
    attributes = json.loads(row["attributes"])
    assert attributes == {
        "exported_exported_job": "mine",
        "exported_job": "x",
        "service.instance.id": "10.0.0.1:80",
        "zone": "a",
    }
    text_scrape(edge, text, at=20, honor_labels=True)
    row = one(edge.flush(30), "level")
    assert row["service"] == "mine"
    assert json.loads(row["attributes"]) == {"exported_job": "x", "zone": "a"}


def test_metric_relabelling() -> None:
    """Samples are dropped, counted, renamed and relabelled; what belongs together stays together."""
    rules = (
        Rule("drop", ("__name__",), regex="noise_.*"),
        Rule("replace", ("__name__",), regex="old_(.*)", target_label="__name__", replacement="new_$1"),
        Rule("labeldrop", regex="pod"),
        Rule("replace", ("path",), target_label="__tmp", replacement="$1"),
    )
    lines = ["# TYPE noise_a gauge", "noise_a 1", "noise_a{x=\"y\"} 2", "# TYPE old_seconds histogram"]  # fmt: skip
    edge = EdgeHarness()
    for at, n in ((0, 1), (15, 3)):
        buckets = [f'old_seconds_bucket{{pod="p",path="/",le="{le}"}} {n}' for le in ("1", "+Inf")]
        parts = [f'old_seconds_count{{pod="p",path="/"}} {n}', f'old_seconds_sum{{pod="p",path="/"}} {n}']
        text_scrape(edge, "\n".join([*lines, *buckets, *parts, ""]), at=at, rules=rules)
    rows = edge.flush(60)
    assert {row["metric"] for row in rows} == {"new_seconds"}
    assert (total(rows, "new_seconds", "count"), total(rows, "new_seconds", "sum_float")) == (2, 2.0)
    assert json.loads(rows[0]["attributes"]) == {"path": "/"}
    assert edge.points_tallied("dropped_by_relabelling") == 4


def test_report_is_not_relabelled() -> None:
    """What the scraper says itself is out of reach of metric_relabel_configs, and a target cannot pass as it."""
    edge = EdgeHarness(policies=KEEP_INSTANCE)
    line = Reading({**TARGET, "zone": "a"}, rules=(Rule("drop", ("__name__",), regex="up"),)).line()
    report, body = b"# TYPE up gauge\nup 1\n", b"up 77\n"
    scrape(edge, Record(ns(0), line, report, body, b"").payload(), at=0)
    row = one(edge.flush(10), "up")
    assert (row["last_value"], json.loads(row["attributes"])["zone"]) == (1, "a")
    assert edge.points_tallied("dropped_by_relabelling") == 1


def test_declarations_end_with_their_text() -> None:
    """A type that one target declares says nothing about the next one's series, nor a unit about another family's."""
    edge = EdgeHarness()
    first = "# TYPE thing counter\n# UNIT thing bytes\nthing 5\n# TYPE other gauge\nother 1\n"
    text_scrape(edge, first, "thing 7\n", at=0)
    kinds = {(row["metric"], row["kind"], row["unit"]) for row in edge.flush(10)}
    assert kinds == {("thing", "counter", "bytes"), ("other", "gauge", ""), ("thing", "gauge", "")}


def test_timestamps() -> None:
    """A sample's own timestamp counts, in milliseconds or OpenMetrics' seconds, unless it is not to be honoured."""
    at_ms = ns(-30) // 10**6
    edge = EdgeHarness()
    text_scrape(edge, f"# TYPE level gauge\nlevel 1 {at_ms}\n", at=0)
    assert one(edge.flush(10), "level")["window"] == -60
    text_scrape(edge, f"# TYPE level2 gauge\nlevel2 1 {at_ms / 1000}\n# EOF\n", at=0, format=Format.OPENMETRICS)
    assert one(edge.flush(10), "level2")["window"] == -60
    text_scrape(edge, f"# TYPE level3 gauge\nlevel3 1 {at_ms}\n", at=0, honor_timestamps=False)
    assert one(edge.flush(10), "level3")["window"] == 0


def test_series_that_ended() -> None:
    """A gauge that has ended is held up to that scrape, not to staleness; only the scraper can say so."""
    edge = EdgeHarness()
    declared = b"# TYPE level gauge\n"
    line = Reading(TARGET).line()
    scrape(edge, Record(ns(0), line, b"", declared + b"level 4\n", b"").payload(), at=0)
    scrape(edge, Record(ns(15), line, b"", b"", declared + b"level stale\n").payload(), at=15)
    row = one(edge.flush(600), "level")
    assert (row["integral"], row["observed_seconds"]) == (60.0, 15.0)
    (outcome,) = scrape(edge, Record(ns(30), line, b"", declared + b"level stale\n", b"").payload(), at=30)
    assert outcome.points_rejected == 1
    assert "line_malformed" in outcome.message


def test_bad_lines_hurt_no_others() -> None:
    """Lines and series that are none are counted by reason; all others count."""
    edge = EdgeHarness()
    text = '# TYPE level gauge\nlevel 1\nlevel one\nlevel{a=} 2\n{} 1\nlevel{a="b"} NaN\nlevel{c="d"} 3\n'
    (outcome,) = text_scrape(edge, text, at=0)
    assert outcome.points_rejected == 4
    assert total(edge.flush(10), "level", "sum_int") == 4
    assert (edge.points_tallied("line_malformed"), edge.points_tallied("not_finite")) == (3, 1)


def test_label_limits() -> None:
    """A sample beyond a label limit of its job is refused, and the others count."""
    text = '# TYPE level gauge\nlevel 1\nlevel{a="b",c="d",e="f"} 2\nlevel{long_name="b"} 3\nlevel{a="long_value"} 4\n'
    for limited in (
        Reading({"job": "j"}, label_limit=4),
        Reading({"job": "j"}, label_name_length_limit=8),
        Reading({"job": "j"}, label_value_length_limit=9),
    ):
        edge = EdgeHarness()
        scrape(edge, Record(ns(0), limited.line(), b"", text.encode(), b"").payload(), at=0)
        assert total(edge.flush(10), "level", "count") == 3
        assert edge.points_tallied("labels_beyond_limit") == 1, limited


def test_exemplars_reach_the_rows() -> None:
    """An exemplar of a counter and of a bucket is in the row of its metric."""
    edge = EdgeHarness()
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    start = ns(-10) / 1e9
    text = (
        f'# TYPE requests counter\nrequests_total 7 # {{trace_id="{trace}",span_id="{span}"}} 1 {ns(3) / 1e9}\n'
        f"requests_created {start}\n# TYPE seconds histogram\n"
        f'seconds_bucket{{le="1"}} 2 # {{span_id="{span}",trace_id="{trace}"}} 0.5\nseconds_bucket{{le="+Inf"}} 3\n'
        f"seconds_count 3\nseconds_sum 9\nseconds_created {start}\n# EOF\n"
    )
    text_scrape(edge, text, at=5, format=Format.OPENMETRICS)
    rows = edge.flush(60)
    for metric, value in (("requests_total", 1.0), ("seconds", 0.5)):
        row = one(rows, metric)
        assert (row["exemplar_value"], row["exemplar_trace_id"], row["exemplar_span_id"]) == (value, trace, span)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"up 1\n",
        b"catchment-scrape 1\n",
        b'catchment-scrape 1\n{"time_ns":1}\n{}\n',
        b"catchment-scrape 1\n[]\n{}\n",
    ],
)
def test_records_that_are_none(payload: bytes) -> None:
    """What is no record of a scrape is refused whole and hurts no other request."""
    edge = EdgeHarness()
    good = Record(ns(0), Reading(TARGET).line(), b"", b"level 1\n", b"").payload()
    broken, whole = edge.send(payload, good, at=0, content_type=CONTENT_TYPE)
    assert isinstance(broken, Invalid)
    assert isinstance(whole, Outcome)
    assert total(edge.flush(10), "level", "count") == 1


def test_a_record_that_is_cut_off() -> None:
    """Every shorter record is refused, whatever is missing."""
    edge = EdgeHarness()
    whole = Record(ns(0), Reading(TARGET).line(), b"up 1\n", b"level 1\n", b"").payload()
    for size in range(0, len(whole), 7):
        (outcome,) = edge.send(whole[:size], at=0, content_type=CONTENT_TYPE)
        assert isinstance(outcome, Invalid)
    assert Record.of(whole).payload() == whole


def test_records_from_before_there_was_protobuf() -> None:
    """A record whose reading says only whether it is OpenMetrics is read as it was meant."""
    for is_openmetrics, format in ((True, Format.OPENMETRICS), (False, Format.TEXT)):
        fields = json.loads(Reading(TARGET).line())
        for name in ("format", "native_histograms", "classic_histograms"):
            del fields[name]
        old = json.dumps({**fields, "is_openmetrics": is_openmetrics}).encode()
        assert Reading.of_line(old) == Reading(TARGET, format=format)
