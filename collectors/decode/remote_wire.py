"""Prometheus remote write protobuf → flat columns, many requests at once, never a loop over samples.

``ptars`` parses with the trimmed messages of ``remote_write.proto``; series are told apart by a hash of their labels,
which stay raw until one was never seen before (`RawSeries`). What a sample is to its metric is not said here: with 1.0
it depends on metadata that other requests brought (`collectors.remote_write`). Pure: bytes in, columns out, or
`Invalid`.

Sources: https://prometheus.io/docs/specs/prw/remote_write_spec/ and remote_write_spec_2_0/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa
from google.protobuf.message import DecodeError

from catchment.errors import Invalid
from catchment.identity import mix
from collectors.decode import remote_write_pb2 as trimmed
from collectors.decode.messages import parsed
from collectors.decode.plain_series import plain_series
from collectors.decode.raw import hashes_of, joined_fields, lengths_of
from collectors.decode.views import children, nothing, values_of

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

REMOTE_WRITE_1 = "application/x-protobuf;proto=prometheus.WriteRequest"
REMOTE_WRITE_2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
"""Content types, in full: a replay must know what a body is."""

_MESSAGE: Any = trimmed
_POOL = ptars.HandlerPool([trimmed.DESCRIPTOR])
# Times are milliseconds; what lies beyond is refused by its time.
_MS_MAX = 9 * 10**12
_MS = 10**6
# More names and values than any limit allows: such a series is refused without a look at them.
_REFS_MAX = 1024
# A factor for each place of a reference; odd, so that none loses bits of what it multiplies.
_PLACES: Final = mix(np.arange(_REFS_MAX, dtype=np.uint64), np.zeros(_REFS_MAX, np.uint64)) | np.uint64(1)
# A label takes memory, too, if less than a sample.
_LABELS_PER_POINT = 32


def _handler(name: str) -> Any:
    return _POOL.get_for_message(trimmed.DESCRIPTOR.message_types_by_name[name])


_PLAIN_1: Final = _handler("PlainWriteRequest")
_SERIES_1: Final = _handler("TimeSeries")
_VERSION_2: Final = _handler("Request")
_SHALLOW_1: Final = _handler("ShallowWriteRequest")
_SHALLOW_2: Final = _handler("ShallowRequest")
_NATIVE: Final = _handler("NativeHistogram")


@dataclass(frozen=True, slots=True)
class RawSeries:
    """A series as it came: its labels as a serialised ``TimeSeries``, and its declared type and unit.

    ``type`` is None where the request says nothing of types.
    """

    labels: bytes
    type: int | None = None
    unit: bytes = b""


class Malformed(Exception):
    """Labels that cannot be read."""


@dataclass(frozen=True)
class WriteExemplars:
    """Exemplars, one row each: row of its series, time (UTC), value, and ids as lower-case hex, "" for none."""

    series: Int32s
    time_ns: Int64s
    value: Float64s
    trace_ids: Sequence[str]
    span_ids: Sequence[str]

    def take(self, rows: npt.NDArray[np.intp]) -> WriteExemplars:
        """Some rows."""
        ids = rows.tolist()
        return WriteExemplars(
            self.series[rows],
            self.time_ns[rows],
            self.value[rows],
            [self.trace_ids[row] for row in ids],
            [self.span_ids[row] for row in ids],
        )


NO_EXEMPLARS: Final = WriteExemplars(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0), (), ())


@dataclass(frozen=True)
class WriteRequests:
    """All that some payloads hold.

    Columns of series:
        request: which of the payloads
        keys: raw identity, a hash of the labels and of all that is declared with them; good within this process

    Columns of samples:
        series: row of its series
        time_ns, start_ns: UTC; a start of 0 is none
        value: as it came, stale markers among them

    ``natives`` are native histograms, parsed, and ``native_series`` the series of each; ``metadata`` are (request,
    type, family).
    """

    requests: int
    request: Int32s
    keys: UInt64s
    raw: Callable[[int], RawSeries]
    series: Int32s
    time_ns: Int64s
    start_ns: Int64s
    value: Float64s
    natives: pa.StructArray | None
    native_series: Int32s
    exemplars: WriteExemplars
    metadata: Sequence[tuple[int, int, bytes]]


def decode_1(payloads: Sequence[bytes]) -> WriteRequests:
    """Flatten ``prometheus.WriteRequest`` messages.

    Raises:
        Invalid: at least one payload is none. Which one is for the caller to find, one at a time.
    """
    batch = _parsed(_PLAIN_1, payloads)
    request, rows = children(batch.column("timeseries"))
    of_metadata, metadata = children(batch.column("metadata"))
    told = zip(
        of_metadata.tolist(),
        values_of(metadata.field("type"), np.int32).tolist(),
        metadata.field("metric_family_name").to_pylist(),
        strict=True,
    )
    return replace(_series_1(len(payloads), request, rows), metadata=[each for each in told if each[2]])


def _series_1(requests: int, request: Int32s, rows: pa.Array) -> WriteRequests:
    """Series of 1.0: read in place where they are plain, parsed where they are not."""
    n = len(rows)
    read = plain_series(rows) if n else None
    others = np.flatnonzero(~read.plain) if read is not None else np.zeros(0, np.intp)
    if read is not None and not len(others):
        return WriteRequests(
            requests=requests,
            request=request,
            keys=read.labels,
            raw=lambda row: RawSeries(rows[row].as_py()[: read.labels_end[row]]),
            series=np.arange(n, dtype=np.int32),
            time_ns=nanoseconds(read.time_ms),
            start_ns=nothing(n, np.int64),
            value=read.value,
            natives=None,
            native_series=np.zeros(0, np.int32),
            exemplars=NO_EXEMPLARS,
            metadata=(),
        )
    parsed_rows = parsed(_SERIES_1, rows.take(pa.array(others)))
    labels = parsed_rows.field("labels")
    joined, cuts = joined_fields(labels)
    keys = np.zeros(n, np.uint64) if read is None else np.array(read.labels)
    keys[others] = hashes_of([joined])[0] + cuts
    place = np.zeros(n, np.int64)
    place[others] = np.arange(len(others))

    def raw(row: int) -> RawSeries:
        if read is not None and read.plain[row]:
            return RawSeries(rows[row].as_py()[: read.labels_end[row]])
        return RawSeries(_MESSAGE.TimeSeries(labels=labels[place[row]].as_py()).SerializeToString())

    own = _requests(requests, request, keys, raw, parsed_rows, np.zeros(len(others), np.int64))
    own = replace(
        own,
        series=others.astype(np.int32)[own.series],
        native_series=others.astype(np.int32)[own.native_series],
        exemplars=replace(own.exemplars, series=others.astype(np.int32)[own.exemplars.series]),
    )
    if read is None:
        return own
    plain = np.flatnonzero(read.plain).astype(np.int32)
    series = np.concatenate((own.series, plain))
    order = np.argsort(series, kind="stable")
    return replace(
        own,
        series=series[order],
        time_ns=np.concatenate((own.time_ns, nanoseconds(read.time_ms[plain])))[order],
        start_ns=np.concatenate((own.start_ns, np.zeros(len(plain), np.int64)))[order],
        value=np.concatenate((own.value, read.value[plain]))[order],
    )


def decode_2(payloads: Sequence[bytes]) -> WriteRequests:
    """Flatten ``io.prometheus.write.v2.Request`` messages; raises as `decode_1` does."""
    batch = _parsed(_VERSION_2, payloads)
    symbols_of = batch.column("symbols")
    symbols = symbols_of.values
    request, rows = children(batch.column("timeseries"))
    refs_of = rows.field("labels_refs")
    offsets, refs = refs_of.offsets.to_numpy(), values_of(refs_of.values, np.uint32)
    begins = symbols_of.offsets.to_numpy().astype(np.int64)
    types = values_of(rows.field("metadata").field("type"), np.int32)
    units = values_of(rows.field("metadata").field("unit_ref"), np.uint32).astype(np.int64)
    first, counts = begins[request], lengths_of(begins)[request]
    # Position 0 stands for all that is not there.
    hashes = np.concatenate((hashes_of([symbols])[0], np.zeros(1, np.uint64)))
    unit_at = np.where((units > 0) & (units < counts), first + units, len(symbols))
    keys, good = _keys_of_refs(offsets, refs, first, counts, hashes)
    keys = mix(keys, mix(hashes[unit_at], types.astype(np.uint64)))

    @cache
    def all_texts() -> list[bytes]:
        # Only where a series is new, and then usually for many.
        texts: list[bytes] = symbols.to_pylist()
        return texts

    def raw(row: int) -> RawSeries:
        if not good[row]:
            raise Malformed
        texts = [all_texts()[at] for at in (first[row] + refs[offsets[row] : offsets[row + 1]]).tolist()]
        pairs = [
            _MESSAGE.Label(name=n, value=v).SerializeToString() for n, v in zip(texts[::2], texts[1::2], strict=True)
        ]
        unit = symbols[unit_at[row]].as_py() if unit_at[row] < len(symbols) else b""
        return RawSeries(_MESSAGE.TimeSeries(labels=pairs).SerializeToString(), int(types[row]) or None, unit)

    def texts_of(row: int, own: Sequence[int]) -> list[bytes]:
        there = [first[row] + ref for ref in own if ref < counts[row]]
        texts: list[bytes] = symbols.take(pa.array(there, pa.int64())).to_pylist()
        return texts

    created = values_of(rows.field("created_timestamp"), np.int64)
    return _requests(len(payloads), request, keys, raw, rows, created, texts_of)


def count_1(payload: bytes) -> int:
    """How many points a request of 1.0 holds, or series or metadata if these are more.

    Raises:
        Invalid: the payload is no such message.
    """
    batch = _parsed(_SHALLOW_1, [payload])
    return max(_count_points(batch), len(batch.column("metadata").values))


def count_2(payload: bytes) -> int:
    """How many points a request of 2.0 holds, or series if these are more; raises as `count_1` does."""
    batch = _parsed(_SHALLOW_2, [payload])
    return max(_count_points(batch), len(batch.column("symbols").values) // _LABELS_PER_POINT)


def _count_points(batch: pa.RecordBatch) -> int:
    series = batch.column("timeseries").values
    return max(len(series), sum(len(series.field(name).values) for name in ("samples", "histograms", "exemplars")))


def _parsed(handler: Any, payloads: Sequence[bytes]) -> pa.RecordBatch:
    try:
        return handler.list_to_record_batch(list(payloads))
    except ValueError as error:
        raise Invalid(str(error)) from error


def _requests(
    requests: int,
    request: Int32s,
    keys: UInt64s,
    raw: Callable[[int], RawSeries],
    rows: pa.StructArray,
    created_ms: Int64s,
    texts_of: Callable[[int, Sequence[int]], list[bytes]] | None = None,
) -> WriteRequests:
    series, samples = children(rows.field("samples"))
    native_series, natives = children(rows.field("histograms"))
    exemplar_series, exemplars = children(rows.field("exemplars"))
    start_ms = values_of(samples.field("start_timestamp"), np.int64)
    if created_ms.any():
        start_ms = np.where(start_ms == 0, created_ms[series], start_ms)
    return WriteRequests(
        requests=requests,
        request=request,
        keys=keys,
        raw=raw,
        series=series,
        time_ns=nanoseconds(values_of(samples.field("timestamp"), np.int64)),
        start_ns=nanoseconds(start_ms),
        value=values_of(samples.field("value"), np.float64),
        natives=parsed(_NATIVE, natives) if len(natives) else None,
        native_series=native_series,
        exemplars=_exemplars(exemplar_series, exemplars, texts_of),
        metadata=(),
    )


def _exemplars(
    series: Int32s, messages: pa.Array, texts_of: Callable[[int, Sequence[int]], list[bytes]] | None
) -> WriteExemplars:
    """Exemplars, which are few: one after the other. ``texts_of`` looks symbols up, None where there are none."""
    if not len(messages):
        return NO_EXEMPLARS
    times, values, ids = [], [], []
    try:
        for row, message in zip(series.tolist(), messages.to_pylist(), strict=True):
            if texts_of is None:
                read = _MESSAGE.Exemplar.FromString(message)
                pairs = {label.name: label.value for label in read.labels}
            else:
                read = _MESSAGE.SymbolExemplar.FromString(message)
                texts = texts_of(row, read.labels_refs)
                pairs = dict(zip(texts[::2], texts[1::2], strict=False))
            times.append(read.timestamp)
            values.append(read.value)
            ids.append((_id(pairs, 32, b"trace_id", b"traceID"), _id(pairs, 16, b"span_id", b"spanID")))
    except DecodeError as error:
        raise Invalid(str(error)) from error
    return WriteExemplars(
        series,
        nanoseconds(np.array(times, np.int64)),
        np.array(values, np.float64),
        [trace for trace, _ in ids],
        [span for _, span in ids],
    )


def _id(pairs: dict[bytes, bytes], digits: int, *names: bytes) -> str:
    """An id in hex; what is none could be of any size, and is left out."""
    for name in names:
        text = pairs.get(name, b"").lower()
        if len(text) == digits and not text.strip(b"0123456789abcdef"):
            return text.decode()
    return ""


def nanoseconds(ms: Int64s) -> Int64s:
    """Milliseconds as nanoseconds; what is beyond any time stays beyond."""
    in_range: Int64s = np.clip(ms, -_MS_MAX, _MS_MAX) * _MS
    return in_range


def _keys_of_refs(
    offsets: Int32s, refs: npt.NDArray[np.uint32], first: Int64s, counts: Int64s, hashes: UInt64s
) -> tuple[UInt64s, Bools]:
    """A hash of each series' labels by the texts that it refers to, and which series refer to texts that are there."""
    lengths = lengths_of(offsets)
    good = (lengths % 2 == 0) & (lengths > 0) & (lengths <= _REFS_MAX)
    keys = np.zeros(len(lengths), np.uint64)
    # By place, all series that have it at once, the shortest in front: memory is bounded by series, not by references.
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    begins, own_first, own_counts = offsets[rows], first[rows], counts[rows]
    shorter = np.searchsorted(lengths[rows], np.arange(lengths[rows[-1]] if len(rows) else 0), side="right")
    own_keys, own_good = keys[rows], good[rows]
    for place, begin in enumerate(shorter.tolist()):
        ref = refs[begins[begin:] + place]
        there = ref < own_counts[begin:]
        at = np.where(there, own_first[begin:] + ref, len(hashes) - 1)
        own_keys[begin:] += hashes[at] * _PLACES[place]
        own_good[begin:] &= there
    keys[rows], good[rows] = own_keys, own_good
    keys[~good] = 0
    return keys, good


def labels_of(raw: RawSeries) -> dict[str, str]:
    """The labels of a series.

    Raises:
        Malformed: they cannot be read, or a name stands twice.
    """
    labels: dict[str, str] = {}
    try:
        fields = _MESSAGE.TimeSeries.FromString(raw.labels).labels
        for field in fields:
            label = _MESSAGE.Label.FromString(field)
            name, value = label.name.decode(), label.value.decode()
            if name in labels or not name:
                raise Malformed
            labels[name] = value
    except (UnicodeDecodeError, DecodeError) as error:
        raise Malformed from error
    return labels
