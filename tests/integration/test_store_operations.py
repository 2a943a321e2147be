"""What a person decides about the store is done once, noted, and refused where there is nothing to decide."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from catchment.cli.main import run
from catchment.cli.store_actions import store_actions
from catchment.errors import Corrupt, Invalid, Retry
from catchment.log.port import Source
from catchment.log.sqlite import SqliteLog
from catchment.status_http import Probes, StatusServer
from store.decisions import Action, Decision
from store.engine.port import EngineError
from store.loader import State
from store.operations import Operations
from store.position import Position
from tests.integration.store_support import NS, PREFIX, T0, Store, envelope_bytes, metric_row, opened

LANE = "metrics_cluster"
TOPIC = PREFIX + LANE
BY: dict[str, Any] = {"who": "ann@host", "why": "compared with control_totals"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store that remembers four blocks."""
    with opened(tmp_path, deduplication_window=4) as found:
        yield found


def operate(store: Store, work: Callable[[Operations], Awaitable[Any]]) -> Any:
    """Run a coroutine with the operations of the store."""

    async def body(log: SqliteLog) -> Any:
        return await work(Operations(log, store.ledger, quarantine_folder=store.quarantine, clock=lambda: T0 * NS))

    return store.with_log(body)


def points(store: Store) -> int:
    """What the table of cluster rows holds."""
    return int(store.one(f"SELECT sum(points) AS n FROM catchment_data.{LANE}"))


def halt(store: Store) -> Position:
    """Two messages, the first of which was begun more blocks ago than tokens are remembered."""
    store.publish(LANE, *(envelope_bytes(LANE, [metric_row(points=n)]) for n in (3, 5)))

    async def log_id(log: SqliteLog) -> str:
        return log.log_id

    position = Position(store.with_log(log_id), TOPIC, 0, 0)
    store.ledger.intend(position, f"catchment_data.{LANE}", 2)
    store.ledger.count_blocks(f"catchment_data.{LANE}", 3)
    assert store.load(LANE) == 0
    return position


def refuse_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """A good message that the engine refused for what it is; returns its name."""
    store.publish(LANE, envelope_bytes(LANE, [metric_row(points=3)]))
    insert = store.engine.insert

    def refusing(table: str, columns: Any, *, token: str) -> None:
        if not token.startswith("quarantine/"):
            raise EngineError(53, "TYPE_MISMATCH", "refused")
        insert(table, columns, token=token)

    with monkeypatch.context() as patch:
        patch.setattr(store.engine, "insert", refusing)
        assert store.load(LANE) == 1
    (entry,) = store.ledger.quarantined()
    assert points(store) == 0
    return entry.position.token


@pytest.mark.parametrize(("how", "taken", "expected"), [("loaded", 1, 5), ("again", 2, 8)])
def test_a_halted_partition_goes_on_as_was_decided(store: Store, how: str, taken: int, expected: int) -> None:
    """As loaded steps over the message, again loads it; what follows it loads in both, and the decision is kept."""
    position = halt(store)
    decision = operate(store, lambda o: o.resume(TOPIC, 0, 0, how=how, **BY))
    assert store.load(LANE) == taken
    assert points(store) == expected
    assert store.ledger.open_intents() == []
    action = Action.RESUME_LOADED if how == "loaded" else Action.RESUME_AGAIN
    assert store.ledger.decisions() == [Decision(action, position, **BY, decided_ns=T0 * NS, number=decision.number)]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 the status is a snapshot for people, it has no event
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("how", "expected"), [("loaded", 5), ("again", 8)])
def test_a_loader_that_runs_goes_on_by_itself(
    store: Store, monkeypatch: pytest.MonkeyPatch, how: str, expected: int
) -> None:
    """No restart is needed: the halted partition looks at the ledger again, and is ready once it went on."""
    halt(store)
    monkeypatch.setattr("store.loader._BACKOFF_SECONDS", (0.01, 0.02))

    async def work(log: SqliteLog) -> None:
        loader, stop = store.loader(log, LANE), asyncio.Event()
        running = asyncio.create_task(loader.run(stop))
        await _until(lambda: bool(loader.status()) and loader.status()[0].state is State.HALTED)
        operations = Operations(log, store.ledger, quarantine_folder=store.quarantine, clock=lambda: T0 * NS)
        await operations.resume(TOPIC, 0, 0, how=how, **BY)
        await _until(lambda: loader.status()[0].position == 2 and loader.ready)
        stop.set()
        await running
        loader.close()

    store.with_log(lambda log: asyncio.wait_for(work(log), 30))
    assert points(store) == expected


