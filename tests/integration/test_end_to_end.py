"""The whole pipeline as a user runs it: real SDK clients into one `catchment up`, exact values out of SQL."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_span_id, format_trace_id

from catchment.config_load import load
from catchment.histogram import pack
from collectors.policy import Policy
from collectors.tenants import Tenants
from tests import otlp
from tests.faults.stack import UP, Stack, wait_until
from tests.faults.totals import Totals, differences, disagreements, stored
from tests.histogram_reference import exponential_histogram
from tests.integration.end_to_end import (
    LABELS,
    TOKENS,
    TRANSPORTS,
    Service,
    blocks,
    cookbook_data,
    eventually,
    exporter,
    now,
    post,
    send,
    start_up,
    unix,
    write_tenants,
)

ACME, OSAKA, BETA = "token-acme-tokyo", "token-acme-osaka", "token-beta-tokyo"


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tenants file of the stack."""
    path = tmp_path_factory.mktemp("tenants") / "tenants.json"
    write_tenants(path, TOKENS)
    return path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tenants: Path) -> Iterator[Stack]:
    """A running `catchment up` with two tenants of two clusters each, all of which have been heard."""
    with Stack(tmp_path_factory.mktemp("end-to-end")) as running:
        start_up(running, tenants)
        for token in TOKENS:
            send(running, token, otlp.gauge("hello", otlp.number(now(), 1)), resource={"service.name": "hello"})
        yield running
        running.stop(UP)


def bounds_map(bounds: tuple[float, ...], counts: list[int]) -> dict[int, int]:
    """A histogram of explicit buckets as SQL has it, without empty buckets."""
    keys = pack([float("-inf"), *bounds], [*bounds, float("inf")])
    return {int(key): count for key, count in zip(keys, counts, strict=True) if count}


def scale_map(values: list[float], scale: int) -> dict[int, int]:
    """A histogram of exponential buckets as SQL has it."""
    histogram = exponential_histogram(values, scale)
    return dict(zip(histogram.keys.tolist(), histogram.counts.tolist(), strict=True))


