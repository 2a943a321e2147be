"""Kills, pauses, broker deaths and rebalances on a real Kafka: what was acknowledged is what SQL says, to the unit.

``make chaos ROUNDS=n SEED=s`` runs the same with more rounds.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kafka_stack import AGGREGATORS, KAFKA_ROLES, SESSION_SECONDS, KafkaStack
from tests.faults.sdk_client import Application, grpc_exporter, http_exporter, sample_faults
from tests.faults.totals import Key, Totals, differences, disagreements, stored
from tests.integration.end_to_end import write_tenants
from tests.kafka.broker import Broker

ROUNDS = int(os.environ.get("CATCHMENT_CHAOS_ROUNDS") or 24)
SEED = int(os.environ.get("CATCHMENT_FAULT_SEED") or random.randrange(2**32))
# What happens in this many rounds, in an order by chance: so a short run has seen everything.
DECK = ("kill",) * 4 + ("kill several",) * 2 + ("pause",) * 3 + ("kill broker",) + ("rebalance",) * 2
# A service and whose it is: clusters are what the log's partitions are chosen by.
PLACES = {
    "http": ("acme", "tokyo-1"),
    "http-plain": ("acme", "tokyo-2"),
    "grpc": ("beta", "tokyo-1"),
    "http-delta": ("beta", "osaka-1"),
    "grpc-delta": ("gamma", "osaka-1"),
}


@pytest.fixture
def stack(tmp_path: Path, kafka_broker: Broker) -> Iterator[KafkaStack]:
    """A running pipeline."""
    tenants = tmp_path / "tenants.json"
    write_tenants(tenants, {f"token of {service}": place for service, place in PLACES.items()})
    with KafkaStack(tmp_path, kafka_broker.plain, tenants) as stack:
        stack.start(*KAFKA_ROLES)
        stack.wait_ready(*KAFKA_ROLES)
        yield stack


@pytest.fixture
def applications(stack: KafkaStack, caplog: pytest.LogCaptureFixture) -> Iterator[list[Application]]:
    """Applications with SDKs of every sort, each with a token of its own."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    http, rpc = stack.ports["otlp_http"], stack.ports["otlp_grpc"]
    exporters = {
        "http": http_exporter(http, gzip=True, timeout_seconds=3, token="token of http"),
        "http-plain": http_exporter(http, gzip=False, token="token of http-plain"),
        "grpc": grpc_exporter(rpc, timeout_seconds=3, token="token of grpc"),
        "http-delta": http_exporter(http, gzip=True, deltas=True, token="token of http-delta"),
        "grpc-delta": grpc_exporter(rpc, deltas=True, token="token of grpc-delta"),
    }
    running = [
        Application(service, exporter, insists=service.endswith("delta"), seed=SEED + number)
        for number, (service, exporter) in enumerate(exporters.items())
    ]
    try:
        yield running
    finally:
        for application in running:
            application.close()


class Chaos:
    """What happens to a pipeline, by a seed; counts what it did."""

    def __init__(self, stack: KafkaStack, broker: Broker, seed: int) -> None:
        self._stack = stack
        self._broker = broker
        self._chance = random.Random(seed)
        self._deck: list[str] = []
        self._started = time.monotonic()
        self.done: Counter[str] = Counter()

    def round(self) -> None:
        """Let one thing happen, mostly to a pipeline that works."""
        if not self._deck:
            self._deck = self._chance.sample(DECK, len(DECK))
        what = self._deck.pop()
        self._say(what)
        if self._chance.random() < 0.75:
            self._stack.wait_ready(*KAFKA_ROLES)
        time.sleep(self._chance.uniform(0.0, 0.6))
        {
            "kill": lambda: self._kill(1),
            "kill several": lambda: self._kill(self._chance.randint(2, len(KAFKA_ROLES))),
            "pause": self._pause,
            "kill broker": self._kill_broker,
            "rebalance": self._rebalance,
        }[what]()

    def _say(self, what: str) -> None:
        print(f"{time.monotonic() - self._started:6.1f} s: {what}", flush=True)

    def _kill(self, count: int, among: tuple[str, ...] = KAFKA_ROLES) -> None:
        roles = self._chance.sample(among, count)
        self._stack.kill(*roles)
        self._stack.start(*roles)
        self.done.update(f"SIGKILL {role}" for role in roles)

    def _pause(self) -> None:
        """Past the session and, mostly, the transaction: who comes back has been taken over, and does not know."""
        roles = self._chance.choice((*((role,) for role in KAFKA_ROLES), (AGGREGATORS[0],), AGGREGATORS))
        seconds = self._chance.uniform(1.3, 2.2) * SESSION_SECONDS
        with self._stack.paused(*roles):
            time.sleep(seconds / 2)
            if self._chance.random() < 0.3:
                self._kill(1, tuple(role for role in KAFKA_ROLES if role not in roles))
            time.sleep(seconds / 2)
        self.done.update(f"SIGSTOP {role}" for role in roles)

    def _kill_broker(self) -> None:
        self._broker.kill()
        try:
            if self._chance.random() < 0.5:
                self._kill(1)
        finally:
            self._broker.start()
        self.done["SIGKILL broker"] += 1

    def _rebalance(self) -> None:
        """An aggregator that leaves in peace, and comes again."""
        role = self._chance.choice(AGGREGATORS)
        self._stack.wait_ready(role)
        self._stack.stop(role)
        time.sleep(self._chance.uniform(0.0, 1.0))
        self._stack.start(role)
        self.done[f"stop {role}"] += 1


