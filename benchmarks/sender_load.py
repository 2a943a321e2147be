"""Many small senders: each has a connection of its own, half of them OTLP/gRPC and half OTLP/HTTP with keep-alive.

A sender has a few counters. It sends their values every few seconds, and the same request again until it is answered
with success, as an SDK does; so whatever happens to the collector, the sum of all counters' last values is what has to
arrive. Nothing of a client library but the transport is used: a thousand SDKs would measure themselves.
"""

from __future__ import annotations

import abc
import asyncio
import random
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, NumberDataPoint

COUNTERS = 20
EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
# What an SDK waits for an answer.
ANSWER_SECONDS_MAX = 10.0
_PAUSE_SECONDS_MAX = 2.0


@dataclass(frozen=True)
class Target:
    """Where senders send to. ``ca``: PEM of the authority, for TLS; ``tokens``: of each sender, if any."""

    grpc_port: int
    http_port: int
    ca: Path | None = None
    tokens: Sequence[str] = ()


@dataclass
class Log:
    """What came of the requests since it was made: seconds of each answered one, and attempts in vain by reason."""

    answered_seconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)


class Sender(abc.ABC):
    """One sender.

    ``total``: the sum of its counters' values in the last request that was answered. ``answers``: when answers with
    success came, by the monotonic clock.
    """

    def __init__(self, number: int, start_ns: int) -> None:
        self.total = 0
        self.answers: list[float] = []
        self._values = 0
        self._request = ExportMetricsServiceRequest()
        resource = self._request.resource_metrics.add()
        for key, value in (("service.name", "load"), ("service.instance.id", f"sender-{number}")):
            resource.resource.attributes.add(key=key).value.string_value = value
        self._points: list[NumberDataPoint] = []
        for counter in range(COUNTERS):
            metric = resource.scope_metrics.add().metrics.add(name=f"load.counter_{counter}", unit="1")
            metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
            metric.sum.is_monotonic = True
            self._points.append(metric.sum.data_points.add(start_time_unix_nano=start_ns))

    async def send(self, log: Log) -> None:
        """Count on, and send until it is answered."""
        self._values += random.randrange(1, 100)
        now_ns = time.time_ns()
        for offset, point in enumerate(self._points):
            point.as_int, point.time_unix_nano = self._values + offset, now_ns
        body: bytes = self._request.SerializeToString()
        while True:
            begin = time.monotonic()
            try:
                failure = await asyncio.wait_for(self._attempt(body), ANSWER_SECONDS_MAX)
            except TimeoutError:
                failure = "no answer in time"
            if not failure:
                break
            log.failed[failure] += 1
            await self.close()
            await asyncio.sleep(random.uniform(0.5, 1) * _PAUSE_SECONDS_MAX)
        self.answers.append(time.monotonic())
        log.answered_seconds.append(self.answers[-1] - begin)
        self.total = sum(point.as_int for point in self._points)

    @abc.abstractmethod
    async def _attempt(self, body: bytes) -> str:
        """Send once; returns why it was in vain, or an empty text."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go of the connection; the next attempt makes another."""


class HttpSender(Sender):
    """One of OTLP/HTTP, on one connection."""

    def __init__(self, number: int, start_ns: int, target: Target, context: ssl.SSLContext | None) -> None:
        super().__init__(number, start_ns)
        token = f"authorization: Bearer {target.tokens[number]}\r\n" if target.tokens else ""
        self._head = f"POST /v1/metrics HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n{token}"
        self._port, self._context = target.http_port, context
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def _attempt(self, body: bytes) -> str:
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._context)
            reader, writer = self._streams
            writer.write(f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            said = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            return f"HTTP: {type(error).__name__}"
        status = int(head.split(b" ", 2)[1])
        return "" if status == 200 and not said else f"HTTP: {status}"

    async def close(self) -> None:
        """Hang up."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()


class GrpcSender(Sender):
    """One of OTLP/gRPC, on a channel that shares its connection with nobody."""

    def __init__(self, number: int, start_ns: int, target: Target, credentials: grpc.ChannelCredentials | None) -> None:
        super().__init__(number, start_ns)
        self._metadata = (("authorization", f"Bearer {target.tokens[number]}"),) if target.tokens else ()
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 1_000),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        )
        address = f"127.0.0.1:{target.grpc_port}"
        self._channel = (
            grpc.aio.insecure_channel(address, options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options)
        )
        self._export = self._channel.unary_unary(EXPORT)

    async def _attempt(self, body: bytes) -> str:
        try:
            said = await self._export(body, metadata=self._metadata, timeout=ANSWER_SECONDS_MAX)
        except grpc.aio.AioRpcError as error:
            # The collector's own refusals come with details; without it is the transport.
            refused = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
            return f"gRPC: {error.code().name}{', refused' if refused else ''}"
        return "gRPC: partial success" if said else ""

    async def close(self) -> None:
        """A channel connects again by itself."""

    async def end(self) -> None:
        """Close the channel."""
        await self._channel.close()


class Senders:
    """All of them.

    Args:
        count: half of them of each protocol.
        start_ns: since when they count.
    """

    def __init__(self, count: int, target: Target, start_ns: int) -> None:
        context = credentials = None
        if target.ca is not None:
            context = ssl.create_default_context(cafile=str(target.ca))
            credentials = grpc.ssl_channel_credentials(target.ca.read_bytes())
        self._all: list[Sender] = [
            GrpcSender(number, start_ns, target, credentials)
            if number % 2
            else HttpSender(number, start_ns, target, context)
            for number in range(count)
        ]

    @property
    def total(self) -> int:
        """The sum of all counters as they were last answered."""
        return sum(sender.total for sender in self._all)

    def all_answered_since(self, begin: float) -> float:
        """When the last of them had its first answer after ``begin``, by the monotonic clock."""
        return max(min(answer for answer in sender.answers if answer > begin) for sender in self._all)

    async def at_once(self) -> Log:
        """Each sends once, all at the same moment."""
        log = Log()
        await asyncio.gather(*(sender.send(log) for sender in self._all))
        return log

    async def steadily(self, seconds: float, period_seconds: float) -> Log:
        """Each sends every ``period_seconds``, at a phase of its own."""
        log, end = Log(), time.monotonic() + seconds

        async def work(sender: Sender) -> None:
            due = time.monotonic() + random.uniform(0, period_seconds)
            while due < end:
                await asyncio.sleep(due - time.monotonic())
                await sender.send(log)
                # What was late because of retries is not made up for.
                due = max(due + period_seconds, time.monotonic())

        await asyncio.gather(*(work(sender) for sender in self._all))
        return log

    async def close(self) -> None:
        """Close all connections."""
        for sender in self._all:
            await sender.close()
            if isinstance(sender, GrpcSender):
                await sender.end()
