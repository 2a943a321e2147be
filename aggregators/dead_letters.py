"""Dead letters: messages that cannot be read, kept with their coordinates until a person replays or discards them.

Rules:

1. A dead letter is the message as it was (key, value, headers), in partition 0 of the region's dead-letter topic, with
   headers ``dead-letter-*`` that say where it was and why. It is published in the same publish as the position that
   passes it, and counted as a drop there.
2. Its number is its offset. What became of it is a *tombstone* in the same partition: an empty message whose header
   ``dead-letter-resolves`` is that number. A letter without a tombstone is open.
3. Replay is ONE publish: the message back to its topic and partition, and the tombstone. The writer's fence is taken
   before the tombstones are read, so that of two operators one is fenced, and a letter is replayed at most once.
4. The position of ``Source("dead-letters-<region>", topic, 0)`` is the first open letter: what lies before it may be
   trimmed by the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from catchment.columns import LANES, dead_letter_topic
from catchment.envelope import Envelope, seal
from catchment.errors import Invalid
from catchment.log.port import Log, Message, OutMessage, Source, Writer
from catchment.windows import NANOSECONDS

PARTITION = 0
_HEADER = "dead-letter-"
_RESOLVES = f"{_HEADER}resolves"
_BATCH_MESSAGES = 100
_BATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class DeadLetter:
    """One message that could not be read. ``number`` names it in its region's dead-letter topic."""

    number: int
    topic: str
    partition: int
    offset: int
    log_id: str
    reason: str
    time_ns: int
    key: str
    value: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)


def bury(message: Message, error: Invalid, *, log_id: str, topic: str, now_ns: int) -> OutMessage:
    """The dead letter of ``message``, for the dead-letter topic ``topic``."""
    coordinates = {
        "topic": message.topic,
        "partition": str(message.partition),
        "offset": str(message.offset),
        "log-id": log_id,
        "reason": str(error),
        "time-ns": str(now_ns),
        # The sender's own headers as one, so that none of them can pose as ours.
        "headers": json.dumps(dict(message.headers), sort_keys=True),
    }
    headers = {f"{_HEADER}{name}": value for name, value in coordinates.items()}
    return OutMessage(topic, message.key, message.value, headers, PARTITION)


def dropped(
    message: Message, *, lane: str, region: str, producer: str, now_ns: int, window_seconds: int = 60
) -> Envelope:
    """The drops row (tier ``aggregator``, reason ``undecodable``, unit ``messages``) of a dead letter.

    Tenant and cluster are those of the message's key ``<tenant>/<cluster>``; how many rows it held is unknown.
    """
    tenant, _, cluster = message.key.partition("/")
    width_ns = window_seconds * NANOSECONDS
    row = {
        "window_start_ns": now_ns - now_ns % width_ns,
        "window_seconds": window_seconds,
        "cluster": cluster,
        "tier": "aggregator",
        "lane": lane,
        "reason": "undecodable",
        "unit": "messages",
        "count": 1,
    }
    schema = LANES["drops"].schema
    # pyarrow makes no dictionary arrays from plain values: text first, then the schema's types.
    plain = pa.table({name: [value] for name, value in row.items()})
    rows = plain.cast(schema)
    return seal("drops", rows, tenant=tenant, region=region, producer=producer, sequence=message.offset)


async def open_letters(log: Log, prefix: str, region: str) -> list[DeadLetter]:
    """The dead letters of a region that were neither replayed nor discarded, oldest first."""
    letters, _ = await _read(log, dead_letter_topic(prefix, region))
    return letters


async def find(log: Log, prefix: str, region: str, number: int) -> DeadLetter:
    """One open dead letter; `Invalid` if there is none of that number."""
    return _pick(await open_letters(log, prefix, region), number)


async def replay(log: Log, prefix: str, region: str, number: int) -> DeadLetter:
    """Put an open dead letter back where it came from, exactly once.

    Raises:
        Invalid: there is no open letter of that number, or its topic is gone.
        Fenced: another operator acts on the same region; nothing changed.
        Retry: the outcome is unknown; list the letters again.
    """
    return await _resolve(log, prefix, region, number, "replayed")


async def discard(log: Log, prefix: str, region: str, number: int) -> DeadLetter:
    """Close an open dead letter for good; raises as `replay` does."""
    return await _resolve(log, prefix, region, number, "discarded")


async def _resolve(log: Log, prefix: str, region: str, number: int, action: str) -> DeadLetter:
    topic = dead_letter_topic(prefix, region)
    writer = await log.writer(Source(f"dead-letters-{region}", topic, PARTITION))
    try:
        letters, end = await _read(log, topic)
        letter = _pick(letters, number)
        still_open = [other.number for other in letters if other.number != number]
        tombstone = OutMessage(topic, letter.key, b"", {_RESOLVES: str(number), f"{_HEADER}action": action}, PARTITION)
        messages = [tombstone]
        if action == "replayed":
            messages.append(OutMessage(letter.topic, letter.key, letter.value, letter.headers, letter.partition))
        await _publish(writer, messages, min(still_open, default=end))
        return letter
    finally:
        await writer.close()


async def _publish(writer: Writer, messages: list[OutMessage], first_open: int) -> None:
    await writer.publish(messages, max(first_open, await writer.committed() or 0))


def _pick(letters: list[DeadLetter], number: int) -> DeadLetter:
    for letter in letters:
        if letter.number == number:
            return letter
    raise Invalid("no open dead letter of that number", number=number)


async def _read(log: Log, topic: str) -> tuple[list[DeadLetter], int]:
    """The open letters, and the end that was read to."""
    letters: dict[int, DeadLetter] = {}
    position, end = 0, await log.end_offset(topic, PARTITION)
    while position < end:
        batch = await log.poll(
            topic, PARTITION, position, messages_max=_BATCH_MESSAGES, bytes_max=_BATCH_BYTES, wait_seconds=0.5
        )
        if not batch:
            break
        for message in batch:
            if _RESOLVES in message.headers:
                letters.pop(int(message.headers[_RESOLVES]), None)
            else:
                letters[message.offset] = _letter(message)
        position = batch[-1].offset + 1
    return list(letters.values()), max(position, end)


def _letter(message: Message) -> DeadLetter:
    headers = {name.removeprefix(_HEADER): value for name, value in message.headers.items()}
    return DeadLetter(
        number=message.offset,
        topic=headers["topic"],
        partition=int(headers["partition"]),
        offset=int(headers["offset"]),
        log_id=headers["log-id"],
        reason=headers["reason"],
        time_ns=int(headers["time-ns"]),
        key=message.key,
        value=message.value,
        headers=json.loads(headers["headers"]),
    )
