"""A log whose publishes are spans: how the tiers' work shows in traces without any tier knowing of tracing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catchment.log.port import Log, Membership, Message, OutMessage, Source, Writer
from catchment.tracing import Tracing


def traced(log: Log, tracing: Tracing) -> Log:
    """``log`` itself while tracing is off."""
    return TracedLog(log, tracing) if tracing.is_on else log


class TracedLog:
    """A `Log` that hands everything on."""

    def __init__(self, log: Log, tracing: Tracing) -> None:
        self._log = log
        self._tracing = tracing

    @property
    def log_id(self) -> str:
        """See `Log`."""
        return self._log.log_id

    async def create_topics(self, partitions: Mapping[str, int]) -> None:
        """See `Log`."""
        await self._log.create_topics(partitions)

    async def partitions(self, topic: str) -> int:
        """See `Log`."""
        return await self._log.partitions(topic)

    async def writer(self, source: Source) -> Writer:
        """See `Log`."""
        with self._tracing.span("log.writer", hop=source.hop, topic=source.topic, partition=source.partition):
            return TracedWriter(await self._log.writer(source), self._tracing)

    async def join(self, group: str, topics: Sequence[str]) -> Membership:
        """See `Log`."""
        return await self._log.join(group, topics)

    async def poll(
        self, topic: str, partition: int, position: int, *, messages_max: int, bytes_max: int, wait_seconds: float
    ) -> list[Message]:
        """See `Log`; not a span, since it mostly waits."""
        return await self._log.poll(
            topic, partition, position, messages_max=messages_max, bytes_max=bytes_max, wait_seconds=wait_seconds
        )

    async def end_offset(self, topic: str, partition: int) -> int:
        """See `Log`."""
        return await self._log.end_offset(topic, partition)

    async def close(self) -> None:
        """See `Log`."""
        await self._log.close()


class TracedWriter:
    """A `Writer` whose publishes are spans."""

    def __init__(self, writer: Writer, tracing: Tracing) -> None:
        self._writer = writer
        self._tracing = tracing

    @property
    def source(self) -> Source:
        """See `Writer`."""
        return self._writer.source

    async def committed(self) -> int | None:
        """See `Writer`."""
        return await self._writer.committed()

    async def publish(self, messages: Sequence[OutMessage], consumed: int) -> None:
        """See `Writer`."""
        source = self._writer.source
        size = sum(len(message.value) for message in messages)
        with self._tracing.span(
            "log.publish",
            hop=source.hop,
            topic=source.topic,
            partition=source.partition,
            messages=len(messages),
            bytes=size,
            consumed=consumed,
        ):
            await self._writer.publish(messages, consumed)

    async def close(self) -> None:
        """See `Writer`."""
        await self._writer.close()