def misplaced(stack: KafkaStack) -> list[str]:
    """Services whose rows are another tenant's or cluster's, in any table."""
    said = []
    for view, column in (("metrics_cluster_1m", "m.cluster"), ("metrics_region_1m", "''")):
        rows = stack.rows(
            f"SELECT DISTINCT m.tenant AS tenant, {column} AS cluster, m.service AS service FROM {view} AS m"
        )
        for row in rows:
            tenant, cluster = PLACES[row["service"]]
            if row["tenant"] != tenant or row["cluster"] not in (cluster, ""):
                said.append(f"{view}: {row} should be {tenant}/{cluster}")
    return said


def takeovers(stack: KafkaStack) -> int:
    """How often an aggregator came to publish and was fenced."""
    return sum(
        len(re.findall("taken over: ", stack.output(role).read_text("utf-8", "replace"))) for role in AGGREGATORS
    )


@pytest.mark.slow
@pytest.mark.timeout(300 + 30 * ROUNDS)
def test_totals_are_exact_whatever_happens_around_kafka(
    stack: KafkaStack, kafka_broker: Broker, applications: list[Application]
) -> None:
    """SIGKILLs, zombies, broker deaths and rebalances under traffic: every series, digest and place is exact."""
    print(f"CATCHMENT_CHAOS_ROUNDS={ROUNDS} CATCHMENT_FAULT_SEED={SEED}")
    started = time.monotonic()
    chaos = Chaos(stack, kafka_broker, SEED)
    for _ in range(ROUNDS):
        chaos.round()
    print(f"{time.monotonic() - started:6.1f} s: the end", flush=True)
    stack.wait_ready(*KAFKA_ROLES)
    print(f"{time.monotonic() - started:6.1f} s: ready", flush=True)
    for application in applications:
        application.shutdown()
    print(f"{time.monotonic() - started:6.1f} s: sent", flush=True)
    stack.drain(60)

    expected: dict[Key, Totals] = {key: totals for each in applications for key, totals in each.expected.items()}
    found = stored(stack, "metrics_cluster_1m")
    faults = [
        *differences(expected, found),
        *sample_faults(applications, found),
        *disagreements(stack),
        *misplaced(stack),
    ]
    exports = {each.service: (each.exporter.acknowledged, each.exporter.refused) for each in applications}
    print(f"{time.monotonic() - started:.0f} s: {dict(sorted(chaos.done.items()))}")
    print(f"{len(expected)} series, exports acknowledged and refused {exports}, {takeovers(stack)} zombies fenced")
    assert faults == [], f"CATCHMENT_CHAOS_ROUNDS={ROUNDS} CATCHMENT_FAULT_SEED={SEED}\n" + "\n".join(faults)
    assert all(acknowledged > ROUNDS // 4 for acknowledged, _ in exports.values()), exports
    assert any(refused > 0 for _, refused in exports.values()), f"no kill was felt: {exports}"
