"""A death between any two steps of each hop, and a restart: all is there exactly once."""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.columns import global_topic
from catchment.crash import CRASH_POINTS
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLimits, SqliteLog
from tests.faults.known_data import KnownData, of_sender
from tests.faults.stack import ROLES, Stack, wait_until
from tests.faults.totals import differences, disagreements, stored

_ROOT = Path(__file__).resolve().parents[2]
_TIERS = ("catchment", "collectors", "aggregators", "store")
# The first part of a point's name → the roles that pass it.
_ROLES_OF = {
    "intake": ("collector",),
    "inbox": ("collector",),
    "flush": ("collector",),
    "policies": ("collector",),
    "limits": ("collector",),
    "coarsen": ("collector",),
    "forward": ("collector",),
    "log": ROLES,
    "rollup": ("aggregator",),
    "load": ("store",),
    "quarantine": ("store",),
    "migrate": ("store",),
}


def _cases(*hops: str) -> list[tuple[str, str]]:
    points = [name for name in CRASH_POINTS if name.partition(".")[0] in hops]
    return [(name, role) for name in points for role in _ROLES_OF[name.partition(".")[0]]]


class _Kept:
    """One running stack for all tests of this module; a test that failed leaves the next one a new one."""

    def __init__(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self._factory = tmp_path_factory
        self._stack: Stack | None = None
        self.is_good = False

    def stack(self) -> Stack:
        """A stack where every role runs."""
        if self._stack is None or not self.is_good:
            self.end()
            self._stack = Stack(self._factory.mktemp("stack"))
            self._stack.start(*ROLES)
            self._stack.wait_ready(*ROLES)
        self.is_good = False
        return self._stack

    def end(self) -> None:
        """Kill what runs."""
        if self._stack is not None:
            self._stack.end()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Kept]:
    """What outlives a test."""
    kept = _Kept(tmp_path_factory)
    yield kept
    kept.end()


@pytest.fixture
def stack(kept: _Kept) -> Stack:
    """A stack where every role runs."""
    return kept.stack()


@pytest.fixture
def sender(stack: Stack, request: pytest.FixtureRequest) -> KnownData:
    """A sender of this test alone."""
    return KnownData(request.node.name, stack.ports["otlp_http"])


def dies(stack: Stack, role: str, point: str) -> None:
    """Wait for a role's death, and see that it was at this point."""
    code = stack.wait_for_death(role)
    last = stack.said(role).strip().rpartition("\n")[2]
    assert (code, last) == (-signal.SIGKILL, f"crash point {point}"), f"{code}\n{stack.said(role)}"


def all_is_there(stack: Stack, sender: KnownData) -> None:
    """Drain, and compare every sum and digest."""
    stack.wait_ready("store")
    stack.drain()
    found = of_sender(sender, stored(stack, "metrics_cluster_1m"))
    faults = [*differences(sender.expected, found), *disagreements(stack)]
    assert faults == [], "\n".join(faults)


@pytest.mark.parametrize(("point", "role"), _cases("intake", "inbox"))
def test_a_death_while_a_request_is_taken_in(
    stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str
) -> None:
    """The collector dies between request and answer or soon after; the sender sends again what was not answered."""
    stack.kill(role)
    stack.start(role, crash_at=point, flush="1h")
    stack.wait_ready(role)
    # An answer that was on its way may still arrive, but nobody is there for the next request.
    for _ in range(10):
        body = sender.request()
        if sender.offer(body) != 200:
            break
    dies(stack, role, point)
    stack.start(role)
    sender.send(body)
    all_is_there(stack, sender)
    kept.is_good = True


@pytest.mark.parametrize(
    ("point", "role"), [*_cases("flush", "forward"), *(case for case in _cases("log") if case[1] == "collector")]
)
def test_a_death_on_the_way_out_of_the_collector(
    stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str
) -> None:
    """The collector dies while it flushes what its inbox holds, or while it forwards that."""
    stack.kill(role)
    stack.start(role, flush="1h")
    sender.send()
    stack.kill(role)
    # The inbox is full, the outbox is empty: the first flush, and what is forwarded first, are of this request.
    stack.start(role, crash_at=point)
    dies(stack, role, point)
    stack.start(role)
    sender.send()
    all_is_there(stack, sender)
    kept.is_good = True


@pytest.mark.parametrize(("point", "role"), _cases("policies"))
def test_a_death_while_policies_change(stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str) -> None:
    """The collector dies between the flush under the old policies and the first request under the new ones."""
    stack.kill(role)
    policies = stack.folder / "policies.yaml"
    policies.write_text("version: before\n")
    stack.start(role, crash_at=point, flush="1h", policies=str(policies))
    stack.wait_ready(role)
    sender.send()
    policies.write_text("version: after\ndefault_drop: []\n")
    dies(stack, role, point)
    stack.start(role)
    sender.send()
    all_is_there(stack, sender)
    kept.is_good = True


