"""The proof: whatever happens to the processes and to Kafka, SQL says to the unit what was acknowledged.

``make chaos ROUNDS=400 SEED=7`` does the same for longer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash

from benchmarks.harness import record
from tests.faults.sdk_client import Application, sample_faults
from tests.faults.senders import sending
from tests.faults.stack import wait_until
from tests.faults.totals import Key, Totals, differences, disagreements, stored
from tests.kafka.broker import Broker
from tests.kafka.chaos import (
    AGGREGATORS,
    COLLECTORS,
    DECK,
    PARTITIONS,
    PLACES,
    ROLES,
    STORE,
    WAIT_SECONDS,
    Chaos,
    Fleet,
)

ROUNDS = int(os.environ.get("CATCHMENT_CHAOS_ROUNDS") or len(DECK))
SEED = int(os.environ.get("CATCHMENT_FAULT_SEED") or random.SystemRandom().randrange(2**32))
# All is compared after so many rounds, so that a difference is found near its cause.
ROUNDS_BETWEEN_CHECKS = 25
# In which the store has looked for more for certain.
LOOKS_SECONDS = 2.5
_FAULTS_SAID_MAX = 40


@pytest.fixture
def fleet(tmp_path: Path, kafka_broker: Broker) -> Iterator[Fleet]:
    """A running fleet."""
    with Fleet(tmp_path, kafka_broker) as fleet:
        fleet.start(*ROLES)
        fleet.wait_ready(*ROLES, seconds=WAIT_SECONDS)
        yield fleet


@pytest.fixture
def applications(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> Iterator[list[Application]]:
    """Its senders."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    with sending(fleet.senders(), seed=SEED, pace=3.0) as running:
        yield running


def behind(fleet: Fleet) -> list[str]:
    """Where a table's points are not those that were acknowledged, by tenant and level."""
    rows = fleet.rows(
        "SELECT tenant, level, sum(t.points) AS points_, sum(t.stored_points) AS stored_ "
        "FROM control_totals AS t WHERE lane = 'metrics' GROUP BY tenant, level"
    )
    found = {(row["tenant"], row["level"]): (row["points_"], row["stored_"]) for row in rows}
    return [
        f"{tenant} at {level}: {points} acknowledged, totals and points stored {found.get((tenant, level))}"
        for tenant, (points, _) in fleet.acknowledged().items()
        for level in ("cluster", "region", "globe")
        if found.get((tenant, level)) != (points, points)
    ]


def misplaced(fleet: Fleet) -> list[str]:
    """Services whose rows are another tenant's, region's or cluster's; regions that are not the sum of clusters."""
    said = []
    for row in fleet.rows(
        "SELECT DISTINCT m.tenant AS tenant, m.region AS region, m.cluster AS cluster, m.service AS service "
        "FROM metrics_cluster_1m AS m"
    ):
        place = PLACES[row["service"]]
        if (row["tenant"], row["region"], row["cluster"]) != (place.tenant, place.region, place.cluster):
            said.append(f"{row} should be {place}")
    clusters, regions = (
        fleet.rows(
            "SELECT m.tenant AS tenant, m.region AS region, m.service AS service, m.metric AS metric, "
            "sum(m.points) AS points_, sum(m.count) AS count_, toString(sum(m.sum_int)) AS sum_int_ "
            f"FROM {view} AS m GROUP BY tenant, region, service, metric ORDER BY tenant, region, service, metric"
        )
        for view in ("metrics_cluster_1m", "metrics_region_1m")
    )
    said += [f"clusters {one} and region {other}" for one, other in zip(clusters, regions, strict=True) if one != other]
    return said


def settle(fleet: Fleet) -> None:
    """Wait until all is stored, or nothing more comes; what is missing then, a comparison says better."""
    last, deadline = behind(fleet), time.monotonic() + WAIT_SECONDS
    while last and time.monotonic() < deadline:
        time.sleep(0.1)
        now = behind(fleet)
        if now != last:
            last, deadline = now, time.monotonic() + WAIT_SECONDS


def faults(fleet: Fleet, applications: list[Application]) -> list[str]:
    """Everything that is not as it was acknowledged; meaningful while nobody sends."""
    settle(fleet)
    expected: dict[Key, Totals] = {key: totals for each in applications for key, totals in each.expected.items()}
    found = stored(fleet, "metrics_cluster_1m")
    return [
        *behind(fleet),
        *disagreements(fleet),
        *misplaced(fleet),
        *differences(expected, found),
        *sample_faults(applications, found),
        *fleet.complaints(),
    ]


def check(fleet: Fleet, applications: list[Application]) -> None:
    """Stand still, and compare everything."""
    fleet.wait_ready(*ROLES, seconds=WAIT_SECONDS)
    with contextlib.ExitStack() as still:
        for application in applications:
            still.enter_context(application.still(WAIT_SECONDS))
        fleet.drain_collectors(WAIT_SECONDS)
        found = faults(fleet, applications)
    assert not found, _listed(found)


