"""kill -9 at any moment: every acknowledged increment is in the global tables exactly once."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sdk_client import Application, sample_faults
from tests.faults.senders import STYLES, Sender, sending
from tests.faults.stack import ROLES, Stack, wait_until
from tests.faults.totals import Key, Totals, differences, disagreements, stored

KILLS = 60
# Between so many kills every application gets through once, however slow the machine is.
_KILLS_PER_EXPORT = 6
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
    """Applications with SDKs of every sort."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    with sending([Sender(style, style, stack.ports) for style in STYLES], seed=SEED) as running:
        yield running


def wait_for_exports(applications: list[Application], count: int) -> None:
    """Wait until each application was acknowledged so often."""
    wait_until(lambda: all(each.exporter.acknowledged >= count for each in applications), f"{count} exports of each")


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_totals_are_exact_after_kills_at_random_moments(stack: Stack, applications: list[Application]) -> None:
    """SIGKILL for a random role, or all at once, under traffic of real SDKs: every series and digest is exact."""
    chance = random.Random(SEED)
    print(f"CATCHMENT_FAULT_SEED={SEED}")
    for number in range(KILLS):
        wait_for_exports(applications, number // _KILLS_PER_EXPORT)
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
    # What sixty kills held up is much for a busy machine.
    stack.drain(180)

    expected: dict[Key, Totals] = {key: totals for each in applications for key, totals in each.expected.items()}
    found = stored(stack, "metrics_cluster_1m")
    faults = [*differences(expected, found), *sample_faults(applications, found), *disagreements(stack)]
    assert faults == [], f"CATCHMENT_FAULT_SEED={SEED}\n" + "\n".join(faults)
    exports = {each.service: (each.exporter.acknowledged, each.exporter.refused) for each in applications}
    assert all(acknowledged >= KILLS // _KILLS_PER_EXPORT for acknowledged, _ in exports.values()), exports
    assert any(refused > 0 for _, refused in exports.values()), f"no kill was felt: {exports}"
    print(exports)
