"""Watching the demo while it runs: what was acknowledged, what can be queried, how late that is, and bytes per hop.

Nothing here is in the path of the data. Bytes are read from the log itself, as any consumer would, since counters of a
process start anew with it and one process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from catchment.cli.open_log import open_log
from catchment.columns import EDGE_LANES, GLOBAL_LANES, global_topic, regional_topic
from catchment.config import Config
from catchment.errors import CatchmentError
from catchment.log.port import Log
from catchment.query import Querier
from demo import questions
from demo.accounts import Totals
from demo.log_choice import LogChoice
from demo.simulator import Simulator

_LOOK_SECONDS: Final = 1.0
_MESSAGES: Final = 1_000
_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Look:
    """How things stand at one moment."""

    fleet: Totals
    stored: int
    behind_seconds: float
    regional_bytes: int
    global_bytes: int


@dataclass
class Traffic:
    """Bytes of messages by lane, and how many: what left the zones, and what left the regions for the globe."""

    regional: Counter[str] = field(default_factory=Counter)
    globe: Counter[str] = field(default_factory=Counter)
    regional_messages: Counter[str] = field(default_factory=Counter)
    globe_messages: Counter[str] = field(default_factory=Counter)


class LogTail:
    """Reads all topics of the log once, as they grow, and adds up the sizes of their messages."""

    def __init__(self, choice: LogChoice, regions: Sequence[str]) -> None:
        traffic = self.traffic = Traffic()
        self._log: Log = open_log(Config(log=choice.log, kafka=choice.kafka), must_exist=True)
        prefix = choice.log.topic_prefix
        self._topics = [
            *(
                (regional_topic(prefix, region, lane), lane, traffic.regional, traffic.regional_messages)
                for region in regions
                for lane in EDGE_LANES
            ),
            *((global_topic(prefix, lane), lane, traffic.globe, traffic.globe_messages) for lane in GLOBAL_LANES),
        ]
        self._positions = dict.fromkeys((topic for topic, *_ in self._topics), 0)

    async def read(self) -> None:
        """Read what is new in every topic; the demo's topics have one partition. May be cancelled, and called again."""
        for topic, lane, sizes, counts in self._topics:
            while messages := await self._log.poll(
                topic, 0, self._positions[topic], messages_max=_MESSAGES, bytes_max=_BYTES, wait_seconds=0
            ):
                sizes[lane] += sum(len(message.value) for message in messages)
                counts[lane] += len(messages)
                self._positions[topic] = messages[-1].offset + 1

    async def close(self) -> None:
        """Let go of the log."""
        await self._log.close()


class Watch:
    """Looks about once a second; ``delays_seconds`` are the freshness at every look that saw more in SQL.

    While ``is_log_away`` every look counts, since nothing new comes and what there is grows older.
    """

    def __init__(self, simulator: Simulator, querier: Querier, tail: LogTail) -> None:
        self._simulator = simulator
        self._querier = querier
        self._tail = tail
        self._times: list[float] = []
        self._acknowledged: list[int] = []
        self._stored = 0
        self.delays_seconds: list[float] = []
        self.is_log_away = False
        self.look = Look(simulator.accounts().fleet(), 0, 0.0, 0, 0)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(_LOOK_SECONDS)

    async def once(self) -> None:
        """Look once."""
        fleet = self._simulator.accounts().fleet()
        asked = time.monotonic()
        self._times.append(asked)
        self._acknowledged.append(fleet.points)
        try:
            stored = await asyncio.to_thread(questions.stored_points, self._querier)
        except CatchmentError:
            return  # busy just now; the next look sees it
        # A log whose broker is away keeps one waiting, and what SQL has must be looked at meanwhile.
        with contextlib.suppress(CatchmentError, TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._tail.read()
        behind = behind_seconds(self._times, self._acknowledged, now=asked, stored=stored)
        if stored > self._stored or self.is_log_away:
            self.delays_seconds.append(behind)
        self._stored = stored
        traffic = self._tail.traffic
        self.look = Look(fleet, stored, behind, traffic.regional.total(), traffic.globe.total())


def behind_seconds(times: Sequence[float], counts: Sequence[int], *, now: float, stored: int) -> float:
    """How long ago only as much was acknowledged as can be queried now.

    Args:
        times, counts: the looks so far: when, and how much was acknowledged; both ascend.
        now: in the clock of ``times``.
        stored: what can be queried.
    """
    place = bisect_right(counts, stored)
    if place == len(counts):
        return 0.0
    if place == 0:
        return now - times[0]
    share = (stored - counts[place - 1]) / (counts[place] - counts[place - 1])
    return now - (times[place - 1] + share * (times[place] - times[place - 1]))
