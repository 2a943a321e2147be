"""Which kind the points of each metric are of, by its temporality."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from collectors.decode.points import Shape
from collectors.decode.views import values_of
from collectors.kinds import UNKNOWN_KIND, Kind

Int32s = npt.NDArray[np.int32]

_DELTA, _CUMULATIVE = 1, 2


def kinds_of(shape: Shape, data: pa.StructArray) -> Int32s:
    """The kind of the points of each metric."""
    if shape is Shape.SUMMARY:
        return np.full(len(data), Kind.SUMMARY, np.int32)
    cumulative, delta = {
        Shape.NUMBER: (Kind.COUNTER, Kind.DELTA),
        Shape.HISTOGRAM: (Kind.HISTOGRAM, Kind.HISTOGRAM_DELTA),
        Shape.EXPONENTIAL: (Kind.EXPONENTIAL, Kind.EXPONENTIAL_DELTA),
    }[shape]
    temporality = values_of(data.field("aggregation_temporality"), np.int32)
    kinds = np.full(len(data), UNKNOWN_KIND, np.int32)
    kinds[temporality == _CUMULATIVE] = cumulative
    kinds[temporality == _DELTA] = delta
    return kinds
