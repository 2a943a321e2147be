"""Exemplars of points: parsed by themselves, since most points have none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from collectors.decode.messages import EXEMPLAR, parsed
from collectors.decode.points import Exemplars
from collectors.decode.views import children, optional, or_nan, values_of


def exemplars_of(lists: pa.ListArray) -> Exemplars | None:
    """Exemplars, which arrive as bytes since most points have none."""
    if not len(lists.values):
        return None
    point, raw = children(lists)
    rows = parsed(EXEMPLAR, raw)
    as_int, is_int = optional(rows.field("as_int"), np.int64)
    as_double, is_double = optional(rows.field("as_double"), np.float64)
    return Exemplars(
        point=point.astype(np.int64),
        # One without a value is none: NaN is left out later.
        value=np.where(is_int, as_int.astype(np.float64), or_nan(as_double, is_double)),
        time_ns=values_of(rows.field("time_unix_nano"), np.int64),
        trace_ids=rows.field("trace_id"),
        span_ids=rows.field("span_id"),
    )
