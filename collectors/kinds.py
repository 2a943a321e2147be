"""The kinds of streams: how the points of one become values."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """How the points of a stream become values. Its name is part of the stream's identity."""

    GAUGE = 0  # also a cumulative sum that is not monotonic: its value is a level
    COUNTER = 1
    DELTA = 2
    HISTOGRAM = 3
    HISTOGRAM_DELTA = 4
    EXPONENTIAL = 5
    EXPONENTIAL_DELTA = 6
    SUMMARY = 7

    @property
    def row_kind(self) -> str:
        """What SQL shows."""
        return ("gauge", "counter", "counter", *["histogram"] * 4, "summary")[self]


# The kind of a point whose temporality is neither delta nor cumulative.
UNKNOWN_KIND = -1
HAS_START = np.array([False, True, False, True, False, True, False, True])
