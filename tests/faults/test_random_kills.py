"""kill -9 at any moment: every acknowledged increment is in the global tables exactly once."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sdk_client import Application, grpc_exporter, http_exporter, sample_faults
from tests.faults.stack import ROLES, Stack
from tests.faults.totals import Key, Totals, differences, disagreements, stored

KILLS = 60
SEED = int(os.environ.get("CATCHMENT_FAULT_SEED") or random.randrange(2**32))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A running pipeline."""
    with Stack(tmp_path) as stack:
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        yield stack


@pytest.fixture
def applications(stack: Stack, caplog: pytest.LogCaptureFixture) -> Iterator[list[Application]]:
    """Applications with SDKs of every sort, born after the collector's folder, so that all their counts are new."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    http, rpc = stack.ports["otlp_http"], stack.ports["otlp_grpc"]
    running = [
        # Some wait and try again inside the SDK, others give up soon and export anew.
        Application("http", http_exporter(http, gzip=True, timeout_seconds=3), insists=False, seed=SEED),
        Application("http-plain", http_exporter(http, gzip=False), insists=False, seed=SEED + 1),
        Application("grpc", grpc_exporter(rpc, timeout_seconds=3), insists=False, seed=SEED + 2),
        Application("http-delta", http_exporter(http, gzip=True, deltas=True), insists=True, seed=SEED + 3),
        Application("grpc-delta", grpc_exporter(rpc, deltas=True), insists=True, seed=SEED + 4),
    ]
    try:
        yield running
    finally:
        for application in running:
            application.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_totals_are_exact_after_kills_at_random_moments(stack: Stack, applications: list[Application]) -> None:
    """SIGKILL for a random role, or all at once, under traffic of real SDKs: every series and digest is exact."""
    chance = random.Random(SEED)
    print(f"CATCHMENT_FAULT_SEED={SEED}")
    for _ in range(KILLS):
        target = chance.choice((*ROLES, "all"))
        roles = ROLES if target == "all" else (target,)
        # Mostly a role that works, for a while at most; sometimes one that is still starting.
        if chance.random() < 0.75:
            stack.wait_ready(*roles)
        time.sleep(chance.uniform(0.0, 0.4))
        stack.kill(*roles)
        stack.start(*roles)
    stack.wait_ready(*ROLES)
    for application in applications:
        application.shutdown()
    stack.drain()

    expected: dict[Key, Totals] = {key: totals for each in applications for key, totals in each.expected.items()}
    found = stored(stack, "metrics_cluster_1m")
    faults = [*differences(expected, found), *sample_faults(applications, found), *disagreements(stack)]
    assert faults == [], f"CATCHMENT_FAULT_SEED={SEED}\n" + "\n".join(faults)
    exports = {each.service: (each.exporter.acknowledged, each.exporter.refused) for each in applications}
    assert all(acknowledged > KILLS // 4 for acknowledged, _ in exports.values()), exports
    assert any(refused > 0 for _, refused in exports.values()), f"no kill was felt: {exports}"
    print(exports)
