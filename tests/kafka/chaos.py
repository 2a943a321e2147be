"""A fleet on a real Kafka, and what happens to it.

Two regions: jp-east has a collector and two aggregators that share its partitions, jp-west a collector and one
aggregator; one store loads both. Each process has a folder of its own, so that the log is all they share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sqlite3
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aggregators.dead_letters import open_letters
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSettings
from demo.ports import free_ports
from tests.faults.edge_folder import EdgeFolder
from tests.faults.senders import Sender
from tests.faults.stack import Stack
from tests.integration.end_to_end import write_tenants
from tests.kafka.broker import Broker

PARTITIONS = 2
# Short, so that a pause may be longer than either: then the session is over, or the transaction too, and whoever comes
# back does not know.
SESSION_SECONDS = 2.0
TRANSACTION_SECONDS = 4.0
PAUSE_SECONDS = (1.2 * SESSION_SECONDS, 1.3 * TRANSACTION_SECONDS)

_MURMUR = re.compile(r'"logger": "asyncio", "message": "(?:Future|Task) exception was never retrieved')

# For whatever has to happen; a busy machine takes its time.
WAIT_SECONDS = 120.0

COLLECTORS = {"collector": "jp-east", "collector-2": "jp-west"}
AGGREGATORS = {"aggregator": "jp-east", "aggregator-2": "jp-east", "aggregator-3": "jp-west"}
STORE = "store"
_COMMANDS = {**dict.fromkeys(COLLECTORS, "collector"), **dict.fromkeys(AGGREGATORS, "aggregator"), STORE: "loader"}
ROLES = tuple(_COMMANDS)


@dataclass(frozen=True)
class Place:
    """Whose a service is, which collector it sends to, and how."""

    tenant: str
    cluster: str
    collector: str
    style: str

    @property
    def region(self) -> str:
        """Its collector's."""
        return COLLECTORS[self.collector]


# The keys of each region, and those of the tenants in it, fall on all partitions.
PLACES = {
    "cart": Place("acme", "tokyo-1", "collector", "http"),
    "search": Place("zen", "tokyo-2", "collector", "http-delta"),
    "orders": Place("beta", "tokyo-2", "collector", "grpc"),
    "stock": Place("acme", "osaka-1", "collector-2", "http-plain"),
    "prices": Place("beta", "osaka-3", "collector-2", "grpc-delta"),
}


class Fleet(Stack):
    """The processes. Start them before `senders` send."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.prefix = f"chaos-{uuid.uuid4().hex[:12]}"
        self._brokers = (broker.plain,)
        tenants = folder / "tenants.json"
        settings = (
            f"kafka: {{brokers: ['{broker.plain}'], replication_factor: 1, session_timeout: {SESSION_SECONDS:g}s, "
            f"transaction_timeout: {TRANSACTION_SECONDS:g}s}}\n"
            f"log: {{topic_prefix: {self.prefix}, partitions: {PARTITIONS}}}\ntenants: {tenants}\n"
        )
        super().__init__(folder, settings, _COMMANDS)
        write_tenants(tenants, {_token(service): (place.tenant, place.cluster) for service, place in PLACES.items()})
        self.edges = [EdgeFolder(self._data_of(role) / "collector") for role in COLLECTORS]
        http, rpc = free_ports(2)
        self._doors = {"collector": self.ports, "collector-2": {**self.ports, "otlp_http": http, "otlp_grpc": rpc}}

    def config(self, role: str, **changes: str) -> Path:
        """As in a `Stack`, with fewer and larger messages: two regions with three partitions make many."""
        region = COLLECTORS.get(role) or AGGREGATORS.get(role) or "jp-east"
        own = {"data_dir": str(self._data_of(role)), "region": region, "cluster": f"{{name: own-{region}}}"}
        return super().config(role, **{**own, "flush": "2s", "aggregator": "{linger: 500ms}", **changes})

    def addresses(self, role: str) -> list[tuple[str, int]]:
        """A role's addresses as (key below ``listen``, port)."""
        return [*self._doors.get(role, self.ports).items(), ("status", self._status[role])]

    def senders(self) -> list[Sender]:
        """The applications of `PLACES`."""
        return [
            Sender(service, place.style, self._doors[place.collector], _token(service))
            for service, place in PLACES.items()
        ]

    def lag(self, role: str) -> int:
        """Messages that a role knows it has not read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._status[role]}/metrics", timeout=60) as answer:
            found = re.findall(r"^catchment_lag_messages\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found, f"{role} tells no lag"
        return sum(int(float(lag)) for lag in found)

    def complaints(self) -> list[str]:
        """What should be in no log: errors, tracebacks, what asyncio and the interpreter say of forgotten things."""
        pattern = re.compile(r"Traceback|never retrieved|never awaited|was destroyed|\"level\": \"(error|critical)\"")
        return [
            f"{role} said: {line[:500]}"
            for role in ROLES
            for line in self.output(role).read_text("utf-8", "replace").splitlines()
            if pattern.search(line) and not _MURMUR.search(line)
        ]

    def murmurs(self) -> int:
        """Errors of aiokafka in futures that nobody has: an untidy log, which is counted and is no difference."""
        return sum(len(_MURMUR.findall(self.output(role).read_text("utf-8", "replace"))) for role in ROLES)

    def takeovers(self) -> int:
        """How often a role came to publish and was fenced."""
        return sum(self.output(role).read_text("utf-8", "replace").count("taken over: ") for role in ROLES)

    def set_aside(self) -> list[str]:
        """Dead letters of the regions, messages in the store's quarantine, inserts that are open; nothing may run."""

        async def letters() -> list[str]:
            log = await KafkaLog.open(KafkaSettings(self._brokers, self.prefix), may_create=False)
            try:
                found = [await open_letters(log, self.prefix, region) for region in COLLECTORS.values()]
            finally:
                await log.close()
            return [f"dead letter {letter}" for some in found for letter in some]

        with contextlib.closing(sqlite3.connect(self._data_of(STORE) / "store" / "ledger.db")) as ledger:
            rows = [
                f"{table} {row}"
                for table in ("quarantine", "intents", "decisions")
                for row in ledger.execute(f"SELECT * FROM {table}")
            ]
        return [*asyncio.run(letters()), *rows]

    def _data_of(self, role: str) -> Path:
        return self.folder / "data" / role


