"""A transactional producer of aiokafka whose every step has an end.

aiokafka repeats without limit while a broker is away, and its ``stop()`` waits for what it repeats: here each step has
a time, and what does not stop by itself is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, UnknownError
from aiokafka.producer import sender
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from catchment.crash import crash_point
from catchment.log.kafka_patience import Patience, patient
from catchment.log.kafka_settings import KafkaSettings

_BATCH_BYTES_MAX = 1 << 20

# How long aiokafka waits before it asks again whether the markers of the last transaction are written, which takes a
# broker a millisecond or two. Its own 20 ms are half of a publish of 1 MB (benchmarks/kafka_cost.py).
sender.BACKOFF_OVERRIDE = 0.002


class _EndTransaction(sender.EndTxnHandler):  # type: ignore[misc]  # aiokafka has no types
    """Asks again where the broker answers with an error that it does not name.

    A broker says so to a commit that arrives while it fences the producer: "transition to PREPARE_COMMIT while it
    already a pending state PREPARE_EPOCH_FENCE" in its log. Nothing has happened to the transaction then, and the next
    answer names the outcome: fenced, or committed. Asking twice is safe: the epoch is the same, a commit that has
    happened is confirmed, and an abort by anybody else raises the epoch.
    """

    def handle_response(self, resp: Any) -> float | None:
        """Seconds to wait before asking again; None at the end."""
        if resp.error_code == UnknownError.errno:
            return float(self._default_backoff)
        seconds: float | None = super().handle_response(resp)
        return seconds


sender.EndTxnHandler = _EndTransaction


@dataclass(frozen=True)
class Record:
    """A message with its place."""

    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]

    @property
    def size(self) -> int:
        """Its bytes in a batch of its own before compression, which is what aiokafka holds against its limit."""
        return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(self.key, self.value, list(self.headers)))


class Producer:
    """One producer, with the transactional id of one source; make it with `start`."""

    def __init__(self, settings: KafkaSettings, raw: Any) -> None:
        self._settings = settings
        self._raw = raw
        self._is_stopped = False

    @classmethod
    async def start(cls, settings: KafkaSettings, arguments: dict[str, Any], name: str, patience: Patience) -> Producer:
        """Become the one producer of that name: its predecessor is fenced, and its transaction has ended, one way or
        the other.

        Raises:
            KafkaError, TimeoutError: no broker answers, or it does not come to an end.
        """
        raw = AIOKafkaProducer(
            **arguments,
            client_id="catchment",
            transactional_id=name,
            transaction_timeout_ms=int(settings.transaction_seconds * 1_000),
            compression_type="zstd",
            max_batch_size=_BATCH_BYTES_MAX,
            max_request_size=settings.message_bytes_max,
        )
        patient(raw.client, patience)
        producer = cls(settings, raw)
        try:
            async with asyncio.timeout(settings.start_seconds):
                await raw.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def transact(
        self, records: Sequence[Record], group: str, place: tuple[str, int], position: int
    ) -> dict[tuple[str, int], int]:
        """All records and the position in one transaction; returns, per partition, the offset behind its last record.

        Raises:
            KafkaError, TimeoutError, AssertionError: whether it happened is unknown, and this producer is spoilt.
        """
        await self._raw.begin_transaction()
        self._hush()
        ends: dict[tuple[str, int], int] = {}
        offsets = {TopicPartition(*place): OffsetAndMetadata(position, "")}
        # The position travels beside the messages: its two round trips cost nothing while these are written.
        moving = asyncio.ensure_future(self._raw.send_offsets_to_transaction(offsets, group))
        moving.add_done_callback(_seen)
        try:
            for chunk in _chunks(records, self._settings.message_bytes_max):
                for written in await self._send(chunk):
                    ends[written.topic, written.partition] = written.offset + 1
            await moving
        except IllegalOperation as error:
            # Only the next step is told that the transaction is over; why, was told to what was under way.
            raise self._failure() from error
        finally:
            moving.cancel()
        crash_point("log.appended")
        await self._raw.commit_transaction()
        crash_point("log.committed")
        return ends

    async def _send(self, records: Sequence[Record]) -> list[Any]:
        """Send and see each arrive: a commit succeeds although a send that nobody waited for has failed."""
        futures: list[asyncio.Future[Any]] = []
        try:
            for record in records:
                headers = list(record.headers)
                sending = self._raw.send(record.topic, record.value, record.key, record.partition, headers=headers)
                futures.append(await sending)
            if futures:
                await asyncio.wait(futures)
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.add_done_callback(_seen)

    def reason(self, error: BaseException) -> BaseException:
        """What is behind an error of a transaction: where aiokafka meets what it does not expect (no leave to read the
        topic of the position), it says just that, in a copy without its cause.
        """
        first = self._raw._message_accumulator._exception
        cause = getattr(first, "__cause__", None)
        return cause if type(error) is KafkaError and cause is not None else error

    async def abort(self) -> None:
        """End an open transaction now instead of by its timeout, which readers would wait for. Never raises."""
        try:
            with suppress(KafkaError, OSError, TimeoutError, AssertionError):
                async with asyncio.timeout(self._settings.stop_seconds):
                    await self._raw.abort_transaction()
        finally:
            self._hush()  # a future of its own, which a fenced writer's sender leaves with an error

    async def stop(self) -> None:
        """Let go of it; takes ``stop_seconds`` or a little more, and never raises."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._hush()
        for task in self._tasks():
            task.add_done_callback(_seen)
        stopping = asyncio.ensure_future(self._raw.stop())
        stopping.add_done_callback(_seen)
        await asyncio.wait([stopping], timeout=self._settings.stop_seconds)
        leftovers = {task for task in (*self._tasks(), stopping) if not task.done()}
        for task in leftovers:
            task.add_done_callback(_seen)
            task.cancel()
        if leftovers:
            await asyncio.wait(leftovers, timeout=self._settings.stop_seconds)
        with suppress(KafkaError, OSError, TimeoutError, RuntimeError):
            async with asyncio.timeout(self._settings.stop_seconds):
                await self._raw.client.close()
        # Fenced while it stopped, aiokafka has made a new future for an error that nobody waits for any more.
        self._hush()

    def _tasks(self) -> set[asyncio.Task[Any]]:
        """What runs for it, but for the caller."""
        current = asyncio.current_task()
        return {task for task in asyncio.all_tasks() if task is not current and _belongs(task, self._raw)}

    def _failure(self) -> BaseException:
        """What ended the transaction."""
        waiter = self._raw._txn_manager._transaction_waiter
        is_told = waiter is not None and waiter.done() and not waiter.cancelled()
        failure: BaseException | None = waiter.exception() if is_told else None
        return failure or KafkaError("the transaction is over")

    def _hush(self) -> None:
        """aiokafka gives one error to several futures, and asyncio complains of those that nobody looked at."""
        transactions, accumulator = self._raw._txn_manager, self._raw._message_accumulator
        offsets = [future for _, _, future in transactions._pending_txn_offsets]
        batches = [*accumulator._pending_batches, *(one for some in accumulator._batches.values() for one in some)]
        drains = [batch._drain_waiter for batch in batches]
        for future in (transactions._transaction_waiter, *offsets, *drains):
            if future is not None:
                future.add_done_callback(_seen)


def _chunks(records: Sequence[Record], bytes_max: int) -> Iterable[Sequence[Record]]:
    """Runs of records that fit one request: brokers refuse requests above ``socket.request.max.bytes``."""
    begin, size = 0, 0
    for index, record in enumerate(records):
        if index > begin and size + record.size > bytes_max:
            yield records[begin:index]
            begin, size = index, 0
        size += record.size
    if begin < len(records):
        yield records[begin:]


def _belongs(task: asyncio.Task[Any], raw: Any) -> bool:
    # aiokafka keeps no list of its tasks; each is a method of a part of the producer.
    frame = getattr(task.get_coro(), "cr_frame", None)
    owner = frame.f_locals.get("self") if frame is not None else None
    if owner is None:
        return False
    sender, accumulator = raw._sender, raw._message_accumulator
    return any(owner is part for part in (raw, sender, accumulator, raw.client)) or (
        getattr(owner, "_sender", None) is sender
    )


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