def test_loading_again_what_the_engine_still_knows_adds_nothing(store: Store) -> None:
    """The token is the same, so that a mistaken `again` is caught for as long as the engine can."""
    position = halt(store)
    asked: list[str] = []
    insert = store.engine.insert

    def watched(table: str, columns: Any, *, token: str) -> None:
        asked.append(token)
        insert(table, columns, token=token)
        insert(table, columns, token=token)

    store.engine.insert = watched  # type: ignore[method-assign]
    operate(store, lambda o: o.resume(TOPIC, 0, 0, how="again", **BY))
    assert store.load(LANE) == 2
    assert asked[0] == position.token and points(store) == 8


def test_a_partition_goes_on_behind_what_its_log_has_lost(store: Store) -> None:
    """Only from the first message that is left, and only if something that was due is gone; the ledger keeps it."""
    store.publish(LANE, envelope_bytes(LANE, [metric_row(points=1)]))
    assert store.load(LANE) == 1
    store.publish(LANE, *(envelope_bytes(LANE, [metric_row(points=each)]) for each in (2, 4, 8)))

    async def lose(log: SqliteLog) -> None:
        await log.trim(TOPIC, 0, 2)

    store.with_log(lose)
    with pytest.raises(Corrupt, match="position 1 was deleted before it was read; the log holds 2 to 4"):
        store.load(LANE)
    for offset in (1, 3, 4):
        with pytest.raises(Invalid, match="not the first offset that the log holds"):
            operate(store, partial(Operations.resume, topic=TOPIC, partition=0, offset=offset, how="lost", **BY))
    decision = operate(store, lambda o: o.resume(TOPIC, 0, 2, how="lost", **BY))
    assert store.ledger.decisions() == [decision] and decision.action is Action.RESUME_LOST
    assert store.load(LANE) == 2
    assert points(store) == 1 + 4 + 8


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"offset": 1}, "not halted at that offset"),
        ({"topic": PREFIX + "totals"}, "not halted at that offset"),
        ({"how": "maybe"}, "neither 'loaded' nor 'again' nor 'lost'"),
        ({"how": "lost", "offset": 1}, "the log has lost nothing that is due"),
        ({"why": " "}, "say who decides and why"),
        ({"who": "x" * 1_001}, "say who decides and why"),
    ],
)
def test_nothing_is_resumed_that_is_not_halted_there(store: Store, change: dict[str, Any], reason: str) -> None:
    """Another offset or topic, an unknown way, or no reason: refused, and the partition stays as it is."""
    halt(store)
    arguments = {"topic": TOPIC, "partition": 0, "offset": 0, "how": "again", **BY, **change}
    with pytest.raises(Invalid, match=reason):
        operate(store, lambda o: o.resume(**arguments))
    assert len(store.ledger.open_intents()) == 1 and store.ledger.decisions() == []


def test_an_intent_that_the_loader_can_settle_is_not_for_people(store: Store) -> None:
    """While its token is remembered a replay decides, so that nobody may."""
    position = Position(store.with_log(_log_id), TOPIC, 0, 0)
    store.ledger.intend(position, f"catchment_data.{LANE}", 2)
    with pytest.raises(Invalid, match="not halted"):
        operate(store, lambda o: o.resume(TOPIC, 0, 0, how="loaded", **BY))


async def _log_id(log: SqliteLog) -> str:
    return log.log_id


def test_a_replayed_message_is_loaded_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back under a new offset, cannot be replayed or discarded again, and stays counted as a drop."""
    name = refuse_once(store, monkeypatch)
    operate(store, lambda o: o.replay(name, **BY))
    for again in (lambda o: o.replay(name, **BY), lambda o: o.discard(name, **BY)):
        with pytest.raises(Invalid, match="replay was decided by ann@host"):
            operate(store, again)
    assert store.load(LANE) == 1
    assert points(store) == 3
    assert store.one("SELECT sum(count) AS n FROM pipeline_drops WHERE unit = 'points'") == 3
    (decision,) = store.ledger.decisions()
    assert decision.finished and decision.position.token == name


def test_what_is_still_wrong_is_set_aside_under_its_new_name(store: Store) -> None:
    """Replaying what cannot be read gives another entry, and the first stays closed."""
    store.publish(LANE, b"garbage")
    store.load(LANE)
    (first,) = store.ledger.quarantined()
    operate(store, lambda o: o.replay(first.position.token, **BY))
    store.load(LANE)
    offsets = {entry.position.offset: entry for entry in store.ledger.quarantined()}
    assert sorted(offsets) == [0, 1] and (store.quarantine / offsets[1].file).read_bytes() == b"garbage"


@pytest.mark.parametrize("published", [True, False])
def test_a_replay_that_was_cut_off_is_finished_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    """Whether the crash was before or after the publish, asking again makes it one message in the log."""
    name = refuse_once(store, monkeypatch)

    async def cut_off(operations: Operations) -> None:
        writer_of = operations._log.writer

        async def breaking(source: Any) -> Any:
            writer = await writer_of(source)
            publish = writer.publish

            async def failing(messages: Any, consumed: int) -> None:
                if published:
                    await publish(messages, consumed)
                raise Retry("the connection broke")

            monkeypatch.setattr(writer, "publish", failing)
            return writer

        monkeypatch.setattr(operations._log, "writer", breaking)
        await operations.replay(name, **BY)

    with pytest.raises(Retry):
        operate(store, cut_off)
    assert not store.ledger.decisions()[0].finished
    assert operate(store, lambda o: o.replay(name, **BY)).position.token == name
    assert store.load(LANE) == 1 and points(store) == 3
    assert [decision.finished for decision in store.ledger.decisions()] == [True]


def test_what_cannot_be_published_stays_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message whose file is gone is refused without a trace, and replayed when the file is back."""
    name = refuse_once(store, monkeypatch)
    (file,) = store.quarantine.iterdir()
    file.rename(store.folder / "elsewhere")
    with pytest.raises(Invalid, match="its file is gone"):
        operate(store, lambda o: o.replay(name, **BY))
    assert store.ledger.decisions() == []
    (store.folder / "elsewhere").rename(file)
    operate(store, lambda o: o.replay(name, **BY))
    assert store.load(LANE) == 1 and points(store) == 3