@pytest.mark.parametrize("deltas", [False, True], ids=["cumulative", "delta"])
@pytest.mark.parametrize(("transport", "token"), list(zip(TRANSPORTS, [ACME, OSAKA, BETA, ACME, OSAKA], strict=True)))
def test_every_instrument_has_its_exact_values(stack: Stack, transport: str, token: str, deltas: bool) -> None:
    """What an SDK recorded over three exports is what SQL says, integers exactly, whatever it came through."""
    name = f"{transport}-{'delta' if deltas else 'cumulative'}"
    service = Service(name, exporter(stack, transport, token, deltas=deltas))
    sizes = [[1.5, 20.0625, 1.5, 0.0], [0.75]]
    watched = iter([(2.0, 10), (6.0, 17), (6.0, 17)])
    current: list[tuple[float, int]] = []

    def level(_: CallbackOptions) -> list[Observation]:
        current.append(next(watched))
        return [Observation(current[-1][0], {"key": "a"})]

    def total(_: CallbackOptions) -> list[Observation]:
        return [Observation(current[-1][1], {"key": "a"})]

    meter, key = service.meter, {"key": "a"}
    orders, busy, opened = (
        meter.create_counter("orders"),
        meter.create_counter("busy"),
        meter.create_up_down_counter("open"),
    )
    duration = meter.create_histogram("duration", "ms", explicit_bucket_boundaries_advisory=[1.0, 2.0, 5.0])
    size, load = meter.create_histogram("size", "By"), meter.create_gauge("load")
    meter.create_observable_gauge("level", [level])
    meter.create_observable_counter("total", [total])
    meter.create_observable_up_down_counter("balance", [lambda _: [Observation(-3 * len(current), {"key": "a"})]])
    rounds = zip((2**60, 3), (0.25, 0.5), (5, -7), ([0.5, 1.0, 3.0, 9.0], [4.0]), sizes, (3.5, -1.25), strict=True)
    for order, seconds, step, durations, some, value in rounds:
        orders.add(order, key)
        busy.add(seconds, key)
        opened.add(step, key)
        load.set(value, key)
        for each in durations:
            duration.record(each, key)
        for each in some:
            size.record(each, key)
        service.export()
    service.end()
    stack.drain()
    values = [*sizes[0], *sizes[1]]
    expected = {
        "orders": Totals(None, 2**60 + 3, 0.0),
        "busy": Totals(None, 0, 0.75),
        "total": Totals(None, 17, 0.0),
        "open": Totals(3, 5 - 2 - 2, 0.0, last=-2.0),
        "balance": Totals(3, -3 - 6 - 9, 0.0, last=-9.0),
        "load": Totals(3, 0, 3.5 - 1.25 - 1.25, last=-1.25),
        "level": Totals(3, 0, 14.0, last=6.0),
        "duration": Totals(5, 0, 17.5, histogram=bounds_map((1.0, 2.0, 5.0), [2, 0, 2, 1])),
        "size": Totals(5, 0, sum(values), histogram=scale_map(values, 5)),
    }
    found = {series: totals for series, totals in stored(stack, "metrics_cluster_1m").items() if series[0] == name}
    assert differences({(name, metric, "a"): totals for metric, totals in expected.items()}, found) == []
    extremes = {metric: (found[name, metric, "a"].min, found[name, metric, "a"].max) for metric in expected}
    assert extremes["duration"] == (0.5, 9.0) and extremes["size"] == (0.0, 20.0625)
    assert extremes["load"] == (-1.25, 3.5) and extremes["open"] == (-2.0, 5.0) and extremes["level"] == (2.0, 6.0)
    places = stack.rows(f"SELECT DISTINCT tenant, region, cluster FROM metrics_cluster_1m WHERE service = '{name}'")
    assert [tuple(row.values()) for row in places] == [(TOKENS[token][0], "jp-east", TOKENS[token][1])]
    kinds = stack.rows(f"SELECT DISTINCT metric, kind, unit FROM metrics_region_1m WHERE service = '{name}'")
    assert {row["metric"]: (row["kind"], row["unit"]) for row in kinds} == {
        **dict.fromkeys(("orders", "busy", "total"), ("counter", "")),
        **dict.fromkeys(("open", "balance", "load", "level"), ("gauge", "")),
        "duration": ("histogram", "ms"),
        "size": ("histogram", "By"),
    }


def test_a_gauge_is_integrated_over_the_time_it_was_held(stack: Stack) -> None:
    """Value × seconds held, and the seconds, are exact in event time and end with a no-recorded-value point."""
    begin = now() // 10 * 10 - 100
    points = [
        otlp.number(begin, 4.0),
        otlp.number(begin + 5, 8),
        otlp.number(begin + 12, 0.0, flags=otlp.NO_RECORDED_VALUE),
    ]
    send(stack, ACME, otlp.gauge("tank", *points, unit="L"), resource={"service.name": "held"})
    stack.drain()
    rows = stack.rows(
        "SELECT toUnixTimestamp(window_start) AS at, count, integral, observed_seconds, last FROM metrics_cluster_1m "
        "WHERE service = 'held' ORDER BY at"
    )
    assert [tuple(row.values()) for row in rows] == [
        (unix(begin), 2, 4.0 * 5 + 8 * 5, 10.0, 8.0),
        (unix(begin + 10), 0, 16.0, 2.0, None),
    ]


