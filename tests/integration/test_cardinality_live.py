"""An attribute that explodes, from a sender to SQL and the collector's log, through all roles."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import otlp
from tests.faults.stack import ROLES, Stack
from tests.otlp import DELTA, body

BUDGET = 200


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """All roles, ready, with a small budget of series for each metric."""
    with Stack(tmp_path) as stack:
        limits = f"{{series_per_metric_max: {BUDGET}, retry_after_seconds: 1}}"
        stack.start(*ROLES, limits=limits)
        stack.wait_ready(*ROLES)
        yield stack


def send(stack: Stack, users: range) -> None:
    """An order of each user, on one of three routes."""
    at = time.time() - otlp.T0_NS / otlp.SECOND_NS
    numbers = [
        otlp.number(at, 1, start=at - 1, attributes={"user": f"u{user}", "route": f"r{user % 3}"}) for user in users
    ]
    request = body(otlp.counter("orders", *numbers, temporality=DELTA), resource={"service.name": "shop"})
    address = f"http://127.0.0.1:{stack.ports['otlp_http']}/v1/metrics"
    headers = {"content-type": "application/x-protobuf"}
    with urllib.request.urlopen(urllib.request.Request(address, request, headers), timeout=20) as answer:
        assert answer.status == 200


@pytest.mark.slow
def test_an_attribute_that_explodes_is_named_in_sql_and_in_the_log(stack: Stack) -> None:
    """SQL has its values over all flushes and a restart, the log names it once, and no point of it is missing."""
    left_seconds = 86_400 - time.time() % 86_400
    if left_seconds < 60:
        time.sleep(left_seconds)  # series are counted by the day
    send(stack, range(300))
    stack.drain()
    send(stack, range(250, 500))
    stack.drain()
    stack.kill("collector")
    stack.start("collector", limits=f"{{series_per_metric_max: {BUDGET}}}")
    stack.wait_ready("collector")
    send(stack, range(400, 600))
    stack.drain()
    (user, route) = stack.rows(
        "SELECT attribute, catchmentDistinct(maxMap(c.registers)) AS n, max(c.series) AS series, "
        "toUInt32(sum(c.streams)) AS streams, toUInt32(sum(c.folded_streams)) AS folded FROM cardinality_top AS c "
        "WHERE tenant = 'default' AND cluster = 'tokyo-1' AND metric = 'orders' GROUP BY attribute ORDER BY n DESC"
    )
    assert (user["attribute"], user["streams"], user["folded"]) == ("user", 600, 600 - BUDGET)
    assert user["n"] == pytest.approx(600, rel=0.1) and user["series"] == pytest.approx(600, rel=0.1)
    assert (route["attribute"], route["n"]) == ("route", 3)
    told = [json.loads(line) for line in stack.output("collector").read_text().splitlines() if "is reached by" in line]
    assert [(line["metric"], line["attribute"], line["values"], line["limit"]) for line in told] == [
        ("orders", "user", BUDGET, "series_per_metric_max")
    ] * 2, "once for each life of the collector"
    (sums,) = stack.rows("SELECT sum(m.sum_int) AS n FROM metrics_cluster_1m AS m WHERE metric = 'orders'")
    assert sums["n"] == 300 + 250 + 200
