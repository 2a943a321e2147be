"""The points remembered to recognise repeats, where neither value nor protocol tells: delta sums and gauges.

Rules:
1. A point is remembered by its 64-bit hash of (stream, start, time), in segments, one a flush, and at most
   ``points_max`` in all; the open segment too holds no more. Only points older than their stream's latest are ever
   looked up.
2. ``horizon_ns`` is the largest time that was forgotten: what is older cannot be told from a repeat any more.
3. A segment is forgotten when its latest point is older than the lateness, or when there are too many points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


@dataclass
class Segment:
    """Hashes remembered by one flush, and the largest time among them."""

    hashes: UInt64s
    time_ns_max: int
    is_sorted: bool = False


class SeenPoints:
    """A bounded set of point hashes."""

    def __init__(self, points_max: int, horizon_ns: int) -> None:
        self._points_max = points_max
        self.horizon_ns = horizon_ns
        self._segments: list[Segment] = []
        self._open: list[UInt64s] = []
        self._open_time_ns_max = horizon_ns
        self._open_count = 0

    def __len__(self) -> int:
        return sum(len(segment.hashes) for segment in self._segments) + self._open_count

    def add(self, hashes: UInt64s, time_ns: Int64s) -> None:
        """Remember points."""
        if len(hashes):
            self._open.append(hashes)
            self._open_count += len(hashes)
            self._open_time_ns_max = max(self._open_time_ns_max, int(time_ns.max()))
        while self._open_count > self._points_max:
            # More than is remembered came within one flush.
            self._open_count -= len(self._open.pop(0))
            self.horizon_ns = max(self.horizon_ns, self._open_time_ns_max)

    def contains(self, hashes: UInt64s) -> npt.NDArray[np.bool_]:
        """Which points are remembered."""
        found = np.zeros(len(hashes), np.bool_)
        for segment in self._segments:
            if not segment.is_sorted:
                segment.hashes.sort()
                segment.is_sorted = True
            at = np.minimum(np.searchsorted(segment.hashes, hashes), len(segment.hashes) - 1)
            found |= segment.hashes[at] == hashes
        for part in self._open:
            found |= np.isin(hashes, part)
        return found

    def seal(self, now_ns: int, lateness_ns: int) -> tuple[Segment | None, int]:
        """Close the open segment and forget what is too old or too much.

        Returns:
            The closed segment to persist, if any, and how many of the oldest segments were forgotten.
        """
        closed = None
        if self._open:
            closed = Segment(np.concatenate(self._open), self._open_time_ns_max)
            self._segments.append(closed)
            self._open, self._open_count, self._open_time_ns_max = [], 0, self.horizon_ns
        forgotten = 0
        while self._segments and (self._segments[0].time_ns_max < now_ns - lateness_ns or len(self) > self._points_max):
            self.horizon_ns = max(self.horizon_ns, self._segments.pop(0).time_ns_max)
            forgotten += 1
        return closed, forgotten

    def restore(self, segment: Segment) -> None:
        """Put a persisted segment back; oldest first."""
        self._segments.append(segment)