def test_attributes_follow_the_policy(stack: Stack) -> None:
    """Attributes of an instance are dropped, so that two pods are one series; on equal names the point's wins."""
    for pod in ("one", "two"):
        resource = {
            "service.namespace": "shop",
            "host.name": f"host-{pod}",
            "k8s.pod.name": pod,
            "process.pid": "7",
            "service.instance.id": pod,
            "deployment.environment": "prod",
            "kind": "of the resource",
        }
        service = Service("policy", exporter(stack, "http", ACME), resource)
        service.meter.create_counter("parcels").add(5, {"kind": "of the point", "container.id": pod})
        service.end()
    stack.drain()
    (row,) = stack.rows("SELECT service, attributes, sum_int FROM metrics_region_1d WHERE service LIKE '%policy'")
    assert row == {
        "service": "shop/policy",
        "attributes": {
            "deployment.environment": "prod",
            "kind": "of the point",
            "resource.kind": "of the resource",
        },
        "sum_int": 10,
    }


@pytest.mark.parametrize("transport", ["http-gzip", "grpc-gzip", "json"])
def test_the_largest_exemplar_leads_to_its_trace(stack: Stack, transport: str) -> None:
    """The exemplar of a window is its largest one, with the trace and span in which it was recorded."""
    name = f"exemplar-{transport}"
    service = Service(name, exporter(stack, transport, BETA))
    latency = service.meter.create_histogram("latency", "ms")
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("end-to-end")
    ids = {}
    for value in (3.0, 700.0, 40.0):
        with tracer.start_as_current_span("request") as span:
            latency.record(value)
            context = span.get_span_context()
            ids[value] = (format_trace_id(context.trace_id), format_span_id(context.span_id))
    latency.record(9000.0)
    service.end()
    stack.drain()
    (row,) = stack.rows(
        f"SELECT max(exemplar) AS largest, max(max) AS highest FROM metrics_cluster_1m WHERE service = '{name}'"
    )
    assert row["highest"] == 9000.0
    assert row["largest"]["value"] == 700.0
    assert (row["largest"]["trace_id"], row["largest"]["span_id"]) == ids[700.0]


def test_the_token_decides_whose_rows_they_are(stack: Stack) -> None:
    """Nothing that a payload says changes its tenant, cluster or region; without a token it is the default tenant."""
    claims = {
        "service.name": "claims",
        "tenant": "beta",
        "region": "mars",
        "cluster": "oslo",
        "catchment.tenant": "beta",
    }
    parcels = otlp.counter("parcels", otlp.number(now(), 3, start=now() - 1), temporality=otlp.DELTA)
    send(stack, ACME, parcels, resource=claims)
    send(stack, "", parcels, resource=claims)
    refused = post(stack, otlp.body(parcels, resource=claims), "wrong")
    assert refused.status == 401 and refused.headers["www-authenticate"] == "Bearer"
    stack.drain()
    rows = stack.rows(
        "SELECT tenant, region, cluster, attributes['tenant'] AS claimed, sum_int FROM metrics_cluster_1d "
        "WHERE service = 'claims' ORDER BY tenant"
    )
    assert [tuple(row.values()) for row in rows] == [
        ("acme", "jp-east", "tokyo", "beta", 3),
        ("default", "jp-east", "tokyo-1", "beta", 3),
    ]


def test_clusters_have_their_labels_and_coverage(stack: Stack) -> None:
    """Every cluster that was heard is listed with its token's labels, and covered in the window of its heartbeat."""
    while True:
        window = unix(now()) // 10
        for token in (ACME, OSAKA):
            send(stack, token, otlp.gauge("hello", otlp.number(now(), 1)), resource={"service.name": "hello"})
        if unix(now()) // 10 == window:
            break  # both were heard in one window
    stack.drain()
    rows = stack.rows(
        "SELECT tenant, cluster, labels, retired, last_seen >= first_seen AS ok FROM clusters WHERE region = 'jp-east'"
    )
    found = {(row["tenant"], row["cluster"]): row["labels"] for row in rows if row["ok"] and not row["retired"]}
    assert LABELS.items() <= found.items()
    # A window is listed once it has ended.
    reported = (
        "SELECT count() FROM (SELECT DISTINCT tenant, cluster FROM coverage_cluster_1m WHERE expected AND reported)"
    )
    eventually(stack, f"SELECT ({reported}) >= {len(LABELS) + 1}", 1)
    eventually(stack, "SELECT max(c.reported) FROM coverage_1m AS c WHERE tenant = 'acme'", 2)
    (acme,) = stack.rows(
        "SELECT max(c.expected) AS expected, max(c.reported) AS reported, min(c.window_seconds) AS seconds, "
        "countIf(c.reported > c.expected) AS impossible FROM coverage_1m AS c WHERE tenant = 'acme'"
    )
    assert acme == {"expected": 2, "reported": 2, "seconds": 10, "impossible": 0}