@pytest.mark.parametrize(("point", "role"), _cases("limits"))
def test_a_death_while_limits_change(stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str) -> None:
    """What was acknowledged is not refused by limits that each of its points is beyond, wherever the change ends."""
    stack.kill(role)
    stack.start(role, flush="1h")
    stack.wait_ready(role)
    sender.send()
    stack.kill(role)
    stack.start(role, crash_at=point, limits="{attribute_count_max: 1}")
    dies(stack, role, point)
    stack.start(role)
    sender.send()
    all_is_there(stack, sender)
    kept.is_good = True


@pytest.mark.parametrize(("point", "role"), _cases("coarsen"))
def test_a_death_while_waiting_envelopes_are_merged(
    stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str
) -> None:
    """The log is locked, the outbox grows and is merged; the collector dies at it, and nothing counts twice."""
    stack.kill(role)
    stack.start(role, crash_at=point, limits="{outbox_merge_bytes: 0KiB, retry_after_seconds: 1}")
    # With what waits from before it may die as soon as it starts.
    wait_until(lambda: stack.has_ended(role) or not stack.reasons(role), f"{role} is ready, or dead")
    log = sqlite3.connect(stack.data / "log" / "log.db", isolation_level=None, timeout=30)
    log.execute("BEGIN IMMEDIATE")
    try:
        # It may die before the last one, which is sent again then.
        for _ in range(4):
            body = sender.request()
            if sender.offer(body) != 200:
                break
        dies(stack, role, point)
    finally:
        log.close()
    stack.start(role)
    sender.send(body)
    all_is_there(stack, sender)
    kept.is_good = True


@pytest.mark.parametrize(
    ("point", "role"), [case for case in _cases("rollup", "load", "log") if case[1] != "collector"]
)
def test_a_death_between_log_and_tables(stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str) -> None:
    """Aggregator and store die while they work on any of the lanes, which they read side by side."""
    stack.kill(role)
    for nth in (1, 3):
        sender.send()
        stack.drain(to=role)
        # Heartbeats go on, so there is always an n-th pass.
        stack.start(role, crash_at=f"{point}:{nth}")
        dies(stack, role, point)
    stack.start(role)
    all_is_there(stack, sender)
    kept.is_good = True


@pytest.mark.parametrize(("point", "role"), _cases("quarantine"))
def test_a_death_while_a_message_is_set_aside(
    stack: Stack, sender: KnownData, kept: _Kept, point: str, role: str
) -> None:
    """A message that cannot be loaded is counted as dropped once, and does not hurt those behind it."""
    counting = "SELECT sum(d.count) AS dropped FROM pipeline_drops AS d WHERE unit = 'messages' AND tier = 'store'"
    (before,) = stack.rows(counting)
    stack.kill(role)
    asyncio.run(_publish_garbage(stack))
    sender.send()
    stack.start(role, crash_at=point)
    dies(stack, role, point)
    stack.start(role)
    all_is_there(stack, sender)
    (after,) = stack.rows(counting)
    assert after["dropped"] - before["dropped"] == 1
    kept.is_good = True


async def _publish_garbage(stack: Stack) -> None:
    log = SqliteLog.open(stack.data / "log" / "log.db", SqliteLimits(busy_seconds=60))
    writer = await log.writer(Source("test-garbage"))
    message = OutMessage(global_topic("catchment", "metrics_cluster"), "k", b"no envelope")
    await writer.publish([message], consumed=(await writer.committed() or 0) + 1)
    await log.close()


def test_a_death_in_a_migration(tmp_path: Path) -> None:
    """The store dies at several statements of its first migration; the next start completes it."""
    (point, role), *_ = _cases("migrate")
    with Stack(tmp_path) as stack:
        stack.start("collector")
        stack.wait_ready("collector")
        sender = KnownData("migrated", stack.ports["otlp_http"])
        sender.send()
        for nth in (1, 12, 19, 3):
            stack.start(role, crash_at=f"{point}:{nth}")
            dies(stack, role, point)
        stack.start("aggregator", "store")
        stack.wait_ready("store")
        stack.drain()
        found = stored(stack, "metrics_cluster_1m")
        assert [*differences(sender.expected, found), *disagreements(stack)] == []


def test_every_crash_point_is_listed_and_stands_somewhere() -> None:
    """The list that the tests go through names exactly the points in the code."""
    texts = [path.read_text("utf-8") for tier in _TIERS for path in (_ROOT / tier).rglob("*.py")]
    placed = {name for text in texts for name in re.findall(r'crash_point\("([^"]+)"\)', text)}
    assert placed == set(CRASH_POINTS)
    assert {name.partition(".")[0] for name in CRASH_POINTS} == set(_ROLES_OF)