def test_a_ledger_older_than_the_log_replays_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored copy of the ledger would take its next decision for one that was published: it is refused."""
    name = refuse_once(store, monkeypatch)

    async def ahead(log: SqliteLog) -> None:
        writer = await log.writer(Source(f"requeue-{store.ledger.ledger_id}"))
        await writer.publish([], consumed=7)

    store.with_log(ahead)
    with pytest.raises(Invalid, match="older than the log"):
        operate(store, lambda o: o.replay(name, **BY))
    assert store.ledger.decisions() == [] and store.load(LANE) == 0


@pytest.mark.parametrize("name", ["x", "a/b/c/d", "log/topic/0/0"])
def test_names_that_are_in_no_quarantine_are_refused(store: Store, name: str) -> None:
    """Neither a malformed name nor that of another message can be replayed or discarded."""
    for work in (lambda o: o.replay(name, **BY), lambda o: o.discard(name, **BY)):
        with pytest.raises(Invalid):
            operate(store, work)
    assert store.ledger.decisions() == []


def test_the_commands_list_show_replay_discard_and_resume(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command reaches the store's process, says what was done, and is refused with exit code 2 and a reason."""
    store.publish(LANE, b"garbage", b"rubbish")
    store.load(LANE)
    names = [entry.position.token for entry in store.ledger.quarantined()]
    said: list[tuple[int, str]] = []

    async def serve(log: SqliteLog) -> None:
        operations = Operations(log, store.ledger, quarantine_folder=store.quarantine, clock=lambda: T0 * NS)

        async def nothing() -> list[str]:
            return []

        async def metrics() -> bytes:
            return b""

        server = StatusServer(Probes(nothing, metrics, nothing, store_actions(operations)))
        address = await server.start("127.0.0.1", 0)
        url = ("--url", f"http://127.0.0.1:{address.port}")
        reason = ("--why", "a test", "--who", "ann")
        for arguments in (
            ("quarantine", "list"),
            ("quarantine", "show", names[0], "--output", str(tmp_path / "bytes")),
            ("quarantine", "replay", names[0], *reason),
            ("quarantine", "discard", names[1], *reason),
            ("quarantine", "discard", names[1], *reason),
            ("quarantine", "list", "--all", "--json"),
            ("resume", TOPIC, "0", "0", "--as", "again", *reason),
        ):
            code = await asyncio.to_thread(run, ["store", *arguments, *url])
            captured = capsys.readouterr()
            said.append((code, captured.out + captured.err))
        await server.stop()

    store.with_log(serve)
    listed, shown, replayed, discarded, refused, every, resumed = said
    assert listed[0] == 0 and all(name in listed[1] for name in names) and "2 open" in listed[1]
    assert json.loads(shown[1])["reason"].startswith("invalid_message")
    assert (tmp_path / "bytes").read_bytes() == b"garbage"
    assert replayed == (0, f"replayed {names[0]} (decision 1)\n")
    assert discarded == (0, f"discarded {names[1]} (decision 2)\n")
    assert refused[0] == 2 and "discard was decided by ann" in refused[1]
    assert [entry["decision"]["action"] for entry in json.loads(every[1])] == ["replay", "discard"]
    assert resumed[0] == 2 and "not halted at that offset" in resumed[1]
