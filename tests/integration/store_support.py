"""What the tests of the store share: rows by hand, envelopes, and an open store in a temporary folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from catchment.columns import LANES
from catchment.envelope import encode, seal
from catchment.identity import canonical_attributes, series_id
from catchment.log.port import OutMessage, Source
from catchment.log.sqlite import SqliteLog
from store.engine.chdb import ChdbEngine
from store.ledger import Ledger
from store.loader import Loader, LoaderLimits
from store.migrate import migrate

# 2026-01-05 00:00:00 UTC, a Monday.
T0 = 1_767_571_200
NS = 1_000_000_000
PREFIX = "catchment.global."


def table_of(lane: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of a lane from dicts; columns that are left out are neutral."""
    schema = LANES[lane].schema
    complete = [{**_neutral(schema), **row} for row in rows]
    plain = pa.schema([(field.name, _plain(field.type)) for field in schema])
    return pa.Table.from_pylist(complete, schema=plain).cast(schema)


def _plain(arrow_type: pa.DataType) -> pa.DataType:
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def _neutral(schema: pa.Schema) -> dict[str, Any]:
    neutral: dict[str, Any] = {}
    for field in schema:
        kind = _plain(field.type)
        if field.nullable:
            neutral[field.name] = None
        elif pa.types.is_string(kind):
            neutral[field.name] = ""
        elif pa.types.is_map(kind):
            neutral[field.name] = []
        else:
            neutral[field.name] = 0
    neutral["window_seconds"] = 60
    return neutral


def metric_row(
    *,
    tenant: str = "acme",
    cluster: str | None = "c1",
    metric: str = "requests",
    kind: str = "counter",
    at: int = T0,
    attributes: dict[str, object] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """One row of a metrics lane; ``at`` is its window's start in unix seconds; ``cluster`` None is a region's row."""
    text = canonical_attributes(attributes or {})
    row = {
        "window_start_ns": at * NS,
        "service": "shop",
        "metric": metric,
        "kind": kind,
        "unit": "1",
        "attributes": text,
        "series_id": series_id(tenant, "shop", metric, kind, "1", text),
        "points": 1,
        "count": 1,
        **values,
    }
    return row if cluster is None else {**row, "cluster": cluster}


def envelope_bytes(lane: str, rows: Sequence[dict[str, Any]], *, tenant: str = "acme", region: str = "jp") -> bytes:
    """A sealed envelope of rows."""
    return encode(seal(lane, table_of(lane, rows), tenant=tenant, region=region, producer="test", sequence=1))


class Store:
    """A migrated store with a log of its own."""

    def __init__(self, folder: Path, *, deduplication_window: int = 1000) -> None:
        self.folder = folder
        self.engine = ChdbEngine(folder / "store")
        self.ledger = Ledger(folder / "store", deduplication_window=deduplication_window)
        migrate(self.engine, self.ledger, now_ns=T0 * NS)
        self._sent = 0

    @property
    def quarantine(self) -> Path:
        """Where what cannot be loaded goes."""
        return self.folder / "quarantine"

    def publish(self, lane: str, *values: bytes) -> None:
        """Append messages to the lane's global topic."""

        async def work(log: SqliteLog) -> None:
            writer = await log.writer(Source(f"test-{lane}"))
            position = (await writer.committed() or 0) + 1
            await writer.publish([OutMessage(PREFIX + lane, "k", value) for value in values], consumed=position)

        self.with_log(work)

    def load(self, *lanes: str) -> int:
        """Load what the topics hold (all lanes unless given); returns the number of messages taken."""

        async def work(log: SqliteLog) -> int:
            loader = self.loader(log, *lanes)
            try:
                return await loader.drain_once()
            finally:
                loader.close()

        taken: int = self.with_log(work)
        return taken

    def loader(self, log: SqliteLog, *lanes: str, limits: LoaderLimits | None = None) -> Loader:
        """A loader of the lanes' topics."""
        topics = [PREFIX + lane for lane in lanes or LANES]
        folder = self.quarantine
        return Loader(
            *(log, self.engine, self.ledger, topics), quarantine_folder=folder, limits=limits, clock=lambda: T0 * NS
        )

    def with_log(self, work: Callable[[SqliteLog], Any]) -> Any:
        """Run a coroutine with the store's log open."""

        async def run() -> Any:
            log = SqliteLog.open(self.folder / "log.db")
            try:
                await log.create_topics({PREFIX + lane: 1 for lane in LANES})
                return await work(log)
            finally:
                await log.close()

        return asyncio.run(run())

    def put(self, lane: str, rows: Sequence[dict[str, Any]], *, tenant: str = "acme", region: str = "jp") -> None:
        """Publish one message and load it."""
        self.publish(lane, envelope_bytes(lane, rows, tenant=tenant, region=region))
        self.load(lane)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """What a query answers, exact."""
        result = self.engine.query(
            sql,
            format="JSONEachRow",
            settings={
                "output_format_json_quote_64bit_integers": "0",
                "output_format_json_named_tuples_as_objects": "0",
            },
        )
        return [json.loads(line) for line in result.data.splitlines()]

    def one(self, sql: str) -> Any:
        """The only value of the only row."""
        (row,) = self.rows(sql)
        (value,) = row.values()
        return value

    def close(self) -> None:
        """Let go of the folder."""
        self.engine.close()
        self.ledger.close()


@contextmanager
def opened(folder: Path, *, deduplication_window: int = 1000) -> Iterator[Store]:
    """A store, closed afterwards: one process has one engine at a time."""
    store = Store(folder, deduplication_window=deduplication_window)
    try:
        yield store
    finally:
        store.close()
