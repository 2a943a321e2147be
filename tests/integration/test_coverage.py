"""Coverage is what a plain model of the clusters' lives says, whatever they do and whenever it is asked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catchment.columns import regional_topic
from catchment.config import Config
from catchment.envelope import decode
from catchment.log.sqlite import SqliteLog
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from catchment.units import Address
from collectors.collector import Collector
from store.clusters import reinstate, retire
from store.ddl import RETIRED_TABLE, create_registry
from store.migrate import migrate
from tests.integration.coverage_fleet import CUT_OFF, DEAD, KEEPS, T0, TENANT, WORKS, Fleet, Place, ask_at
from tests.integration.store_support import NS, Store, opened
from tests.otlp import ns

# With the second of each minute at which its collector flushes.
PLACES: dict[Place, int] = {("jp", "a"): 0, ("jp", "b"): 59, ("eu", "a"): 30}
EVERYTHING: Any = {"messages_max": 1000, "bytes_max": 1 << 20, "wait_seconds": 1}
# Each takes seconds, most of them in fsyncs.
MODEL_EXAMPLES = 10
_EXAMPLE = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A migrated store, which the tests of this file share: each has regions of its own."""
    with opened(tmp_path_factory.mktemp("coverage")) as found:
        yield found


@dataclass(frozen=True)
class Decision:
    """Made at the end of a minute, for a time that began ``ago_seconds`` before."""

    place: Place
    is_retired: bool
    ago_seconds: int


@dataclass(frozen=True)
class Minute:
    """What each cluster does, what is decided after it, and when in the next minute coverage is asked."""

    lives: dict[Place, str]
    decisions: tuple[Decision, ...] = ()
    asked_second: int | None = 0


def run(store: Store, script: list[Minute]) -> None:
    """Live through a script and compare coverage whenever it is asked."""
    prefix = f"x{next(_EXAMPLE)}-"

    async def all_minutes() -> None:
        fleet = Fleet(store, store.folder / prefix, PLACES, prefix)
        try:
            for number, minute in enumerate(script):
                await fleet.minute(number, minute.lives)
                if minute.decisions or minute.asked_second is not None:
                    await fleet.settle()
                for order, decision in enumerate(minute.decisions):
                    if fleet.model.here.get(decision.place):
                        at = number * 60 + 59
                        since = at - decision.ago_seconds
                        fleet.decide(decision.place, ns(at) + order, since, is_retired=decision.is_retired)
                if minute.asked_second is not None:
                    fleet.check(number * 60 + 60 + minute.asked_second)
        finally:
            await fleet.close()

    asyncio.run(all_minutes())


def lives_of(jp_a: str, jp_b: str = WORKS, eu_a: str = WORKS) -> dict[Place, str]:
    """A minute's lives."""
    return {("jp", "a"): jp_a, ("jp", "b"): jp_b, ("eu", "a"): eu_a}


_lives = st.fixed_dictionaries({place: st.sampled_from([DEAD, KEEPS, WORKS, WORKS, CUT_OFF]) for place in PLACES})
_decision = st.builds(
    Decision, st.sampled_from(list(PLACES)), st.booleans(), st.sampled_from([0, 0, 1, 59, 60, 90, 300, -1, -61, -150])
)
_minute = st.builds(
    Minute, _lives, st.lists(_decision, max_size=2).map(tuple), st.one_of(st.none(), st.integers(0, 59))
)


@pytest.mark.timeout(600)
@settings(max_examples=MODEL_EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(_minute, min_size=3, max_size=8), last=_lives)
def test_coverage_of_random_lives_is_the_models(store: Store, script: list[Minute], last: dict[Place, str]) -> None:
    """Clusters are new, die, are late, come back, are retired and taken back: every window is the model's."""
    run(store, [*script, Minute(last)])


def test_one_that_is_retired_comes_back_and_is_retired_again_is_judged_by_each_time(store: Store) -> None:
    """Silence counts between two retirements, and not during either, however late it is asked."""
    gone, back = (Decision(("jp", "a"), is_retired, 0) for is_retired in (True, False))
    dead = lives_of(DEAD)
    script = [Minute(lives_of(WORKS)), Minute(dead), Minute(dead, (gone,)), Minute(dead), Minute(dead, (back,))]
    script += [Minute(dead), Minute(lives_of(WORKS)), Minute(dead), Minute(dead, (gone,)), Minute(dead), Minute(dead)]
    run(store, script)
    ask_at(store, T0 + 11 * 60)
    region = f"x{next(_EXAMPLE) - 1}-jp"
    query = (
        f"SELECT toUInt32(expected), toUInt32(reported) FROM coverage_1m WHERE region = '{region}' "
        f"AND tenant = '{TENANT}' ORDER BY window_start"
    )
    found = [tuple(row.values()) for row in store.rows(query)]
    assert found == [(2, 2), (2, 1), (2, 1), (1, 1), (1, 1), (2, 1), (2, 2), (2, 1), (2, 1), (1, 1), (1, 1)]


