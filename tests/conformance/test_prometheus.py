"""A Prometheus server that scrapes a program and writes to Catchment, which dies meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.ports import free_port
from tests.conformance.prometheus_target import KEYS, PrometheusTarget, expected, volumes
from tests.faults.stack import UP, Stack, wait_until
from tests.faults.totals import differences, disagreements, same, stored

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

_CONFIG = """
global: {{scrape_interval: 250ms}}
scrape_configs:
- job_name: shop
  static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
remote_write:
- url: http://127.0.0.1:{catchment}/api/v1/write
  # Many small shards: the series of a histogram travel apart.
  queue_config:
    {{min_shards: 5, max_shards: 5, max_samples_per_send: 23, batch_send_deadline: 300ms, max_backoff: 500ms}}
  metadata_config: {{send_interval: 1s}}
"""
# Quantiles, NaN of theirs before their type is known, marks of a scrape that came too late, retries, and first points:
# nothing is missing by them.
_HARMLESS = {"summary_quantiles", "not_finite", "no_recorded_value", "repeated", "baseline"} | {
    "late_cumulative",
    "late_gauge",
    "unverified",
}


@contextlib.contextmanager
def prometheus(folder: Path, target: PrometheusTarget, catchment: Stack) -> Iterator[None]:
    """A running Prometheus."""
    program = shutil.which("prometheus")
    assert program is not None, "prometheus is missing: install Debian's package of that name, or Prometheus itself"
    port = free_port()
    config = folder / "prometheus.yaml"
    config.write_text(_CONFIG.format(target=target.port, catchment=catchment.ports["otlp_http"]))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--storage.remote.flush-deadline=20s"]
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        # A refusal for good is data that Prometheus threw away.
        assert "non-recoverable" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait(10)


def _baselines(catchment: Stack) -> int:
    rows = catchment.rows("SELECT sum(d.count) AS points FROM pipeline_drops AS d WHERE reason = 'baseline'")
    return int(rows[0]["points"] or 0)


def _counted_keys(catchment: Stack) -> set[str]:
    """The keys of which ``volume`` is known to be a counter."""
    rows = catchment.rows(
        "SELECT DISTINCT m.attributes['key'] AS key FROM metrics_cluster_1m AS m"
        " WHERE metric = 'volume' AND kind = 'counter'"
    )
    return {row["key"] for row in rows}


def test_prometheus_delivers_exactly_across_our_deaths(catchment: Stack, tmp_path: Path) -> None:
    """Counters, histograms and summaries that Prometheus scraped count once, while Catchment is killed under its
    requests and away for seconds; samples of one histogram come by five shards in requests of 23.
    """
    with PrometheusTarget() as target, prometheus(tmp_path, target, catchment):
        # Everything has a baseline once types have come: counters, the like-named parts of untyped summaries before.
        known = ("orders_total", "volume", "latency_seconds", "rpc_seconds")

        def have_baselines() -> bool:
            found = stored(catchment, "metrics_cluster_1m")
            return all(("shop", metric, key) in found for metric in known for key in KEYS)

        wait_until(have_baselines, "all series have a baseline", 60, lambda: str(_baselines(catchment)))
        # Until its type has come it is a gauge, and has rows as one.
        wait_until(lambda: _counted_keys(catchment) == set(KEYS), "volume is a counter")
        for turn in range(1, 31):
            target.turn = turn
            time.sleep(0.15)
            if turn % 10 == 0:
                catchment.kill(UP)
                time.sleep(turn / 20)
                catchment.start(UP)
                catchment.wait_ready(UP)

        def missing() -> str:
            said = []
            for view in ("metrics_cluster_1m", "metrics_region_1m"):
                found = {key: value for key, value in stored(catchment, view).items() if key[1] in (*known, "depth")}
                said += differences(expected("shop", turn), found)
                for key, volume in volumes(turn).items():
                    own = found.get(("shop", "volume", key))
                    if own is not None and not same(float(own.sum_int or 0) + (own.sum_float or 0), volume):
                        said.append(f"{key} volume: expected {volume}, found {own}")
            return "\n".join(said)

        wait_until(lambda: not missing(), "everything has arrived", 60, missing)
    catchment.drain()
    assert not missing()
    said = disagreements(catchment)
    assert not said, "\n".join(said)
    reasons = {row["reason"] for row in catchment.rows("SELECT d.reason AS reason FROM pipeline_drops AS d")}
    assert reasons <= _HARMLESS
