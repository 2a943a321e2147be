"""What becomes of one message of the global log: skipped, loaded, replayed, quarantined, or waited at. Blocking.

Rules:

1. The ledger decides; the engine is asked only between an intent and its done.
2. Quarantine is file, then row of `pipeline_drops`, then ledger: each repeatable, the last one decides.
3. A message newer than this process is `Held`; one whose earlier insert has an unknown outcome is `Halted`. Neither is
   an error: the partition must not go on past it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from catchment.columns import LANES
from catchment.crash import crash_point
from catchment.envelope import Header, decode, decode_header, seal
from catchment.errors import CatchmentError, Invalid, Retry, TooNew
from catchment.files import sync_folder
from store.engine.port import Engine, EngineError
from store.ledger import Ledger, Verdict
from store.plan import Insert, plan
from store.position import Position

_DROPS_WINDOW_NS = 60 * 1_000_000_000


class Held(Exception):
    """Not an error: the message waits for an upgrade."""


class Halted(Exception):
    """Not an error: the message waits for a person (`store.operations`)."""


def prepare(value: bytes, token: str) -> Insert | Invalid | TooNew:
    """A message's insert, or why there is none: a pure function."""
    try:
        envelope = decode(value)
        return plan(envelope, LANES[envelope.header.lane], token)
    except (Invalid, TooNew) as error:
        return error


class Settler:
    """What is done with one prepared message: blocking, in a thread."""

    def __init__(self, engine: Engine, ledger: Ledger, folder: Path, clock: Callable[[], int]) -> None:
        self._engine, self._ledger, self._folder, self._clock = engine, ledger, folder, clock

    def settle(self, position: Position, value: bytes, prepared: Insert | CatchmentError) -> None:
        """Skip, load, replay or quarantine; returns when that is durable.

        Raises:
            Held, Halted: the partition stops here.
            Retry, EngineError: passing trouble; try the same message again.
        """
        crash_point("load.polled")
        verdict = self._ledger.judge(position)
        if verdict is Verdict.SKIP:
            return
        if verdict is Verdict.HALT:
            raise Halted(
                f"offset {position.offset} may or may not be loaded: it was begun more blocks ago than tokens are "
                "remembered. Compare its rows with control_totals, then `catchment store resume` it"
            )
        if isinstance(prepared, TooNew):
            raise Held(f"offset {position.offset}: {prepared}; upgrade the store")
        if isinstance(prepared, Invalid):
            self._quarantine(position, value, "invalid_message", str(prepared))
            return
        if not isinstance(prepared, Insert):
            raise prepared
        if verdict is Verdict.LOAD:
            self._ledger.intend(position, prepared.table, prepared.blocks)
            crash_point("load.intended")
        try:
            if prepared.rows:
                self._engine.insert(prepared.table, prepared.columns, token=prepared.token)
        except EngineError as error:
            if error.retryable:
                raise
            self._quarantine(position, value, "refused_by_engine", str(error))
            return
        crash_point("load.inserted")
        self._ledger.done(position, rows=prepared.rows, points=prepared.points)
        crash_point("load.done")

    def _quarantine(self, position: Position, value: bytes, reason: str, detail: str) -> None:
        """File, then row, then ledger: each repeatable, the last one decides."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{position.topic}-{position.partition}-{position.offset}") + ".message"
        try:
            _write_durably(self._folder / name, value)
        except OSError as error:
            raise Retry(f"cannot quarantine: {error}", file=str(self._folder / name)) from error
        crash_point("quarantine.filed")
        insert = drop_row(position, value, reason, self._clock())
        self._ledger.count_blocks(insert.table, insert.blocks)
        self._engine.insert(insert.table, insert.columns, token=insert.token)
        crash_point("quarantine.counted")
        self._ledger.quarantine(position, reason=f"{reason}: {detail}", file=name, now_ns=self._clock())


def drop_row(position: Position, value: bytes, reason: str, now_ns: int) -> Insert:
    """The rows of `pipeline_drops` for a quarantined message: itself, and its points where its header can be read."""
    header: Header | None
    try:
        header = decode_header(value)
    except (Invalid, TooNew):
        header = None
    lane = header.lane if header else position.topic.rpartition(".")[2]
    counts = {"messages": 1, **({"points": header.totals.points} if header and header.totals.points else {})}
    schema = LANES["drops"].schema
    rows = pa.Table.from_pylist(
        [
            {
                "window_start_ns": now_ns - now_ns % _DROPS_WINDOW_NS,
                "window_seconds": 60,
                "cluster": "",
                "tier": "store",
                "lane": lane,
                "reason": reason,
                "unit": unit,
                "count": count,
            }
            for unit, count in counts.items()
        ],
        schema=pa.schema([(field.name, _plain(field.type)) for field in schema]),
    ).cast(schema)
    tenant, region = (header.tenant, header.region) if header else ("", "")
    envelope = seal("drops", rows, tenant=tenant, region=region, producer=position.log_id, sequence=position.offset)
    return plan(envelope, LANES["drops"], f"quarantine/{position.token}")


def _plain(arrow_type: pa.DataType) -> pa.DataType:
    return arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type


def _write_durably(path: Path, value: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
