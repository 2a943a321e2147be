"""Rows in wider windows: everything in them stays exact but the resolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.windows import of_instants


def widened(rows: pa.Table, seconds: int | npt.NDArray[np.int64]) -> pa.Table:
    """Rows with their windows widened to ``seconds``, where that is a multiple of what they are; not yet merged.

    Args:
        rows: with ``window_start_ns`` and ``window_seconds``.
        seconds: for all, or for each.
    """
    widths = rows["window_seconds"].to_numpy().astype(np.int64)
    starts_ns = rows["window_start_ns"].to_numpy()
    wider = (widths < seconds) & (seconds % np.maximum(widths, 1) == 0)
    columns = {
        "window_start_ns": np.where(wider, of_instants(starts_ns, seconds), starts_ns),
        "window_seconds": np.where(wider, seconds, widths).astype(np.uint32),
    }
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(values))
    return rows
