"""Envelopes of a small fleet, and what is in the global topics, for tests of the aggregator."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from catchment.columns import GLOBAL_LANES, LANES, global_topic, regional_topic
from catchment.envelope import Envelope, decode, encode, seal
from catchment.identity import series_id
from catchment.log.port import Log, Message, OutMessage, Source
from tests.contract import log_contract
from tests.property.lane_rows import Row, to_table

REGION = "jp-east"
PREFIX = "catchment"
WINDOW_NS = 1_763_900_040_000_000_000


def counter_row(cluster: str, metric: str, value: int, tenant: str = "default", points: int = 1) -> Row:
    """One row of a counter."""
    row: Row = {column.name: None if column.nullable else 0 for column in LANES["metrics_cluster"].columns}
    text = {"cluster": cluster, "service": "shop", "metric": metric, "kind": "counter", "unit": "1", "attributes": "{}"}
    identity = series_id(tenant, "shop", metric, "counter", "1", "{}")
    numbers = {"window_start_ns": WINDOW_NS, "window_seconds": 60, "points": points, "count": points, "sum_int": value}
    return {**row, **text, **numbers, "series_id": identity, "histogram": {1: points}}


def totals_row(cluster: str, points: int, rows: int, digest: int) -> Row:
    """One row of control totals."""
    keys = {"window_start_ns": WINDOW_NS, "window_seconds": 60, "cluster": cluster, "lane": "metrics_cluster"}
    return {**keys, "points": points, "rows": rows, "digest": digest}


def envelope(lane: str, rows: list[Row], *, tenant: str = "default", sequence: int = 1, digest: int = 0) -> Envelope:
    """An envelope of these rows."""
    table = to_table(rows, LANES[lane].columns)
    return seal(lane, table, tenant=tenant, region=REGION, producer="folder", sequence=sequence, digest=digest)


def message(sealed: Envelope, partition: int | None = None) -> OutMessage:
    """What a forwarder publishes."""
    header = sealed.header
    topic = regional_topic(PREFIX, REGION, header.lane)
    return OutMessage(topic, f"{header.tenant}/cluster-0", encode(sealed), {"lane": header.lane}, partition)


async def send(log: Log, messages: Iterable[OutMessage], consumed: int) -> None:
    """Publish as a forwarder does."""
    writer = await log.writer(Source("forward-test"))
    await writer.publish(list(messages), consumed)
    await writer.close()


async def read_all(log: Log, topic: str) -> list[Message]:
    """All messages of a topic."""
    partitions = range(await log.partitions(topic))
    return [message for partition in partitions for message in await log_contract.read_all(log, topic, partition)]


async def global_tables(log: Log) -> dict[str, pa.Table]:
    """The rows of every global topic, not merged."""
    tables = {}
    for lane in GLOBAL_LANES:
        rows = [decode(m.value).rows for m in await read_all(log, global_topic(PREFIX, lane))]
        tables[lane] = pa.concat_tables(rows) if rows else LANES[lane].schema.empty_table()
    return tables


def sums(table: pa.Table, by: str, value: str) -> Counter[Any]:
    """Σ value per key, in Python's integers."""
    found: Counter[Any] = Counter()
    for key, number in zip(table[by].to_pylist(), table[value].to_pylist(), strict=True):
        found[key] += int(number)
    return found


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for what a status says."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 the status is a snapshot for people, it has no event
            await asyncio.sleep(0.01)
