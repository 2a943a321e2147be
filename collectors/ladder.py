"""The ladder of an outage: the outbox grows, then what waits in it is merged, then senders are pushed back.

=============  ==============================================================================================
grow           up to ``outbox_merge_bytes`` (at most half of ``outbox_bytes_max``) flushes wait as they are
merge, widen   beyond, after each flush, the oldest are merged as far as is needed: `collectors.coarsen`
push back      beyond ``outbox_bytes_max`` every request is refused, until what waits is at most that again
=============  ==============================================================================================

Rules:

1. What waits is looked at after each flush, so it may exceed ``outbox_bytes_max`` by what was acknowledged before and
   not yet flushed: one flush. While senders are pushed back only heartbeats and counts of drops are added.
2. Two threads change what waits: the flush (adds, merges) and the forwarder (trims). Each tells, and senders are let in
   as soon as there is room, not only at the next flush.
3. What the forwarder trimmed is subtracted, not counted anew: counting reads the whole outbox. Until the next flush
   ``oldest_ns`` may be of what is gone already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from catchment.limits import Limits
from catchment.units import about
from collectors.state import StateFile
from collectors.state_records import OutboxRow

# Each takes a fraction of a second, in which nothing is decoded.
_MERGES_PER_FLUSH = 4


@dataclass(frozen=True)
class Waits:
    """What waits for the log.

    ``oldest_ns``: when the oldest was flushed; 0 if nothing waits. ``merged_seconds``: the width of windows up to which
    merging has gone; 0 while all is as it was flushed.
    """

    messages: int = 0
    size_bytes: int = 0
    oldest_ns: int = 0
    merged_seconds: int = 0


class Ladder:
    """Watches over one outbox.

    Args:
        state: the flush's connection.
        merge: one step of merging: the bytes saved, 0 if nothing more can be.
    """

    def __init__(self, state: StateFile, limits: Limits, merge: Callable[[], int], now_ns: int) -> None:
        self._state = state
        self._limits = limits
        self._merge = merge
        self._lock = threading.Lock()
        self._full_since_ns = 0
        self.waits = Waits()
        self.look(now_ns)

    @property
    def merge_bytes(self) -> int:
        """From where on what waits is merged."""
        return min(self._limits.outbox_merge_bytes, self._limits.outbox_bytes_max // 2)

    def look(self, now_ns: int) -> None:
        """Count what waits; on the flush's thread."""
        with self._lock:
            self._count(self._state, now_ns)

    def after_flush(self, now_ns: int) -> int:
        """Count what waits and merge some of it if it is too much; on the flush's thread.

        Returns:
            The bytes saved; what could not be done now, the next flush may.

        Raises:
            Retry: what was merged before stays merged.
        """
        self.look(now_ns)
        saved = 0
        try:
            for _ in range(_MERGES_PER_FLUSH):
                if self.waits.size_bytes - saved <= self.merge_bytes:
                    break
                step = self._merge()
                saved += step
                if not step:
                    break
        finally:
            if saved:
                self.look(now_ns)
        return saved

    def resume(self, state: StateFile, up_to: int) -> None:
        """Delete what the log has, as it says itself, and count what is left; on the forwarder's thread."""
        with self._lock:
            state.trim(up_to)
            self._count(state, self._full_since_ns)

    def trim(self, state: StateFile, rows: Sequence[OutboxRow]) -> None:
        """Delete what the log has now; on the forwarder's thread.

        Args:
            state: the forwarder's connection.
            rows: the oldest of what waits, by sequence.
        """
        with self._lock:
            state.trim(rows[-1].sequence)
            messages = max(self.waits.messages - len(rows), 0)
            size_bytes = max(self.waits.size_bytes - sum(len(row.value) for row in rows), 0)
            left = replace(self.waits, messages=messages, size_bytes=size_bytes)
            self._set(left if messages else Waits(), self._full_since_ns)

    def pressure(self) -> str:
        """Why senders are pushed back; "" while they are not."""
        size_bytes, size_bytes_max = self.waits.size_bytes, self._limits.outbox_bytes_max
        if size_bytes <= size_bytes_max:
            return ""
        return f"the outbox is full: {about(size_bytes)} wait for the log, the limit is {about(size_bytes_max)}"

    def pushing_back_seconds(self, now_ns: int) -> float:
        """For how long senders have been pushed back; 0 while they are not."""
        return max(now_ns - self._full_since_ns, 1) / 1e9 if self._full_since_ns else 0.0

    def oldest_seconds(self, now_ns: int) -> float:
        """The age of what waits longest; 0 if nothing does."""
        return max(now_ns - self.waits.oldest_ns, 0) / 1e9 if self.waits.oldest_ns else 0.0

    def used_ratio(self) -> float:
        """What waits as a share of ``outbox_bytes_max``."""
        return self.waits.size_bytes / self._limits.outbox_bytes_max

    def _count(self, state: StateFile, now_ns: int) -> None:
        messages, size_bytes, oldest_ns = state.outbox_size()
        self._set(Waits(messages, size_bytes, oldest_ns, state.merged_seconds_max()), now_ns)

    def _set(self, waits: Waits, now_ns: int) -> None:
        self.waits = waits
        is_full = waits.size_bytes > self._limits.outbox_bytes_max
        self._full_since_ns = (self._full_since_ns or now_ns) if is_full else 0
