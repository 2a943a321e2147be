"""The parsers of the messages of ``trimmed_metrics.proto``."""

from __future__ import annotations

from typing import Any, Final

import ptars
import pyarrow as pa

from catchment.errors import Invalid
from collectors.decode import trimmed_metrics_pb2 as trimmed

_POOL = ptars.HandlerPool([trimmed.DESCRIPTOR])


def _handler(name: str) -> Any:
    return _POOL.get_for_message(trimmed.DESCRIPTOR.message_types_by_name[name])


METRICS: Final = _handler("MetricsData")
SHALLOW: Final = _handler("ShallowMetricsData")
NUMBER: Final = _handler("NumberDataPoint")
SUMMARY: Final = _handler("SummaryDataPoint")
EXEMPLAR: Final = _handler("Exemplar")


def parsed(handler: Any, raw: pa.Array) -> pa.StructArray:
    """Serialised messages as columns.

    Raises:
        Invalid: one of them is none.
    """
    try:
        return handler.list_to_record_batch(raw.to_pylist()).to_struct_array()
    except ValueError as error:
        raise Invalid(str(error)) from error
