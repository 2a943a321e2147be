"""A whole collector whose clock is a number, and a log that can be away: hours of outage in seconds of test.

Only the sockets are left out: requests go to the intake, from there on all is as in production, files and fsyncs too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from catchment.config import Cluster, Config
from catchment.errors import Retry
from catchment.limits import Limits
from catchment.log.port import Log, Membership, Message, OutMessage, Source, Writer
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from collectors.collector import Collector
from collectors.records import Outcome
from tests.edge_harness import received
from tests.otlp import ns

REGION, PREFIX = "jp-east", "catchment"


class AwayLog:
    """A log in front of another: while ``is_away`` nothing answers.

    ``takes_one``: the next publish is taken all the same, and its answer lost. ``published``: messages and bytes of
    each publish.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.is_away = False
        self.takes_one = False
        self.published: list[tuple[int, int]] = []

    def check(self) -> None:
        """Raise where nothing answers."""
        if self.is_away:
            raise Retry("nobody answers")

    @property
    def log_id(self) -> str:
        """See the port; so are the others."""
        return self._log.log_id

    async def create_topics(self, partitions: Mapping[str, int]) -> None:
        """."""
        self.check()
        await self._log.create_topics(partitions)

    async def partitions(self, topic: str) -> int:
        """."""
        self.check()
        return await self._log.partitions(topic)

    async def writer(self, source: Source) -> Writer:
        """."""
        self.check()
        return _AwayWriter(self, await self._log.writer(source))

    async def join(self, group: str, topics: Sequence[str]) -> Membership:
        """."""
        self.check()
        return await self._log.join(group, topics)

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """."""
        self.check()
        return await self._log.poll(
            topic, partition, position, messages_max=messages_max, bytes_max=bytes_max, wait_seconds=wait_seconds
        )

    async def end_offset(self, topic: str, partition: int) -> int:
        """."""
        self.check()
        return await self._log.end_offset(topic, partition)

    async def close(self) -> None:
        """."""
        await self._log.close()


class _AwayWriter:
    def __init__(self, log: AwayLog, writer: Writer) -> None:
        self._log, self._writer = log, writer

    @property
    def source(self) -> Source:
        return self._writer.source

    async def committed(self) -> int | None:
        self._log.check()
        return await self._writer.committed()

    async def publish(self, messages: Sequence[OutMessage], consumed: int) -> None:
        if self._log.takes_one:
            self._log.takes_one, self._log.is_away = False, True
            await self._writer.publish(messages, consumed)
        self._log.check()
        await self._writer.publish(messages, consumed)
        self._log.published.append((len(messages), sum(len(message.value) for message in messages)))

    async def close(self) -> None:
        await self._writer.close()


class OutageCollector:
    """A running collector; times are seconds after `tests.otlp.T0_NS`.

    Use `running`. ``now`` is its clock.
    """

    def __init__(self, folder: Path, log: AwayLog, limits: Limits) -> None:
        self.now = 0.0
        self.log = log
        config = Config(data_dir=folder, region=REGION, cluster=Cluster(name="tokyo-1"), limits=limits)
        self.collector = Collector(config.for_collector(), log, Telemetry(), Tracing("collector"), lambda: ns(self.now))
        self.ladder = self.collector._ladder
        self.state = self.collector._state

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, folder: Path, log: AwayLog, limits: Limits) -> AsyncIterator[OutageCollector]:
        """One whose intake works."""
        one = cls(folder, log, limits)
        intake = asyncio.create_task(one.collector._intake.run())
        try:
            yield one
        finally:
            one.collector._intake.close()
            await intake
            one.collector.close()

    async def submit(self, body: bytes) -> Outcome:
        """One request through the intake; raises what a sender is told."""
        return await self.collector._intake.submit(received(body, self.now, "acme", "tokyo-1"))

    async def flush(self) -> None:
        """As the clock of the collector does each minute."""
        await self.collector.flushing.once()

    async def forward(self) -> None:
        """Forward until the outbox is empty or the log does not take more: what a forwarder tries again and again."""
        stop = asyncio.Event()
        stop.set()
        await self.collector._forwarder.run(stop)

    def reason(self) -> str:
        """What ``/readyz`` gives as reasons not to be ready."""
        return "; ".join(self.collector.flushing.troubles())

    def stalled(self) -> str:
        """What ``/healthz`` says of what does not flow on."""
        return "; ".join(self.collector.stalled())
