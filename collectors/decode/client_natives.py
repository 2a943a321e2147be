"""Native histograms in protobuf as the messages that `collectors.decode.native_histograms` reads.

Rules:

1. A histogram with a span, a zero threshold or a count of zeros is a native one, as Prometheus has it.
2. It is of floats if its count or its count of zeros is one above 0; then its integers mean nothing.
3. Exemplars of native histograms have a time. Where there are none, those of its classic buckets are taken.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.client_exemplars import exemplars_of
from collectors.decode.client_messages import FamilyType, timestamps_ns
from collectors.decode.points import Exemplars
from collectors.decode.raw import binary_buffers, lengths_of
from collectors.decode.views import children, values_of

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_GAUGE = 3  # a reset hint of remote write


def is_native(histogram: pa.StructArray) -> Bools:
    """Which histograms have native buckets; false where there is no histogram."""
    spans = sum(lengths_of(histogram.field(f"{sign}_span").offsets.to_numpy()) for sign in ("positive", "negative"))
    zeros = values_of(histogram.field("zero_count"), np.uint64) > 0
    zeros |= values_of(histogram.field("zero_count_float"), np.float64) > 0
    threshold = values_of(histogram.field("zero_threshold"), np.float64) > 0
    native: Bools = (np.asarray(spans) > 0) | zeros | threshold
    return native


def native_messages(histogram: pa.StructArray, rows: Rows, types: Int32s) -> pa.StructArray:
    """Some histograms as ``NativeHistogram`` messages, without their times.

    Args:
        histogram: parsed ``Histogram`` messages.
        rows: which of them.
        types: of the families of all of them.
    """
    chosen = histogram.take(pa.array(rows))
    n = len(rows)
    is_float = np.zeros(n, np.bool_)
    for name in ("sample_count", "zero_count"):
        is_float |= values_of(chosen.field(f"{name}_float"), np.float64) > 0
    fields: dict[str, pa.Array] = {
        "sum": chosen.field("sample_sum"),
        "schema": chosen.field("schema"),
        "zero_threshold": chosen.field("zero_threshold"),
        "reset_hint": pa.array(np.where(types[rows] == FamilyType.GAUGE_HISTOGRAM, _GAUGE, 0).astype(np.int32)),
        "timestamp": pa.array(np.zeros(n, np.int64)),
        "start_timestamp": pa.array(timestamps_ns(chosen.field("created_timestamp")) // 10**6),
        # This format has no bounds of its own for schema -53: such a histogram fits if all is above its only bucket.
        "custom_values": pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), pa.array([], pa.float64())),
    }
    for name, source in (("count", "sample_count"), ("zero_count", "zero_count")):
        fields[f"{name}_int"] = pa.array(values_of(chosen.field(source), np.uint64), mask=is_float)
        fields[f"{name}_float"] = pa.array(values_of(chosen.field(f"{source}_float"), np.float64), mask=~is_float)
    for sign in ("positive", "negative"):
        for name in ("span", "delta", "count"):
            fields[f"{sign}_{name}s"] = chosen.field(f"{sign}_{name}")
    return pa.StructArray.from_arrays(list(fields.values()), list(fields))


def native_exemplars(histogram: pa.StructArray, rows: Rows) -> Exemplars | None:
    """The exemplars of some native histograms; ``point`` is one of ``rows``, by number.

    Raises:
        Invalid: one of them is none.
    """
    chosen = histogram.take(pa.array(rows))
    owner, raw = children(chosen.field("exemplars"))
    bucket_of, buckets = children(chosen.field("bucket"))
    exemplar = buckets.field("exemplar")
    has_own = np.zeros(len(rows), np.bool_)
    has_own[owner] = True
    at = np.flatnonzero((lengths_of(binary_buffers(exemplar)[0]) > 0) & ~has_own[bucket_of])
    point = np.concatenate((owner, bucket_of[at])).astype(np.int64)
    found = exemplars_of(point, pa.concat_arrays([raw, exemplar.take(pa.array(at))]))
    if found is None:
        return None
    timed = np.flatnonzero(found.time_ns)
    taken = pa.array(timed)
    return Exemplars(
        found.point[timed],
        found.value[timed],
        found.time_ns[timed],
        found.trace_ids.take(taken),
        found.span_ids.take(taken),
    )
