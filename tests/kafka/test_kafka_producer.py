"""What aiokafka leaves behind when a producer is let go of; needs no broker."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced, UnknownError
from aiokafka.producer import sender

from catchment.log.kafka_producer import Producer
from catchment.log.kafka_settings import KafkaSettings


class _Raw:
    """Of aiokafka's producer what `Producer.stop` touches: it is told that it was fenced while it stops."""

    def __init__(self) -> None:
        self._txn_manager: Any = SimpleNamespace(_transaction_waiter=None, _pending_txn_offsets=[])
        self._message_accumulator = SimpleNamespace(_pending_batches=[], _batches={})
        self._sender = object()
        self.client = SimpleNamespace(close=self._close)

    async def stop(self) -> None:
        """As ``TransactionManager.fatal_error`` does after an error before it: a new future, for nobody."""
        self._txn_manager._transaction_waiter = asyncio.get_running_loop().create_future()
        self._txn_manager._transaction_waiter.set_exception(ProducerFenced())

    async def _close(self) -> None:
        """Nothing is connected."""


def test_a_producer_that_is_fenced_while_it_stops_is_no_error() -> None:
    """asyncio does not complain of an exception that nobody looked at: whoever is fenced has been told by publish."""
    complaints: list[dict[str, Any]] = []

    async def start_and_stop() -> None:
        await Producer(KafkaSettings(("127.0.0.1:9",)), _Raw()).stop()

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        await start_and_stop()
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(body())
    assert complaints == []


def test_a_commit_whose_outcome_the_broker_does_not_name_is_asked_again() -> None:
    """The commit that meets its own fencing gets an unnamed error first; the next answer says that it was fenced."""
    producer = SimpleNamespace(_retry_backoff=0.1, _txn_manager=SimpleNamespace())
    handler = sender.EndTxnHandler(producer, True)
    assert handler.handle_response(SimpleNamespace(error_code=UnknownError.errno)) == 0.1
    with pytest.raises(ProducerFenced):
        handler.handle_response(SimpleNamespace(error_code=InvalidProducerEpoch.errno))
