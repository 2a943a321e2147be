"""A Go program that offers native histograms, scraped by Catchment, which dies meanwhile, and by Prometheus."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from catchment.histogram import unpack
from demo.ports import free_port
from tests.conformance.native_target import KEYS, all_observed, classic_counts, native_bucket, native_counts
from tests.conformance.toolchains import Toolchains
from tests.faults.stack import ROLES, Stack, wait_until
from tests.faults.totals import Stored, disagreements, stored

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

_TURNS = 24
_JOB = {"job_name": "go", "scrape_interval": "200ms", "scrape_timeout": "200ms"}


@contextlib.contextmanager
def running(*command: str, ready: str) -> Iterator[None]:
    """A program that runs until the end; ``ready`` is an address that answers once it does."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _answers(ready), f"{command[0]} answers", 60)
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A running Prometheus that takes native histograms; its address."""
    program = shutil.which("prometheus")
    assert program is not None, "prometheus is missing: install Debian's package of that name, or Prometheus itself"
    port = free_port()
    address = f"127.0.0.1:{port}"
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"scrape_configs": [{**_JOB, "static_configs": [{"targets": [target]}]}]}))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address={address}", "--enable-feature=native-histograms"]
    with running(*command, ready=f"http://{address}/-/ready"):
        yield address


def asked(address: str, query: str) -> dict[str, Any]:
    """What Prometheus holds now of a metric, by ``key``."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found = json.loads(answer.read())["data"]["result"]
    return {each["metric"]["key"]: each["histogram"][1] if "histogram" in each else each["value"][1] for each in found}


def buckets_of(row: Stored) -> dict[tuple[float, float], int]:
    """A row's histogram by interval."""
    lower, upper = unpack(np.array(list(row.histogram), np.int64))
    return dict(zip(zip(lower.tolist(), upper.tolist(), strict=True), row.histogram.values(), strict=True))


def test_native_histograms_of_a_go_program(toolchains: Toolchains, tmp_path: Path) -> None:
    """Counters, summaries, classic and native histograms, and those that are both, count exactly once though all of
    Catchment is killed under scrapes; native buckets are those that Prometheus scrapes from the same program.
    """
    jobs = tmp_path / "prometheus.yml"
    jobs.write_text("")
    port = free_port()
    target = f"127.0.0.1:{port}"
    program = toolchains.go_program("target")
    with contextlib.ExitStack() as around:
        stack = around.enter_context(Stack(tmp_path / "stack", f"scrape: {{file: {jobs}}}\n"))
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        # Younger than the collector, and it says so: nothing of it is a baseline.
        around.enter_context(running(program, target, ready=f"http://{target}/metrics"))
        address = around.enter_context(prometheus(tmp_path, target))
        job = {**_JOB, "scrape_native_histograms": True, "static_configs": [{"targets": [target]}]}
        jobs.write_text(yaml.safe_dump({"scrape_configs": [job]}))
        for turn in range(1, _TURNS + 1):
            urllib.request.urlopen(f"http://{target}/turn", timeout=60).close()
            time.sleep(0.1)
            if turn % 8 == 0:
                roles = ROLES if turn % 16 == 0 else ("collector",)
                stack.kill(*roles)
                stack.start(*roles)
        stack.wait_ready(*ROLES)
        wait_until(lambda: not missing(stack), "everything has arrived", 60, lambda: "\n".join(missing(stack)))
        # Prometheus holds nothing of a target whose last scrape came too late for it, and until the next one.
        wait_until(
            lambda: not unlike(stack, address), "both hold the same", 60, lambda: "\n".join(unlike(stack, address))
        )
        stack.stop("collector")
        stack.drain()
        assert missing(stack) == []
        assert disagreements(stack) == []
        drops = stack.rows("SELECT DISTINCT reason FROM pipeline_drops WHERE tier = 'collector'")
        assert {row["reason"] for row in drops} <= {"summary_quantiles", "repeated", "no_recorded_value"}


def unlike(stack: Stack, address: str) -> list[str]:
    """Where native histograms in the tables are not those that the Prometheus at ``address`` holds."""
    said = []
    rows = stored(stack, "metrics_cluster_1m")
    for metric in ("native_seconds", "both_seconds"):
        of_prometheus = asked(address, metric)
        for key in KEYS:
            row, theirs = rows["go", metric, key], of_prometheus.get(key)
            if (
                theirs is None
                or int(theirs["count"]) != row.count
                or float(theirs["sum"]) != pytest.approx(row.sum_float)
            ):
                said.append(f"{metric} {key}: Prometheus has {theirs}, {row} found")
                continue
            buckets = {
                native_bucket(float(lower), float(upper)): int(count) for _, lower, upper, count in theirs["buckets"]
            }
            own = {native_bucket(*interval): count for interval, count in buckets_of(row).items()}
            said += _difference(f"{metric} {key}", buckets, own)
    return said


def missing(stack: Stack) -> list[str]:
    """What the tables do not hold as the program counted it, in both views."""
    said = []
    for view in ("metrics_cluster_1m", "metrics_region_1m"):
        found = stored(stack, view)
        for n, key in enumerate(KEYS):
            values = all_observed(range(_TURNS + 1), n)
            orders = found.get(("go", "orders_total", key))
            expected = sum(turn * (n + 1) for turn in range(_TURNS + 1))
            if orders is None or orders.sum_int != expected:
                said.append(f"{view} orders_total {key}: {expected} expected, {orders} found")
            calls = found.get(("go", "rpc_seconds", key))
            if calls is None or (calls.count, calls.sum_float) != (_TURNS + 1, (n + 0.25) * (_TURNS + 1)):
                said.append(f"{view} rpc_seconds {key}: {calls} found")
            for metric in ("classic_seconds", "native_seconds", "both_seconds"):
                row = found.get(("go", metric, key))
                if row is None or row.count != len(values) or row.sum_float != pytest.approx(sum(values)):
                    said.append(f"{view} {metric} {key}: {len(values)} expected, {row} found")
                elif metric == "classic_seconds":
                    said += _difference(f"{view} {metric} {key}", classic_counts(values), buckets_of(row))
                else:
                    own = {native_bucket(*interval): count for interval, count in buckets_of(row).items()}
                    said += _difference(f"{view} {metric} {key}", native_counts(values), own)
    return said


def _difference(what: str, expected: object, found: object) -> list[str]:
    return [] if expected == found else [f"{what}: {expected} expected, {found} found"]


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError, urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5).close()
        return True
    return False
