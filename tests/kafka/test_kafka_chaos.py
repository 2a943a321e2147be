"""The distributed pipeline under everything that happens to machines: all that was acknowledged is there exactly once.

``make chaos ROUNDS=200 SEED=7`` goes on for as long as one likes; the tests go through ``ROUNDS`` rounds.
"""

from __future__ import annotations

import logging
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sdk_client import Application, grpc_exporter, http_exporter, sample_faults
from tests.faults.stack import SECOND_AGGREGATOR, Stack, wait_until
from tests.faults.totals import Key, Totals, differences, disagreements, stored
from tests.kafka.broker import Broker

ROUNDS = int(os.environ.get("CATCHMENT_CHAOS_ROUNDS") or 6)
SEED = int(os.environ.get("CATCHMENT_FAULT_SEED") or random.randrange(2**32))
AGGREGATORS = ("aggregator", SECOND_AGGREGATOR)
ROLES = ("collector", *AGGREGATORS, "store")
PARTITIONS = 3
# Longer than a session, so that the others have taken over by the time a paused process wakes: a zombie.
SESSION_SECONDS = 2.0
ZOMBIE_SECONDS = SESSION_SECONDS + 1.5
# What a round does, and how often.
DEEDS = {
    "kill one": 8,
    "kill several": 3,
    "kill all": 1,
    "pause an aggregator": 3,
    "pause collector or store": 2,
    "restart an aggregator gracefully": 3,
    "kill the broker": 1,
}


@pytest.fixture
def stack(tmp_path: Path, kafka_broker: Broker) -> Iterator[Stack]:
    """A running pipeline with two aggregators that share three partitions of every lane."""
    settings = (
        f"kafka: {{brokers: [{kafka_broker.plain}], replication_factor: 1, session_timeout: {SESSION_SECONDS:g}s, "
        "transaction_timeout: 5s}\n"
        f"log: {{topic_prefix: chaos-{uuid.uuid4().hex[:12]}, partitions: {PARTITIONS}}}\n"
    )
    with Stack(tmp_path, settings) as stack:
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        yield stack


@pytest.fixture
def applications(stack: Stack, caplog: pytest.LogCaptureFixture) -> Iterator[list[Application]]:
    """Applications with SDKs, born after the collector's folder, so that all their counts are new."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    http, rpc = stack.ports["otlp_http"], stack.ports["otlp_grpc"]
    running = [
        Application("http", http_exporter(http, gzip=True, timeout_seconds=3), insists=False, seed=SEED),
        Application("grpc", grpc_exporter(rpc, timeout_seconds=3), insists=False, seed=SEED + 1),
        Application("http-delta", http_exporter(http, gzip=False, deltas=True), insists=True, seed=SEED + 2),
    ]
    try:
        yield running
    finally:
        for application in running:
            application.close()


class Chaos:
    """Does things to a pipeline, and counts them."""

    def __init__(self, stack: Stack, broker: Broker, chance: random.Random) -> None:
        self._stack, self._broker, self._chance = stack, broker, chance
        self.done: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()

    def round(self) -> None:
        """One deed at a random moment; mostly on a pipeline that works, sometimes on one that still recovers."""
        if self._chance.random() < 0.7:
            self._stack.wait_ready(*ROLES)
        time.sleep(self._chance.uniform(0.0, 0.6))
        deed = self._chance.choices([*DEEDS], weights=[*DEEDS.values()])[0]
        self.done[deed] += 1
        if deed == "kill one":
            self._kill(self._chance.choice(ROLES))
        elif deed == "kill several":
            self._kill(*self._chance.sample(ROLES, self._chance.choice((2, 3))))
        elif deed == "kill all":
            self._kill(*ROLES)
        elif deed == "pause an aggregator":
            with self._stack.paused(self._chance.choice(AGGREGATORS)):
                time.sleep(ZOMBIE_SECONDS)
        elif deed == "pause collector or store":
            with self._stack.paused(self._chance.choice(("collector", "store"))):
                time.sleep(self._chance.uniform(0.5, ZOMBIE_SECONDS))
        elif deed == "restart an aggregator gracefully":
            role = self._chance.choice(AGGREGATORS)
            # One that is still starting takes no notice of manners yet: SIGTERM ends it like any process.
            self._stack.wait_ready(role)
            self._stack.stop(role)
            self._stack.start(role)
        else:
            self._broker.kill()
            self.kills["broker"] += 1
            time.sleep(self._chance.uniform(0.0, 1.0))
            self._broker.start()

    def _kill(self, *roles: str) -> None:
        self._stack.kill(*roles)
        self.kills.update(roles)
        self._stack.start(*roles)


def globe(stack: Stack) -> dict[str, int]:
    """Points by tenant that the tables hold."""
    rows = stack.rows(
        "SELECT tenant, sum(t.stored_points) AS points_ FROM control_totals AS t "
        "WHERE lane = 'metrics' AND level = 'globe' GROUP BY tenant"
    )
    return {str(row["tenant"]): int(row["points_"]) for row in rows}


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_nothing_is_lost_or_repeated(stack: Stack, kafka_broker: Broker, applications: list[Application]) -> None:
    """Kills, zombies, rebalances and broker deaths under traffic of real SDKs: every series and digest is exact."""
    print(f"CATCHMENT_FAULT_SEED={SEED}")
    chaos = Chaos(stack, kafka_broker, random.Random(SEED))
    for _ in range(ROUNDS):
        chaos.round()
    stack.wait_ready(*ROLES)
    for application in applications:
        application.shutdown()
    stack.drain_collector()
    wanted = {tenant: points for tenant, (points, _) in stack.acknowledged().items()}
    try:
        wait_until(lambda: globe(stack) == wanted, "all points are stored", 60)
    except AssertionError:
        pass  # the comparison below says which
    expected: dict[Key, Totals] = {key: totals for each in applications for key, totals in each.expected.items()}
    found = stored(stack, "metrics_cluster_1m")
    faults = [*differences(expected, found), *sample_faults(applications, found), *disagreements(stack)]
    assert faults == [], f"CATCHMENT_FAULT_SEED={SEED} {chaos.done}\n" + "\n".join(faults)
    print(
        f"{ROUNDS} rounds, {sum(chaos.kills.values())} kills: {dict(chaos.kills)}; {dict(chaos.done)}; {wanted} points"
    )
    assert all(each.exporter.acknowledged > ROUNDS // 4 for each in applications)
