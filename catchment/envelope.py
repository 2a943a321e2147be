"""The envelope: how rows of one lane, one tenant and one region cross a tier.

Bytes: one Arrow IPC stream (zstd buffers) whose schema metadata carries the header, then 8 bytes: XXH3-64 of all
bytes before them, little-endian. Readers of plain Arrow stop at the end-of-stream mark and do not see the trailer.

Rules, pinned by golden files in ``tests/golden``:

1. A reader takes every version ever released. One newer than its own is `TooNew`: held, never dead-lettered.
2. A failed check (checksum, row count, control totals, schema) is `Invalid` with the failing check as its reason.
3. The header's control totals are those of its rows: ``points`` is Σ points where the lane has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from catchment.columns import LANES
from catchment.errors import Invalid, TooNew
from catchment.reach import Reach

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
_TRAILER_BYTES = 8
_HEADER_KEY = b"catchment"
_TOTALS_TYPES = {"points": int, "rows": int, "digest": int}
# Header fields that came after the first release, with what an envelope without them means.
_LATER_FIELDS = {"reach": Reach.GLOBAL.value}
_REACHES = frozenset(reach.value for reach in Reach)
_HEADER_TYPES = {
    **dict.fromkeys(("lane", "tenant", "region", "producer", "policy_version", "reach"), str),
    **dict.fromkeys(("version", "sequence", "window_start_ns_min", "window_end_ns_max"), int),
}


@dataclass(frozen=True)
class ControlTotals:
    """What must add up: data points, rows, and Σ of the points' 64-bit hashes mod 2^64 (0 where the lane has none)."""

    points: int = 0
    rows: int = 0
    digest: int = 0

    def __add__(self, other: ControlTotals) -> ControlTotals:
        return ControlTotals(self.points + other.points, self.rows + other.rows, (self.digest + other.digest) % 2**64)


@dataclass(frozen=True)
class Header:
    """What an envelope says of itself.

    ``producer`` is the random id of the writing folder or log, ``sequence`` its position there, so that
    (producer, sequence, lane, tenant) names an envelope for ever. ``reach`` (a value of `Reach`) says how far cluster
    rows go; an envelope without it is of a writer that knew no other than ``global``. ``policy_version`` is that of the
    policies that its rows were made under; rows that an aggregator has merged may be of several, with commas between.
    """

    lane: str
    version: int
    tenant: str
    region: str
    producer: str
    sequence: int
    policy_version: str = ""
    window_start_ns_min: int = 0
    window_end_ns_max: int = 0
    totals: ControlTotals = field(default_factory=ControlTotals)
    reach: str = Reach.GLOBAL.value


@dataclass(frozen=True)
class Envelope:
    """A header and its rows (``LANES[header.lane].schema``)."""

    header: Header
    rows: pa.Table


def seal(
    lane: str,
    rows: pa.Table,
    *,
    tenant: str,
    region: str,
    producer: str,
    sequence: int,
    policy_version: str = "",
    digest: int = 0,
    reach: Reach = Reach.GLOBAL,
) -> Envelope:
    """Make the envelope of ``rows``, computing window range and control totals from them."""
    spec = LANES[lane]
    start_min = start_end = 0
    if rows.num_rows:
        starts = rows["window_start_ns"]
        start_min = pc.min(starts).as_py()
        ends = pc.add(starts, pc.multiply(pc.cast(rows["window_seconds"], pa.int64()), pa.scalar(1_000_000_000)))
        start_end = pc.max(ends).as_py()
    header = Header(
        lane=lane,
        version=spec.version,
        tenant=tenant,
        region=region,
        producer=producer,
        sequence=sequence,
        policy_version=policy_version,
        window_start_ns_min=start_min,
        window_end_ns_max=start_end,
        totals=ControlTotals(_points(rows), rows.num_rows, digest),
        reach=reach.value,
    )
    return Envelope(header, rows)


def encode(envelope: Envelope) -> bytes:
    """The envelope as bytes."""
    header = json.dumps(asdict(envelope.header), separators=(",", ":"), sort_keys=True).encode()
    rows = envelope.rows.unify_dictionaries().combine_chunks()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.ipc.new_stream(sink, rows.schema.with_metadata({_HEADER_KEY: header}), options=options) as writer:
        writer.write_table(rows)
    body = memoryview(sink.getvalue())
    return b"".join((body, xxhash.xxh3_64_digest(body)[::-1]))


