"""`catchment policy explain`: what a dry run says is what the edge then does."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from catchment.cli.main import run
from catchment.cli.policy_report import as_mapping, printed
from catchment.config_policies import MetricPolicy, Policies
from catchment.limits import Limits
from collectors.decode.remote_wire import REMOTE_WRITE_1
from collectors.dry_run import EVERYTHING, DryRun
from collectors.inbox import Inbox
from collectors.recorded import recorded
from collectors.records import Received
from tests import remote_write as rw
from tests.durable_edge import DurableEdge
from tests.edge_harness import received
from tests.otlp import body, counter, gauge, ns, number

TRIED = Policies(
    label="9",
    metrics=(
        MetricPolicy(match="hits", keep=("route",), resolution_seconds=300, flush_seconds=120.0),
        MetricPolicy(match="debug.*", drop_metric=True),
        MetricPolicy(match="*", attributes={"pod": "p1"}, keep=("pod",)),
        MetricPolicy(match="absent", drop=("x",), histogram_scale=0),
    ),
)
BEFORE = Policies(default_drop=("pod",))


def _requests() -> list[tuple[bytes, float, str]]:
    """Ten minutes of two tenants' three pods."""
    sent = []
    for step in range(20):
        at = 10.0 + 30 * step
        for tenant in ("acme", "umbrella"):
            for pod in range(3):
                metrics = (
                    counter("hits", *(number(at, step, start=1, attributes={"route": r}) for r in ("/", "/pay"))),
                    gauge("debug.x", number(at, pod)),
                    gauge("level", number(at, pod)),
                )
                sent.append((body(*metrics, resource={"service.name": "shop", "pod": f"p{pod}"}), at, tenant))
    return sent


def _dry_run(tried: Policies, before: Policies, limits: Limits | None = None) -> DryRun:
    dry = DryRun(tried, before, limits or Limits(), window_seconds=60, flush_seconds=60)
    sent = _requests()
    for first in range(0, len(sent), 7):
        batch = sent[first : first + 7]
        dry.take([received(data, at, tenant) for data, at, tenant in batch], [data for data, _, _ in batch])
    return dry


@pytest.mark.parametrize("policies", [TRIED, BEFORE, EVERYTHING])
def test_a_dry_run_says_what_the_edge_then_does(tmp_path: Path, policies: Policies) -> None:
    """Series are those of an edge with these policies, rows those that it hands on with flushes at the same times."""
    dry = _dry_run(policies, EVERYTHING)
    edge = DurableEdge(tmp_path, Limits(), policies)
    flushed = 10.0
    for data, at, tenant in _requests():
        if at >= flushed + 60:
            edge.flush(at)
            flushed = at
        edge.send(data, at, tenant)
    edge.flush(580.0, release=True)
    rows = sum(row_count for lane, row_count in _rows(edge) if lane == "metrics_cluster")
    effects = dry.effects()
    assert sum(effect.after.series for effect in effects) == len(edge.edge.catalog.series)
    slow = any(rule.flush_seconds for rule in policies.metrics)
    found = sum(effect.after.rows for effect in effects)
    # Periods of rules end at times of their own, so a window may leave in one part more.
    assert found == rows if not slow else abs(found - rows) <= 4
    assert (dry.requests, dry.points) == (120, 480)


def _rows(edge: DurableEdge) -> list[tuple[str, int]]:
    from catchment.envelope import decode_header

    return [(header.lane, header.totals.rows) for header in (decode_header(row.value) for row in edge.outbox())]


def test_each_rule_is_told_apart() -> None:
    """Streams and metrics that it matches, what it makes of them, and which attributes go or come back."""
    report = as_mapping(_dry_run(TRIED, BEFORE), TRIED, BEFORE)
    hits, debug, pods, absent, rest = report["rules"]
    assert [rule["rule"] for rule in report["rules"]] == [0, 1, 2, 3, None]
    assert [rule["streams"] for rule in report["rules"]] == [12, 6, 2, 0, 4] and report["total"]["streams"] == 24
    assert hits["series"] == {"before": 4, "after": 4}
    assert hits["rows_per_flush"]["after"] < hits["rows_per_flush"]["before"]
    assert hits["actions"] == {"keep": ["route"], "resolution": "5m", "flush": "2m"}
    assert (debug["metrics_dropped"], debug["series"], debug["bytes_per_flush"]["after"]) == (
        ["debug.x"],
        {"before": 2, "after": 0},
        0,
    )
    assert pods["matches"] == {"match": "*", "attributes": {"pod": "p1"}}
    assert pods["attributes_back"] == [{"name": "pod", "streams": 2, "values": 1}]
    assert (absent["streams"], absent["metrics"]) == (0, [])
    assert absent["actions"] == {"drop": ["x"], "histogram_scale": 0}
    assert rest["metrics"] == ["level"] and rest["attributes_back"][0]["values"] == 2
    assert report["after"].startswith("9+") and report["before"] == BEFORE.version
    assert report["flushes"] == 10 and report["seconds"] == 570


def test_policies_are_compared_with_none_at_all() -> None:
    """Before is then every stream as it was sent, and the default drop shows what it saves."""
    report = as_mapping(_dry_run(BEFORE, EVERYTHING), BEFORE, None)
    (rule,) = report["rules"]
    assert rule["rule"] is None and rule["series"] == {"before": 24, "after": 8}
    assert rule["attributes_gone"] == [{"name": "pod", "streams": 24, "values": 3}]
    assert 0 < rule["bytes_per_flush"]["after"] < rule["bytes_per_flush"]["before"]