def _token(service: str) -> str:
    return f"token of {service}"


# What happens in this many rounds, in an order by chance: so a short run has seen everything.
DECK = ("kill",) * 5 + ("kill twice",) * 3 + ("pause",) * 2 + ("rebalance", "broker")


class Chaos:
    """Does things to a fleet, as its seed says, and counts them."""

    def __init__(self, fleet: Fleet, broker: Broker, seed: int) -> None:
        self._fleet = fleet
        self._broker = broker
        self._chance = random.Random(seed)
        self._deck: list[str] = []
        self.last = "nothing"
        self.kills: Counter[str] = Counter()
        self.others: Counter[str] = Counter()

    def round(self) -> None:
        """Let one thing happen, mostly to a fleet that works, sometimes to one that still recovers."""
        if not self._deck:
            self._deck = self._chance.sample(DECK, len(DECK))
        self.last = self._deck.pop()
        if self._chance.random() < 0.6:
            self._fleet.wait_ready(*ROLES, seconds=WAIT_SECONDS)
        self._sleep(0.0, 0.4)
        {
            "kill": lambda: self._kill(range(1, len(ROLES) + 1)),
            "kill twice": self._kill_twice,
            "pause": self._pause,
            "rebalance": self._rebalance,
            "broker": self._disturb_broker,
        }[self.last]()

    def _kill(self, counts: Sequence[int], among: Sequence[str] = ROLES) -> None:
        self._end(self._chance.sample(among, self._chance.choice(counts)))

    def _end(self, roles: Sequence[str]) -> None:
        self._fleet.kill(*roles)
        self._fleet.start(*roles)
        self.kills.update(roles)

    def _kill_twice(self) -> None:
        """The second time while they start, and take up what the first has left."""
        roles = self._chance.sample(ROLES, self._chance.choice((1, 2, 3)))
        self._end(roles)
        self._sleep(0.0, 2.5)
        self._end(roles)

    def _pause(self) -> None:
        """Past the session: who comes back has been taken over, and does not know. Others die meanwhile."""
        roles = self._chance.choice((*ROLES, *AGGREGATORS, "both"))
        paused = ("aggregator", "aggregator-2") if roles == "both" else (roles,)
        seconds = self._chance.uniform(*PAUSE_SECONDS)
        with self._fleet.paused(*paused):
            time.sleep(seconds / 2)
            self._kill((0, 1, 2, 3), [role for role in ROLES if role not in paused])
            time.sleep(seconds / 2)
        self.others.update(f"pause {role}" for role in paused)

    def _rebalance(self) -> None:
        """Two that leave in peace, and come again; another one dies meanwhile."""
        leaving = self._chance.sample(ROLES, 2)
        self._fleet.wait_ready(*leaving, seconds=WAIT_SECONDS)
        self._kill((0, 1, 1), [role for role in ROLES if role not in leaving])
        self._fleet.stop(*leaving)
        self._sleep(0.0, 0.5)
        self._fleet.start(*leaving)
        self.others.update(f"stop {role}" for role in leaving)

    def _disturb_broker(self) -> None:
        """It dies, or stands still for longer than sessions and requests last, and others die with it."""
        if self._chance.random() < 0.3:
            os.kill(self._broker.pid, signal.SIGSTOP)
            try:
                time.sleep(self._chance.uniform(*PAUSE_SECONDS))
                self._kill((0, 1, 2))
            finally:
                os.kill(self._broker.pid, signal.SIGCONT)
            self.others["pause broker"] += 1
            return
        self._broker.kill()
        try:
            self._kill((0, 0, 1, 2, 3))
            self._sleep(0.0, 1.0)
        finally:
            self._broker.start()
        self.kills["broker"] += 1

    def _sleep(self, at_least: float, at_most: float) -> None:
        time.sleep(self._chance.uniform(at_least, at_most))