def test_the_sums_agree_at_every_place(stack: Stack) -> None:
    """Points and digests acknowledged = clusters = region = globe, for each tenant; minutes = hours = days."""
    for token in TOKENS:
        service = Service("proof", exporter(stack, "http-gzip", token))
        service.meter.create_counter("parcels").add(1, {"key": token})
        service.meter.create_histogram("size").record(0.5, {"key": token})
        service.end()
    stack.drain()
    assert {"acme", "beta"} <= stack.acknowledged().keys()
    assert disagreements(stack) == []


def test_the_tenants_file_is_read_again_when_it_changes(stack: Stack, tenants: Path) -> None:
    """A new token works and a removed one is refused, without a restart; a broken file is not taken."""
    body = otlp.body(otlp.gauge("hello", otlp.number(now(), 1)))
    answers = Counter[int]()

    def wait_for(token: str, status: int) -> None:
        # The file is looked at every second (`tests.unit.test_tenants`), as far as the machine does nothing else.
        wait_until(lambda: post(stack, body, token).status == status, f"{token} gets {status}", 60)

    assert post(stack, body, "fresh").status == 401
    write_tenants(tenants, {**TOKENS, "fresh": ("acme", "tokyo"), "other": ("gamma", "new")})
    wait_for("fresh", 200)
    assert post(stack, body, "other").status == 200
    tenants.write_text("[{tenant: broken")
    time.sleep(1.5)
    answers.update(post(stack, body, token).status for token in ("fresh", "other", ACME))
    assert answers == {200: 3}
    write_tenants(tenants, TOKENS)
    wait_for("fresh", 401)
    assert post(stack, body, "other").status == 401
    assert post(stack, body, ACME).status == 200


def test_a_restart_goes_on_where_it_was(stack: Stack, tenants: Path) -> None:
    """Counters of a sender that lives on count on after a graceful restart: nothing lost, no spike, nothing twice."""
    services = [
        Service(f"restart-{transport}", exporter(stack, transport, BETA)) for transport in ("http", "grpc-gzip", "json")
    ]
    counters = [service.meter.create_counter("orders") for service in services]
    sizes = [service.meter.create_histogram("size") for service in services]
    for amount in (1000, 10):
        for service, counter, size in zip(services, counters, sizes, strict=True):
            counter.add(amount)
            size.record(amount)
            service.export()
    stack.stop(UP)
    # What was acknowledged has left the collector and the region before `up` ended.
    stack.drain(1, to="store")
    start_up(stack, tenants)
    for service, counter, size in zip(services, counters, sizes, strict=True):
        counter.add(5)
        size.record(5)
        service.end()
    stack.drain()
    for service in services:
        rows = stack.rows(
            f"SELECT metric, sum(m.sum) AS total, max(m.sum) AS highest, sum(m.count) AS counted "
            f"FROM metrics_cluster_1m AS m WHERE service = '{service.name}' GROUP BY metric ORDER BY metric"
        )
        assert [(row["metric"], row["total"]) for row in rows] == [("orders", 1015.0), ("size", 1015.0)]
        assert rows[1]["counted"] == 3
        assert all(row["highest"] <= 1015 for row in rows)
    assert disagreements(stack) == []