def test_series_beyond_a_budget_are_named() -> None:
    """A policy that keeps too much is told before it folds series into one."""
    limits = Limits(series_per_tenant_max=11, series_per_metric_max=5)
    said = _dry_run(EVERYTHING, BEFORE, limits).over_budget()
    assert said == [
        "tenant acme: 12 series, limits.series_per_tenant_max is 11",
        "tenant umbrella: 12 series, limits.series_per_tenant_max is 11",
        "metric hits of tenant acme: 6 series, limits.series_per_metric_max is 5",
        "metric hits of tenant umbrella: 6 series, limits.series_per_metric_max is 5",
    ]
    limits = Limits(series_bytes_per_tenant_max=100)
    said = _dry_run(EVERYTHING, BEFORE, limits).over_budget()
    assert said[0].startswith("tenant acme: series of ") and said[0].endswith(
        "limits.series_bytes_per_tenant_max is 100 bytes"
    )
    assert len(said) == 2


def test_requests_of_remote_write_are_tried_too() -> None:
    """Samples become points and series as at the edge, held parts and all; even one row takes some bytes."""
    tried = Policies(metrics=(MetricPolicy(match="req*", drop=("pod",)), MetricPolicy(match="up", drop_metric=True)))
    dry = DryRun(tried, Policies(default_drop=()), Limits(), window_seconds=60, flush_seconds=10)
    for time_s in range(1, 200, 5):
        series = [each for pod in "abc" for each in rw.histogram("req", time_s, [1, 2], 1.0, [0.5], pod=pod)]
        for part in (series[:5], [*series[5:], (rw.labels("up"), [(time_s, 1)])]):
            data = rw.body(*part)
            dry.take([received(data, time_s, "acme", "c", REMOTE_WRITE_1)], [data])
    request, up, others = dry.effects()
    assert (request.streams, request.before.series, request.after.series) == (3, 3, 1)
    assert request.before.rows > 2 * request.after.rows > 0
    assert request.before.size_bytes > request.after.size_bytes >= 20 * request.after.rows
    assert (up.streams, up.before.series, up.after.series, up.after.size_bytes) == (1, 1, 0, 0)
    assert others.streams == 0


def test_the_table_names_rules_and_what_they_do() -> None:
    """Every rule has its line; what goes and what is dropped is said, and what matches nothing."""
    out = io.StringIO()
    printed(as_mapping(_dry_run(TRIED, BEFORE), TRIED, BEFORE), out)
    text = out.getvalue()
    for said in ("0  hits", "pod=p1", "drops debug.x", "+pod", "matches nothing that was received", "no rule", "24 "):
        assert said in text, text
    assert max(map(len, text.splitlines())) <= 140


def _fill(inbox: Inbox, *times_ns: int) -> None:
    for time_ns in times_ns:
        data = body(gauge("level", number(time_ns / 1e9 - ns(0) / 1e9, 1, attributes={"pod": "a"})))
        inbox.append([Received("metrics", "acme", "c", "{}", "application/x-protobuf", "", time_ns, "", data)])


def test_what_was_received_is_read_beside_the_collector(tmp_path: Path) -> None:
    """Consumed segments too, in order; older requests, damage and half a record are left out, and nothing is locked."""
    inbox = Inbox.open(tmp_path / "inbox", segment_bytes=1, bytes_max=1 << 20, spare_bytes_max=1 << 20)
    now_ns = time.time_ns()
    times = [now_ns - seconds * 10**9 for seconds in (500, 40, 30, 20, 10)]
    _fill(inbox, *times)
    inbox.trim(inbox.end)
    assert len(list((tmp_path / "inbox").glob("*.spare"))) == 4
    assert [one.received_ns for one in recorded(tmp_path, now_ns - 60 * 10**9)] == times[1:]
    (tmp_path / "inbox" / "odd.log").write_bytes(b"nothing")
    damaged = sorted((tmp_path / "inbox").glob("*.spare"))[2]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert [one.received_ns for one in recorded(tmp_path, now_ns - 60 * 10**9)] == [times[1], *times[3:]]
    _fill(inbox, now_ns)
    assert now_ns in [one.received_ns for one in recorded(tmp_path, now_ns - 60 * 10**9)]
    inbox.close()


def _explain(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["policy", "explain", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_answers_programs_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON of a running collector's folder; faults of the tried file are 2, a folder without requests is 3."""
    tried = tmp_path / "tried.yaml"
    tried.write_text("version: 2\nmetrics: [{match: level, drop: [pod]}]\n")
    config = tmp_path / "catchment.yaml"
    config.write_text(f"data_dir: {tmp_path}/data\nregion: r\npolicies: {{default_drop: []}}\n")
    options = ("--config", str(config), "--policies", str(tried))
    code, _, err = _explain(capsys, *options)
    assert code == 3 and "no inbox of a collector can be read there" in err
    folder = tmp_path / "data" / "collector"
    inbox = Inbox.open(folder / "inbox", segment_bytes=1 << 20, bytes_max=1 << 22)
    code, _, err = _explain(capsys, *options)
    assert code == 3 and "holds no requests of the last 5 m" in err
    _fill(inbox, time.time_ns())
    code, out, _ = _explain(capsys, *options, "--json")
    report: dict[str, Any] = json.loads(out)
    assert code == 0 and report["rules"][0]["attributes_gone"] == [{"name": "pod", "streams": 1, "values": 1}]
    code, out, _ = _explain(capsys, "--config", str(config))
    assert code == 0 and "no rule" in out and "compared with no policies at all" in out
    assert _explain(capsys, "--config", str(config), "--last", "soon")[0] == 2
    tried.write_text("metrics: [{match: level, dorp: [pod]}]\n")
    code, _, err = _explain(capsys, *options)
    assert code == 2 and f"{tried}:1: metrics[0].dorp: unknown key; did you mean drop?" in err
    inbox.close()
