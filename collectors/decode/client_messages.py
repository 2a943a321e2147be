"""The parsers of the messages of ``client_model.proto``, and what more than one kind of metric has."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa

from collectors.decode import client_model_pb2 as trimmed
from collectors.decode.views import optional

Int64s = npt.NDArray[np.int64]

_POOL = ptars.HandlerPool([trimmed.DESCRIPTOR])
_SECONDS_MAX = 9 * 10**9


def _handler(name: str) -> Any:
    return _POOL.get_for_message(trimmed.DESCRIPTOR.message_types_by_name[name])


FAMILY: Final = _handler("MetricFamily")
SHALLOW: Final = _handler("ShallowMetricFamily")
EXEMPLAR: Final = _handler("Exemplar")


class FamilyType(IntEnum):
    """``MetricType`` of client_model."""

    COUNTER = 0
    GAUGE = 1
    SUMMARY = 2
    UNTYPED = 3
    HISTOGRAM = 4
    GAUGE_HISTOGRAM = 5


def timestamps_ns(timestamps: pa.StructArray) -> Int64s:
    """Times to the millisecond, as the text formats have them; 0 where none is said."""
    seconds = np.clip(optional(timestamps.field("seconds"), np.int64)[0], 0, _SECONDS_MAX)
    nanos = np.clip(optional(timestamps.field("nanos"), np.int32)[0], 0, 10**9 - 1).astype(np.int64)
    said = timestamps.is_valid().to_numpy(zero_copy_only=False)
    ns: Int64s = np.where(said, seconds * 1000 + (nanos + 500_000) // 10**6, 0) * 10**6
    return ns
