"""Our own metrics, traces, logs, and the status server that shows them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Mapping, Sequence

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from catchment import logs
from catchment.cli import http_get
from catchment.cli.exposition import merged
from catchment.cli.status import details_of, read_metrics, summary
from catchment.cli.status_screen import printed
from catchment.errors import Invalid
from catchment.status_http import Probes, StatusServer
from catchment.telemetry import Kind, OwnMetric, Telemetry
from catchment.tracing import Tracing


def test_every_metric_has_a_unit_a_meaning_and_a_name_of_ours() -> None:
    """Names begin with catchment_, counters end in _total, histograms in their unit, and no two are equal."""
    names = [metric.value.name for metric in OwnMetric]
    assert len(set(names)) == len(names)
    for metric in OwnMetric:
        spec = metric.value
        assert re.fullmatch(r"catchment_[a-z_]+", spec.name) and spec.meaning
        assert (spec.kind is Kind.COUNTER) == spec.name.endswith("_total")
        assert spec.kind is not Kind.HISTOGRAM or spec.name.endswith("_seconds")


def test_what_is_recorded_is_served() -> None:
    """A counter, a gauge, a gauge that is read, and a histogram appear with their labels and values."""
    telemetry = Telemetry()
    telemetry.count(OwnMetric.REQUESTS, 2, "http", "200")
    telemetry.count(OwnMetric.REQUESTS, 3, "http", "200")
    telemetry.set(OwnMetric.LAG_MESSAGES, 7, "topic", "0")
    telemetry.read_from(OwnMetric.STREAMS, lambda: 11)
    telemetry.observe(OwnMetric.FLUSH_SECONDS, 0.2)
    text = telemetry.exposition().decode()
    assert 'catchment_requests_total{answer="200",protocol="http"} 5.0' in text
    assert 'catchment_lag_messages{partition="0",topic="topic"} 7.0' in text
    assert "catchment_streams 11.0" in text
    assert "catchment_flush_seconds_count 1.0" in text


def test_a_wrong_number_of_labels_is_refused() -> None:
    """A metric cannot be recorded without the labels that its meaning promises."""
    with pytest.raises(ValueError, match="label"):
        Telemetry().count(OwnMetric.REQUESTS, 1, "http")


def test_metrics_of_several_processes_are_one_exposition() -> None:
    """Each family stands once, each sample says whose it is, and a parser reads it."""
    one, two = Telemetry(), Telemetry()
    one.count(OwnMetric.DEAD_LETTERS, 1)
    two.count(OwnMetric.DEAD_LETTERS, 2)
    two.count(OwnMetric.REQUESTS, 4, 'a "quoted" {name}', "200")
    text = merged([("aggregator", one.exposition()), ("store", two.exposition())]).decode()
    assert text.count("# TYPE catchment_dead_letters_total counter") == 1
    samples = {
        (sample.name, sample.labels["role"]): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["catchment_dead_letters_total", "aggregator"].value == 1
    assert samples["catchment_dead_letters_total", "store"].value == 2
    assert samples["catchment_requests_total", "store"].labels["protocol"] == 'a "quoted" {name}'


def test_status_shows_totals_rates_and_gauges_per_tier() -> None:
    """A counter has its total and its rate over the interval, a gauge its value."""
    telemetry = Telemetry()
    telemetry.count(OwnMetric.LOADED_ROWS, 10, "health")
    before = read_metrics(merged([("store", telemetry.exposition())]).decode())
    telemetry.count(OwnMetric.LOADED_ROWS, 30, "totals")
    telemetry.set(OwnMetric.LAG_MESSAGES, 3, "a", "0")
    telemetry.set(OwnMetric.LAG_MESSAGES, 4, "a", "1")
    after = read_metrics(merged([("store", telemetry.exposition())]).decode())
    assert summary(before, after, 2.0) == {
        "store": {"loaded_rows_total": 40.0, "loaded_rows_per_second": 15.0, "lag_messages": 7.0}
    }


def test_status_says_what_the_drops_are_and_what_is_wrong() -> None:
    """Drops stand by reason, the most first; sizes, times and shares have their units; faults stand at the end."""
    telemetry = Telemetry()
    telemetry.set(OwnMetric.READY, 0)
    telemetry.set(OwnMetric.DISK_FREE_RATIO, 0.125)
    telemetry.set(OwnMetric.OUTBOX_OLDEST_SECONDS, 200)
    telemetry.count(OwnMetric.DROPS, 2, "collector", "metrics", "too_old", "points")
    telemetry.count(OwnMetric.DROPS, 1500, "collector", "metrics", "overflow", "points")
    telemetry.count(OwnMetric.DROPS, 3, "collector", "health", "too_old", "rows")
    telemetry.count(OwnMetric.FORWARDED_BYTES, 3 << 20)
    reading = read_metrics(merged([("collector", telemetry.exposition())]).decode())
    details = details_of(reading)
    assert details == {"collector": {"drops_total": {"too_old": 5.0, "overflow": 1500.0}}}
    screen = io.StringIO()
    printed(summary({}, reading, 2.0), details, ["collector: for 3 m"], ["collector: no [disk]"], screen)
    lines = [" ".join(line.split()) for line in screen.getvalue().splitlines()]
    assert lines == [
        "collector not ready",
        "disk free 12.5%",
        "outbox oldest 3 m 20 s",
        "drops 1,505 752.5/s overflow 1,500, too_old 5",
        "forwarded bytes 3 MiB 1.5 MiB/s",
        "stalled: collector: for 3 m",
        "not ready: collector: no [disk]",
    ]


def test_a_span_is_exported_and_an_error_marks_it() -> None:
    """With an exporter our work leaves spans; an exception goes on and marks its span."""
    exporter = InMemorySpanExporter()
    tracing = Tracing("store", exporter)
    with tracing.span("load", rows=3):
        pass
    with pytest.raises(ValueError, match="wrong"), tracing.span("query"):
        raise ValueError("wrong")
    tracing.close()
    load, query = exporter.get_finished_spans()
    assert (load.name, load.attributes) == ("load", {"rows": 3})
    assert load.resource.attributes["service.name"] == "store"
    assert not query.status.is_ok


def test_tracing_is_off_by_default() -> None:
    """Without a receiver a span does nothing."""
    tracing = Tracing.to("store", "off")
    with tracing.span("load"):
        assert not tracing.is_on
    tracing.close()


def test_logs_off_a_terminal_are_json() -> None:
    """A line has time, level, role, message and its fields, and an exception stays in its line."""
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    try:
        logs.configure("store", "info", stream)
        try:
            raise ValueError("wrong")
        except ValueError:
            logging.getLogger("x").warning("load %s", "failed", extra={"rows": 7}, exc_info=True)
        logging.getLogger("x").debug("not asked for")
    finally:
        root.handlers[:], root.level = before
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["role"], entry["message"], entry["rows"]) == ("warning", "store", "load failed", 7)
    assert "ValueError: wrong" in entry["exception"]


async def _noted(texts: Mapping[str, str]) -> str:
    if "name" not in texts:
        raise Invalid("name is missing")
    return f"noted {texts['name']}"


@pytest.mark.parametrize("reasons", [[], ["senders are pushed back"]])
@pytest.mark.parametrize("stalled", [[], ["for 3 m: the log is away"]])
def test_the_status_server_answers_probes(reasons: list[str], stalled: list[str]) -> None:
    """Alive always, ready only without reasons, metrics as text, unknown paths and methods refused; what is stalled is
    said, and makes nobody unready.
    """

    async def not_ready() -> Sequence[str]:
        return reasons

    async def stalls() -> Sequence[str]:
        return stalled

    async def metrics() -> bytes:
        return b"up 1\n"

    async def reload() -> Sequence[str]:
        return reasons

    async def scenario() -> dict[str, tuple[int, bytes]]:
        server = StatusServer(Probes(not_ready, metrics, reload, {"note": _noted}, stalls))
        address = await server.start("127.0.0.1", 0)
        try:
            asked = ["GET /livez", "GET /readyz", "GET /healthz", "GET /metrics", "POST /-/reload", "GET /-/reload"]
            asked += ["POST /metrics", "GET /nowhere", "POST /-/nothing", "POST /-/note", "HEAD /livez"]
            answers = {}
            for text in asked:
                method, path = text.split()
                answers[text] = await http_get.request(
                    address.host, address.port, path, method=method, timeout_seconds=60.0
                )
            return answers
        finally:
            await server.stop()

    answers = asyncio.run(scenario())
    status = {text: answer[0] for text, answer in answers.items()}
    assert status["GET /livez"] == status["HEAD /livez"] == status["GET /metrics"] == 200
    assert status["GET /readyz"] == status["GET /healthz"] == (503 if reasons else 200)
    assert status["POST /-/reload"] == (400 if reasons else 200)
    assert status["GET /-/reload"] == status["POST /metrics"] == 405
    assert status["GET /nowhere"] == status["POST /-/nothing"] == 404
    assert answers["POST /-/note"] == (400, b"name is missing\n")
    lines = reasons or ["ok", *(f"stalled {said}" for said in stalled)]
    assert answers["GET /readyz"][1].decode().splitlines() == lines
    health = json.loads(answers["GET /healthz"][1])
    assert (health["ready"], health["reasons"], health["stalled"]) == (not reasons, reasons, stalled)
