"""An OpenTelemetry Collector between an SDK and Catchment, and the Collector project's own generator."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from catchment.histogram import pack
from demo.ports import free_port
from tests.clients.programs import output_of
from tests.conformance.checks import assert_exact, assert_places_agree
from tests.conformance.toolchains import Toolchains
from tests.conformance.workload import faults
from tests.faults.stack import UP, Stack, wait_until
from tests.faults.totals import Totals, differences, stored

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

ROUNDS = 13
POINTS = 500
GENERATOR = "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen"
# telemetrygen's bounds, and the buckets and sums of the ten histograms that it sends in turn (its worker.go).
BOUNDS = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000)
SAMPLES = (
    ((0, 0, 1, 0, 0, 0, 3, 4, 1, 1), 3940),
    ((0, 0, 0, 0, 0, 0, 2, 4, 4, 0), 4455),
    ((0, 0, 0, 0, 0, 0, 1, 4, 3, 2), 5337),
    ((0, 0, 1, 0, 1, 0, 2, 2, 1, 3), 4477),
    ((0, 0, 0, 0, 0, 1, 3, 2, 2, 2), 4670),
    ((0, 0, 0, 1, 1, 0, 1, 1, 1, 5), 5670),
    ((0, 0, 0, 0, 0, 2, 1, 1, 4, 2), 5091),
    ((0, 0, 2, 0, 0, 0, 2, 4, 1, 1), 3420),
    ((0, 0, 0, 0, 0, 0, 1, 3, 2, 4), 5917),
    ((0, 0, 1, 0, 1, 0, 0, 4, 4, 0), 3988),
)
_CONFIG = """
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{receiver}"}}
exporters:
  {exporter}:
    endpoint: {endpoint}
    tls: {{insecure: true}}
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0}}
    sending_queue: {{enabled: true, num_consumers: 4}}
processors:
  batch: {{timeout: 50ms}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    metrics: {{receivers: [otlp], processors: [batch], exporters: [{exporter}]}}
"""


@contextlib.contextmanager
def collector(binary: str, folder: Path, exporter: str, catchment: Stack) -> Iterator[str]:
    """A running Collector that sends on to Catchment; gives its OTLP/HTTP address."""
    port = free_port()
    ports = catchment.ports
    endpoint = f"127.0.0.1:{ports['otlp_grpc']}" if exporter == "otlp" else f"http://127.0.0.1:{ports['otlp_http']}"
    with running(binary, folder, _CONFIG.format(receiver=port, exporter=exporter, endpoint=endpoint)):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def running(binary: str, folder: Path, text: str, *options: str) -> Iterator[None]:
    """A running Collector of a configuration; it must end well."""
    config = folder / "collector.yaml"
    config.write_text(text)
    log = folder / "collector.log"
    with log.open("wb") as output:
        process = subprocess.Popen([binary, "--config", str(config), *options], stdout=output, stderr=output)
    try:
        wait_until(lambda: b"Everything is ready" in log.read_bytes(), "the Collector runs", 60, log.read_text)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize("exporter", ["otlp", "otlphttp"])
def test_a_collector_delivers_exactly_across_our_death(
    catchment: Stack, toolchains: Toolchains, tmp_path: Path, exporter: str, temporality: str
) -> None:
    """What a Collector took while Catchment was killed and away arrives by its retries, and counts once."""
    service = f"collector-{exporter}-{temporality}"

    def missing() -> str:
        return "\n".join(faults(service, ROUNDS, 3, stored(catchment, "metrics_region_1m")))

    with collector(toolchains.go_program("collector"), tmp_path, exporter, catchment) as endpoint:
        send = partial(toolchains.send, "go", endpoint, "http", temporality, service, ROUNDS)
        send()
        catchment.kill(UP)
        send()
        catchment.start(UP)
        catchment.wait_ready(UP)
        send()
        # A Collector that is told to stop throws away what it is trying again.
        wait_until(lambda: not missing(), "the Collector has delivered", details=missing)
    assert_exact(catchment, service, ROUNDS, 3)


def generate(toolchains: Toolchains, catchment: Stack, protocol: str, service: str, *options: str) -> None:
    """Run telemetrygen."""
    command = [toolchains.go_program("telemetrygen", GENERATOR), "metrics", "--otlp-insecure", "--rate", "0"]
    command += ["--otlp-endpoint", f"127.0.0.1:{catchment.ports[f'otlp_{protocol}']}", "--service", service]
    command += ["--metrics", str(POINTS), *(["--otlp-http"] if protocol == "http" else []), *options]
    output_of(command)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_telemetrygen_counts_exactly(catchment: Stack, toolchains: Toolchains, protocol: str) -> None:
    """Sums of both temporalities and delta histograms of telemetrygen are exact."""
    name = f"telemetrygen-{protocol}"
    for temporality in ("delta", "cumulative"):
        options = ("--metric-type", "Sum", "--aggregation-temporality", temporality)
        generate(toolchains, catchment, protocol, f"{name}-{temporality}", *options)
    options = ("--metric-type", "Histogram", "--aggregation-temporality", "delta")
    generate(toolchains, catchment, protocol, f"{name}-histogram", *options)
    catchment.drain()
    turns = POINTS // len(SAMPLES)
    counts = np.zeros(len(BOUNDS) + 1, int)
    counts[: len(SAMPLES)] = turns * np.sum([buckets for buckets, _ in SAMPLES], axis=0)
    keys = pack([-np.inf, *BOUNDS], [*BOUNDS, np.inf]).tolist()
    histogram = {key: count for key, count in zip(keys, counts.tolist(), strict=True) if count}
    expected = {
        # It counts up from 0: as increases, or as a level.
        (f"{name}-delta", "gen", ""): Totals(None, POINTS * (POINTS - 1) // 2, 0.0),
        (f"{name}-cumulative", "gen", ""): Totals(None, POINTS - 1, 0.0),
        (f"{name}-histogram", "gen", ""): Totals(
            10 * POINTS, 0, float(turns * sum(total for _, total in SAMPLES)), None, histogram
        ),
    }
    for view in ("metrics_cluster_1m", "metrics_region_1m"):
        found = {key: value for key, value in stored(catchment, view).items() if key[0].startswith(f"{name}-")}
        said = differences(expected, found)
        assert not said, "\n".join([view, *said])
    assert_places_agree(catchment)