def test_decisions_of_a_former_program_hold_before_and_after_an_upgrade(store: Store) -> None:
    """A table with a cluster's latest decision only is taken over; one that such a program makes later counts too."""
    engine, names = store.engine, {"tenant": TENANT, "region": "former", "cluster": "a"}
    start = T0 + 600
    rows = [{"window_start_ns": at * NS, "cluster": "a", "heartbeat_ns": at * NS} for at in (start, start + 540)]
    store.put("health", rows, tenant=TENANT, region="former")
    engine.execute(f"DROP TABLE {RETIRED_TABLE}")
    former = next(sql for sql in create_registry(deduplication_window=1000) if f"EXISTS {RETIRED_TABLE} " in sql)
    engine.execute(former)

    def decide_as_before(changed_ns: int, retired_from: int) -> None:
        times = pa.array([{"changed_ns": changed_ns, "retired_from": retired_from}])
        row = pa.table({**{name: [value] for name, value in names.items()}, "state": times})
        engine.insert(RETIRED_TABLE, row, token=f"former/{changed_ns}")

    def silent() -> list[int]:
        ask_at(store, start + 600)
        query = "SELECT toUInt32(window_start) AS at FROM coverage_cluster_1m WHERE region = 'former' AND NOT reported"
        return [(row["at"] - start) // 60 for row in store.rows(f"{query} ORDER BY window_start")]

    decide_as_before(1, start + 120)
    assert "every decision about a cluster is kept" in migrate(engine, store.ledger, now_ns=start * NS)
    assert "every decision about a cluster is kept" not in migrate(engine, store.ledger, now_ns=start * NS)
    assert silent() == [1]
    reinstate(engine, **names, from_ns=(start + 240) * NS, now_ns=2)
    retire(engine, **names, from_ns=(start + 360) * NS, now_ns=3)
    engine.execute(f"OPTIMIZE TABLE {RETIRED_TABLE} FINAL")
    assert silent() == [1, 4, 5]
    # That program forgets its own former decision, and none of ours.
    decide_as_before(4, start + 420)
    assert silent() == [1, 2, 3, 4, 5]
    assert store.rows("SELECT retired, toUInt32(retired_at) AS at FROM clusters WHERE region = 'former'") == [
        {"retired": True, "at": start + 420}
    ]
    # As that program means it: as if it had never been retired.
    decide_as_before(5, 0)
    engine.execute(f"OPTIMIZE TABLE {RETIRED_TABLE} FINAL")
    assert silent() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_windows_whose_heartbeats_have_expired_are_not_listed(store: Store) -> None:
    """With a retention of heartbeats coverage begins where they do: what was deleted is not taken for silence."""
    rows = [{"window_start_ns": (T0 + at) * NS, "cluster": "a", "heartbeat_ns": (T0 + at) * NS} for at in (0, 60, 540)]
    store.put("health", rows, tenant=TENANT, region="expiring")
    ask_at(store, T0 + 600, 300)
    query = "SELECT toUInt32(window_start) AS at, reported FROM coverage_cluster_1m WHERE region = 'expiring'"
    found = [(row["at"] - T0, row["reported"]) for row in store.rows(f"{query} ORDER BY window_start")]
    assert found == [(360, False), (420, False), (480, False), (540, True)]
    definition = (
        "SELECT position(create_table_query, '8640000') > 0 FROM system.tables WHERE name = 'coverage_cluster_1m'"
    )
    migrate(store.engine, store.ledger, now_ns=time.time_ns(), retention_seconds={"health": 8_640_000})
    assert store.one(definition) == 1
    migrate(store.engine, store.ledger, now_ns=time.time_ns())
    assert store.one(definition) == 0


def test_a_collector_is_heard_in_every_window_however_rarely_it_flushes(tmp_path: Path) -> None:
    """A collector without any sender, whose flushes are further apart than its windows, is silent in none of them."""
    config = replace(Config(), data_dir=tmp_path, resolution_seconds=1, flush_seconds=3600).for_collector()
    config = replace(config, otlp_http=Address("127.0.0.1", 0), otlp_grpc=Address("127.0.0.1", 0))
    now_ns = begun_ns = time.time_ns()

    async def scenario() -> None:
        nonlocal now_ns
        log = SqliteLog.open(tmp_path / "log.db")
        collector = Collector(config, log, Telemetry(), Tracing("collector"), lambda: now_ns)
        stop, is_ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(collector.run(stop, is_ready.set))
        await is_ready.wait()
        for _ in range(70):
            # Its clock stands still where this machine does: a second that the machine slept through proves nothing.
            await asyncio.sleep(0.05)
            now_ns += NS // 20
        stop.set()
        await running
        collector.close()
        messages = await log.poll(regional_topic("catchment", config.region, "health"), 0, 0, **EVERYTHING)
        heartbeats = [row for message in messages for row in decode(message.value).rows.to_pylist()]
        await log.close()
        heard = {row["window_start_ns"] // NS for row in heartbeats}
        assert set(range(begun_ns // NS, now_ns // NS + 1)) <= heard

    asyncio.run(scenario())