def decode_header(data: bytes) -> Header:
    """Read the header only, with its checksum and version checked.

    Raises:
        Invalid: the bytes are no envelope.
        TooNew: a newer version than this process reads.
    """
    with _open(data) as reader:
        return _header(reader)


def decode(data: bytes) -> Envelope:
    """Read and check an envelope.

    Raises:
        Invalid: a check failed; the reason names it.
        TooNew: a newer version than this process reads.
    """
    with _open(data) as reader:
        header = _header(reader)
        try:
            rows = reader.read_all().replace_schema_metadata(None)
            # Full: whatever a damaged writer sealed, no index or offset in it may lead outside its buffers.
            rows.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Invalid(
                f"rows cannot be read: {error}", producer=header.producer, sequence=header.sequence
            ) from error
    _check(header, rows)
    return Envelope(header, rows)


def _open(data: bytes) -> pa.ipc.RecordBatchStreamReader:
    # The checksum comes before all else, so that a flipped bit in the header can pose neither as a newer version, which
    # would be held for ever, nor as lengths that Arrow would trust. The trailer is therefore part of every version.
    body = memoryview(data)[:-_TRAILER_BYTES]
    if xxhash.xxh3_64_digest(body)[::-1] != data[-_TRAILER_BYTES:]:
        raise Invalid("not an envelope: checksum differs")
    try:
        # One message is one small batch: threads cost more than they win, and partitions run side by side anyway.
        return pa.ipc.open_stream(pa.py_buffer(body), options=pa.ipc.IpcReadOptions(use_threads=False))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Invalid(f"not an envelope: {error}") from error


def _header(reader: pa.ipc.RecordBatchStreamReader) -> Header:
    try:
        metadata = reader.schema.metadata or {}
        fields = json.loads(metadata[_HEADER_KEY])
        # A newer writer may add header fields: the version decides whether that matters, not their presence.
        known = {name: {**_LATER_FIELDS, **fields}[name] for name in Header.__dataclass_fields__}
        header = Header(**known)
        header = replace(header, totals=ControlTotals(**{name: fields["totals"][name] for name in _TOTALS_TYPES}))
        _check_types(header, _HEADER_TYPES)
        _check_types(header.totals, _TOTALS_TYPES)
    except (KeyError, TypeError, ValueError) as error:
        raise Invalid(f"not an envelope: {error!r}") from error
    spec = LANES.get(header.lane)
    if spec is None:
        raise TooNew(f"unknown lane {header.lane!r}: written by a newer version?", lane=header.lane)
    if header.version > spec.version:
        raise TooNew(f"version {header.version} of lane {header.lane}; this process reads up to {spec.version}")
    if header.reach not in _REACHES:
        raise TooNew(f"unknown reach {header.reach!r}: written by a newer version?", lane=header.lane)
    return header


def _check_types(fields: Header | ControlTotals, types: Mapping[str, type]) -> None:
    for name, expected in types.items():
        if type(getattr(fields, name)) is not expected:
            raise TypeError(f"{name} is no {expected.__name__}")


def _check(header: Header, rows: pa.Table) -> None:
    where = {"producer": header.producer, "sequence": header.sequence, "lane": header.lane}
    expected = LANES[header.lane].schema
    if not rows.schema.equals(expected):
        raise Invalid(f"schema differs from version {header.version}", **where)
    for column, values in zip(LANES[header.lane].columns, rows.itercolumns(), strict=True):
        if not column.nullable and values.null_count:
            raise Invalid(f"null in column {column.name}", **where)
    if rows.num_rows != header.totals.rows:
        raise Invalid(f"{rows.num_rows} rows where the header says {header.totals.rows}", **where)
    points = _points(rows)
    if points != header.totals.points:
        raise Invalid(f"{points} points where the header says {header.totals.points}", **where)


def _points(rows: pa.Table) -> int:
    if "points" not in rows.column_names or not rows.num_rows:
        return 0
    return sum(int(chunk.to_numpy().sum()) for chunk in rows["points"].chunks) % 2**64