def check_at_the_end(fleet: Fleet, applications: list[Application]) -> None:
    """Stop everything in peace, in the order of the path, and compare: nothing more is on its way."""
    fleet.wait_ready(*ROLES, seconds=WAIT_SECONDS)
    for application in applications:
        application.shutdown()
    fleet.stop(*COLLECTORS)
    fleet.stop(*AGGREGATORS)
    settle(fleet)
    read_since: float | None = None

    def has_read_everything() -> bool:
        nonlocal read_since
        # The store looks for more twice a second; until then it says what was before.
        read_since = None if fleet.lag(STORE) else read_since or time.monotonic()
        return read_since is not None and time.monotonic() - read_since > LOOKS_SECONDS

    wait_until(has_read_everything, "the store has read everything", WAIT_SECONDS)
    found = faults(fleet, applications)
    fleet.stop(STORE)
    found += fleet.set_aside()
    assert not found, _listed(found)


def said(chaos: Chaos, fleet: Fleet, applications: list[Application], seconds: float) -> list[tuple[str, str]]:
    """What there is to say of a run that found no difference, as (what, figure)."""
    points = sum(points for points, _ in fleet.acknowledged().values())
    series = sum(len(each.expected) for each in applications)
    acknowledged = sum(each.exporter.acknowledged for each in applications)
    refused = sum(each.exporter.refused for each in applications)
    return [
        ("seed", f"{SEED}, {ROUNDS} rounds in {seconds:,.0f} s"),
        ("processes", f"{len(COLLECTORS)} collectors, {len(AGGREGATORS)} aggregators, 1 store, 1 broker"),
        ("SIGKILL", f"{chaos.kills.total():,} ({_counted(chaos.kills)})"),
        ("SIGSTOP beyond the session, stopped in peace", _counted(chaos.others)),
        ("zombies fenced when they came to publish", f"{fleet.takeovers():,}"),
        ("errors of the Kafka library that nobody asked for", f"{fleet.murmurs():,}"),
        ("exports of real SDKs", f"{acknowledged:,} acknowledged, {refused:,} refused or unanswered"),
        ("points acknowledged", f"{points:,} in {series} series"),
        ("comparisons with SQL on the way and at the end", f"{(ROUNDS - 1) // ROUNDS_BETWEEN_CHECKS + 1}"),
        ("differences: series, tenants, clusters, regions, digests, dead letters, open intents", "0"),
    ]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in sorted(counter.items()))


def _listed(faults: list[str]) -> str:
    more = [f"… and {len(faults) - _FAULTS_SAID_MAX} more"] if len(faults) > _FAULTS_SAID_MAX else []
    return "\n".join([fault[:1_000] for fault in faults[:_FAULTS_SAID_MAX]] + more)


@pytest.mark.proof
@pytest.mark.timeout(300 + 30 * ROUNDS)
def test_sql_says_what_was_acknowledged_whatever_happens(
    fleet: Fleet, kafka_broker: Broker, applications: list[Application]
) -> None:
    """SIGKILLs, zombies, broker deaths and rebalances under traffic of real SDKs: every series and digest is exact."""
    for region in COLLECTORS.values():
        keys = [f"{place.tenant}/{place.cluster}" for place in PLACES.values() if place.region == region]
        assert {xxhash.xxh3_64_intdigest(key.encode()) % PARTITIONS for key in keys} == set(range(PARTITIONS))
    again = f"CATCHMENT_CHAOS_ROUNDS={ROUNDS} CATCHMENT_FAULT_SEED={SEED}"
    print(again)
    started, number = time.monotonic(), 0
    chaos = Chaos(fleet, kafka_broker, SEED)
    try:
        for number in range(1, ROUNDS + 1):
            chaos.round()
            seconds = time.monotonic() - started
            print(f"{seconds:7.1f} s: round {number}, {chaos.kills.total()} kills, {chaos.last}", flush=True)
            if number % ROUNDS_BETWEEN_CHECKS == 0 and number < ROUNDS:
                chaos.last = "a comparison"
                check(fleet, applications)
        chaos.last = "the end"
        check_at_the_end(fleet, applications)
    except BaseException as error:
        error.add_note(f"{again}: round {number}, {chaos.last}; kills {dict(chaos.kills)}; see {fleet.folder}")
        raise
    rows = said(chaos, fleet, applications, time.monotonic() - started)
    print("\n".join(f"{what}: {figure}" for what, figure in rows))
    if os.environ.get("CATCHMENT_CHAOS_RECORD"):
        record("Chaos on a real Kafka", rows)
    exports = {each.service: (each.exporter.acknowledged, each.exporter.refused) for each in applications}
    assert all(acknowledged > ROUNDS for acknowledged, _ in exports.values()), exports
    assert any(refused > 0 for _, refused in exports.values()), f"no kill was felt: {exports}"
