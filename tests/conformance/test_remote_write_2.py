"""Remote write 2.0 as a Collector's exporter writes it, with types, starts and native histograms."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.ports import free_port
from tests.conformance.checks import assert_places_agree
from tests.conformance.test_collector import running
from tests.conformance.toolchains import Toolchains
from tests.conformance.workload import faults
from tests.faults.stack import UP, Stack, wait_until
from tests.faults.totals import stored

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(900)]

ROUNDS = 13
_GATE = "exporter.prometheusremotewritexporter.enableSendingRW2"
_CONFIG = """
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{receiver}"}}
exporters:
  prometheusremotewrite:
    http: {{endpoint: "http://127.0.0.1:{catchment}/api/v1/write"}}
    protobuf_message: io.prometheus.write.v2.Request
    add_metric_suffixes: false
    disable_scope_info: true
    target_info: {{enabled: false}}
    max_batch_size_bytes: 1500
    retry_on_failure: {{initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0}}
    remote_write_queue: {{enabled: true, num_consumers: 1}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines:
    metrics: {{receivers: [otlp], exporters: [prometheusremotewrite]}}
"""


def _faults(catchment: Stack, service: str, view: str) -> str:
    """What differs from the workload. A whole double of Prometheus is an integer, so fractions are in both sums."""
    found = stored(catchment, view)
    for (_, metric, _), totals in found.items():
        if metric == "volume":
            totals.sum_float, totals.sum_int = (totals.sum_float or 0) + (totals.sum_int or 0), 0
    return "\n".join(faults(service, ROUNDS, 2, found))


def test_a_collector_writes_remotely_and_exactly_across_our_death(
    catchment: Stack, toolchains: Toolchains, tmp_path: Path
) -> None:
    """Counters, levels, classic and native histograms of an SDK count once and from their start, while Catchment is
    killed and away; batches are small, so that histograms come in pieces.
    """
    service = "remote-write-2"

    def missing() -> str:
        return "\n".join(
            _faults(catchment, service, view) for view in ("metrics_cluster_1m", "metrics_region_1m")
        ).strip()

    port = free_port()
    text = _CONFIG.format(receiver=port, catchment=catchment.ports["otlp_http"])
    with running(toolchains.go_program("collector"), tmp_path, text, f"--feature-gates=+{_GATE}"):

        def send() -> None:
            toolchains.send("python", f"127.0.0.1:{port}", "http", "cumulative", service, ROUNDS)

        send()
        catchment.kill(UP)
        send()
        catchment.start(UP)
        catchment.wait_ready(UP)
        wait_until(lambda: not missing(), "the Collector has delivered", 60, details=missing)
    catchment.drain()
    assert not missing()
    assert_places_agree(catchment)
