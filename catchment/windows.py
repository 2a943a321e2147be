"""Windows: the half-open intervals ``[start, start + seconds)`` of UTC time that key a row.

OTLP intervals are ``(start, time]``, so what an increase at ``time`` describes happened up to and including ``time``:
it belongs to the window of ``time - 1 ns``. A gauge sample is an instant: it belongs to the window of ``time``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

NANOSECONDS = 1_000_000_000


def of_instants(time_ns: Int64s, window_seconds: int | Int64s) -> Int64s:
    """The start (ns, UTC) of the window that holds each instant; all windows of one width, or each of its own."""
    width_ns = window_seconds * NANOSECONDS
    return time_ns - time_ns % width_ns


def of_increases(time_ns: Int64s, window_seconds: int) -> Int64s:
    """The start (ns, UTC) of the window of each increase that ends, inclusively, at ``time_ns``."""
    return of_instants(time_ns - 1, window_seconds)
