"""Debian's node exporter, scraped by Catchment: SQL has what its counters rose by, and its gauges."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from demo.ports import free_port
from tests.clients.text_server import serving_text
from tests.faults.stack import ROLES, Stack, wait_until

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(180)]

_SCRAPES = 12
Increases = dict[str, float]


class Recorder:
    """Stands between: hands on what the exporter answers, and keeps it."""

    def __init__(self, exporter: str) -> None:
        self._exporter = exporter
        self._lock = threading.Lock()
        self.answers: list[str] = []
        # Until it moves it says its first answer again and again.
        self._stands = True

    def answer(self) -> bytes:
        """What the exporter says now, or said last while it stands."""
        with self._lock:
            if self._stands and self.answers:
                return self.answers[-1].encode()
            with urllib.request.urlopen(f"http://{self._exporter}/metrics", timeout=60) as answer:
                text = str(answer.read().decode())
            self.answers.append(text)
            return text.encode()

    def freeze(self) -> None:
        """Say the same from now on."""
        with self._lock:
            self._stands = True

    def move(self) -> None:
        """Say what the exporter says from now on."""
        with self._lock:
            self._stands = False


@contextlib.contextmanager
def node_exporter() -> Iterator[str]:
    """A running exporter; its address."""
    program = shutil.which("prometheus-node-exporter")
    assert program is not None, "prometheus-node-exporter is missing: install Debian's package of that name"
    port = free_port()
    address = f"127.0.0.1:{port}"
    with subprocess.Popen([program, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL) as process:
        try:
            yield address
        finally:
            process.kill()


def increases(answers: list[str]) -> tuple[Increases, Increases]:
    """By Prometheus' own parser: what counters rose by, and what summaries and histograms counted, by metric."""
    counters: Increases = defaultdict(float)
    counts: Increases = defaultdict(float)
    before: dict[object, float] = {}
    for text in answers:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                if key in before and family.type == "counter":
                    # The parser takes _total off the family's name.
                    counters[sample.name] += sample.value - before[key]
                if key in before and family.type in ("summary", "histogram") and sample.name.endswith("_count"):
                    counts[family.name] += sample.value - before[key]
                before[key] = sample.value
    return counters, counts


def test_a_node_exporter_adds_up(tmp_path: Path) -> None:
    """Every counter's increase over all scrapes and every count of a summary is in SQL, though the collector is
    killed in between; every gauge of the last scrape is there.
    """
    jobs = tmp_path / "prometheus.yml"
    jobs.write_text("")
    with (
        node_exporter() as exporter,
        serving_text((recorder := Recorder(exporter)).answer) as port,
        Stack(tmp_path / "stack", f"scrape: {{file: {jobs}}}\n") as stack,
    ):
        wait_until(lambda: _answers(exporter), "the exporter answers")
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        job = {"job_name": "node", "scrape_interval": "500ms", "scrape_timeout": "500ms"}
        jobs.write_text(
            yaml.safe_dump({"scrape_configs": [{**job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}]})
        )
        scraped = r'catchment_scrapes_total\{end="up"\}'
        # A scrape may come too late for its timeout: increases are counted from the first that did not.
        wait_until(lambda: stack.metric("collector", scraped) >= 1, "the first is scraped")
        recorder.move()
        for scrapes in (_SCRAPES // 2, _SCRAPES):
            wait_until(lambda scrapes=scrapes: len(recorder.answers) >= scrapes, "scraped")  # type: ignore[misc]
            stack.kill("collector")
            stack.start("collector")
        stack.wait_ready("collector")
        recorder.freeze()
        before = stack.metric("collector", scraped)
        wait_until(lambda: stack.metric("collector", scraped) >= before + 2, "the last is scraped")
        jobs.write_text("")
        wait_until(lambda: not stack.metric("collector", "catchment_scrape_targets"), "nothing is scraped any more")
        stack.drain()
        rows = stack.rows(
            "SELECT metric, kind, sum(sum) AS total, sum(count) AS observed, max(last) AS latest"
            " FROM metrics_cluster_1m WHERE service = 'node' GROUP BY metric, kind"
        )
        found = {(row["kind"], row["metric"]): row for row in rows}
        counters, counts = increases(recorder.answers)
        assert len(counters) > 30
        for metric, increase in counters.items():
            assert found["counter", metric]["total"] == pytest.approx(increase, rel=1e-9, abs=1e-6), metric
        for metric, observed in counts.items():
            assert found["summary", metric]["observed"] == observed, metric
        gauges = {
            family.name
            for family in text_string_to_metric_families(recorder.answers[-1])
            if family.type in ("gauge", "unknown") and any(sample.value == sample.value for sample in family.samples)
        }
        assert gauges <= {metric for kind, metric in found if kind == "gauge"}
        drops = stack.rows("SELECT DISTINCT reason FROM pipeline_drops WHERE tier = 'collector'")
        assert {row["reason"] for row in drops} <= {"baseline", "summary_quantiles", "no_recorded_value", "repeated"}


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=5).close()
        return True
    return False