def test_hours_and_days_hold_what_their_minutes_do(stack: Stack) -> None:
    """Points of earlier hours and days are in the rows of theirs."""
    ago = {3_600 * 2: 1, 3_600 * 2 + 20: 2, 3_600 * 3: 4, 86_400: 8, 86_400 * 20: 16, 30: 32}
    moment = now() // 10 * 10 + 5
    points = [otlp.number(moment - s, value, start=moment - s - 1) for s, value in ago.items()]
    send(stack, OSAKA, otlp.counter("parcels", *points, temporality=otlp.DELTA), resource={"service.name": "calendar"})
    stack.drain()
    for unit, seconds in (("m", 10), ("h", 3600), ("d", 86_400)):
        expected: Counter[int] = Counter()
        for s, value in ago.items():
            at = unix(moment - s)
            expected[at - at % seconds] += value
        for view in (f"metrics_cluster_1{unit}", f"metrics_region_1{unit}"):
            rows = stack.rows(
                f"SELECT toUnixTimestamp(window_start) AS at, window_seconds, sum_int FROM {view} "
                "WHERE service = 'calendar'"
            )
            assert {row["at"]: row["sum_int"] for row in rows} == expected
            assert {row["window_seconds"] for row in rows} == {seconds}


def test_the_cookbook_works(stack: Stack) -> None:
    """Every query of docs/sql-cookbook.md runs, as it stands there, and answers something."""
    queries = blocks("sql-cookbook.md", "sql")
    assert len(queries) >= 10
    while True:
        day = unix(now()) // 86_400
        for token in (ACME, OSAKA):
            cookbook_data(stack, token)
        stack.drain()
        # Coverage lists windows that have ended.
        eventually(stack, "SELECT count() > 0 FROM coverage_1m", 1)
        silent = [query for query in queries if not stack.rows(query)]
        if unix(now()) // 86_400 == day:
            break  # else what was sent is not of today any more
    assert silent == []


def test_what_the_page_for_senders_shows_works(stack: Stack, tmp_path: Path) -> None:
    """The Python of docs/senders.md sends, its curl does, and its tenants file and policies are taken."""
    address, token = f"127.0.0.1:{stack.ports['otlp_http']}", BETA
    (python,) = blocks("senders.md", "python")
    namespace: dict[str, Any] = {}
    exec(python.replace("127.0.0.1:4318", address).replace("YOUR-TOKEN", token), namespace)
    namespace["provider"].shutdown()
    curl = next(block for block in blocks("senders.md", "sh") if block.startswith("curl"))
    curl = curl.replace("127.0.0.1:4318", address).replace("YOUR-TOKEN", token)
    subprocess.run(["bash", "-c", curl.replace("curl ", "curl --fail --silent ", 1)], check=True, timeout=60)
    stack.drain()
    rows = stack.rows(
        "SELECT metric, sum(m.sum_int) AS total FROM metrics_region_1d AS m "
        "WHERE tenant = 'beta' AND service = 'shop' GROUP BY metric ORDER BY metric"
    )
    assert [tuple(row.values()) for row in rows] == [("orders.placed", 1), ("parcels", 5)]
    settings = {block.split(":")[0]: block for block in blocks("senders.md", "yaml")}
    tenants = tmp_path / "tenants.yaml"
    tenants.write_text(settings["# tenants.yaml"])
    (sender,) = Tenants.load(tenants).by_digest.values()
    assert (sender.tenant, sender.cluster) == ("acme", "tokyo-1")
    config = tmp_path / "catchment.yaml"
    config.write_text(settings["policies"])
    policy = Policy(load(config).policies)
    attributes = {"host.name": "h", "device": "sda", "user_agent.original": "x", "k8s.pod.name": "p"}
    assert policy.decide("acme", "system.disk.io", attributes).kept == {"host.name": "h", "device": "sda"}
    assert policy.decide("acme", "http.server.duration", attributes).kept == {"host.name": "h", "device": "sda"}
    assert policy.decide("acme", "jvm.buffer.count", attributes).kept is None
