"""The middle step of the ladder: what waits too long in the outbox is merged, then merged into coarser windows.

While the log is away the outbox grows. Beyond ``outbox_merge_bytes`` the oldest waiting flushes are merged: first as
they are (flushes of one window become one), then into windows of 5 minutes, then of an hour. Only when that is not
enough are senders pushed back (``outbox_bytes_max``). Rules:

1. What was ever handed to a publish stays as it is: its outcome may be unknown, and merged it would count twice. The
   forwarder marks what it takes in the transaction that reads it; `StateFile.replace_outbox` looks at the mark in its
   own.
2. Whole flushes are taken, metric rows and control totals together, and both move to the same windows: what was
   accepted and what is stored agree window by window (`control_totals`). Heartbeats and counts of drops keep theirs.
3. Windows only widen to multiples of what they are. Sums, counts, extremes, latest values, integrals and buckets stay
   exact, and so do points and digests: only the resolution is lost.
4. One step takes ``_STEP_BYTES`` of envelopes, or two flushes of one window where these are larger, and gives at most
   as many bytes as it took. What was merged is merged again with the flushes of its window that come after it: so it
   stays about as large as one flush, however many they are, and the ladder holds for large clusters too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pyarrow as pa

from catchment.algebra.merge import merge
from catchment.columns import LANES
from catchment.crash import crash_point
from catchment.envelope import Envelope, decode
from catchment.reach import Reach
from catchment.windows import NANOSECONDS
from collectors.lane_rows import LaneRows
from collectors.state import StateFile
from collectors.waiting import Replacement, Waiting
from collectors.widen import widened

_WIDENED = ("metrics_cluster", "totals", "cardinality")
_WIDTHS_SECONDS = (300, 3600)
_STEP_BYTES = 8 << 20


@dataclass(frozen=True)
class Step:
    """Some flushes to be merged into windows of at least ``seconds``; envelopes by sequence."""

    waiting: Sequence[Waiting]
    seconds: int


def next_step(waiting: Sequence[Waiting], handed: int, resolution_seconds: int) -> Step | None:
    """What to merge next: the oldest flushes that are merged least; None if all is as coarse as it gets.

    Args:
        waiting: the outbox, by sequence.
        handed: the highest sequence ever handed to a publish.
        resolution_seconds: the width of windows as they are flushed.
    """
    flushes = [list(rows) for _, rows in groupby(waiting, key=lambda row: row.created_ns)]
    # A flush of which a part was handed over is no whole one any more (rule 2).
    whole = sorted((rows for rows in flushes if rows[0].sequence > handed), key=_created_ns)
    for seconds in (resolution_seconds, *(width for width in _WIDTHS_SECONDS if width > resolution_seconds)):
        taken = _taken(whole, seconds)
        # One flush alone can only be widened.
        if len(taken) > 1 or (taken and seconds > resolution_seconds):
            return Step(sorted((row for rows in taken for row in rows), key=lambda row: row.sequence), seconds)
    return None


def _taken(flushes: Sequence[list[Waiting]], seconds: int) -> list[list[Waiting]]:
    """The oldest flushes that are not yet merged to ``seconds``, behind the merged one that they are to join."""
    below = [place for place, rows in enumerate(flushes) if rows[0].merged_seconds < seconds]
    if not below:
        return []
    before = flushes[below[0] - 1] if below[0] else None
    taken: list[list[Waiting]] = []
    if before and before[0].merged_seconds == seconds and _is_one_window(before, flushes[below[0]], seconds):
        taken.append(before)
    size = sum(row.size_bytes for rows in taken for row in rows)
    for rows in (flushes[place] for place in below):
        size += sum(row.size_bytes for row in rows)
        if size > _STEP_BYTES and taken and (len(taken) > 1 or not _is_one_window(taken[0], rows, seconds)):
            break
        taken.append(rows)
    return taken


def _created_ns(flush: list[Waiting]) -> int:
    return flush[0].created_ns


def _is_one_window(one: list[Waiting], other: list[Waiting], seconds: int) -> bool:
    """Whether two flushes left in the same window: most of their rows are of it, or both have some of its neighbour."""
    width_ns = seconds * NANOSECONDS
    return _created_ns(one) // width_ns == _created_ns(other) // width_ns


def merged(envelopes: Sequence[Envelope], seconds: int) -> list[LaneRows]:
    """Some envelopes' rows in windows of at least ``seconds``, with the sums of digests.

    Those of each lane, tenant, reach and policy version stay apart.
    """
    by_key: dict[tuple[str, str, str, str], list[Envelope]] = {}
    for envelope in envelopes:
        header = envelope.header
        by_key.setdefault((header.lane, header.tenant, header.reach, header.policy_version), []).append(envelope)
    lanes = []
    for (lane, tenant, reach, version), some in by_key.items():
        rows = pa.concat_tables([envelope.rows for envelope in some])
        if lane in _WIDENED:
            rows = widened(rows, seconds)
        digest = sum(envelope.header.totals.digest for envelope in some) % 2**64
        lanes.append(LaneRows(lane, tenant, merge(rows, LANES[lane].columns), digest, Reach(reach), version))
    return lanes


class Coarsener:
    """Merges what waits in one outbox.

    Args:
        state: the flush's connection.
        resolution_seconds: the width of windows as they are flushed.
        sealed: rows → envelopes (lane, key, bytes) with sequences of their own, and the last sequence used; the same
            as for a flush.
    """

    def __init__(
        self,
        state: StateFile,
        resolution_seconds: int,
        sealed: Callable[[list[LaneRows]], tuple[list[tuple[str, str, bytes]], int]],
    ) -> None:
        self._state = state
        self._resolution_seconds = resolution_seconds
        self._sealed = sealed

    def step(self) -> tuple[int, int] | None:
        """Merge some waiting flushes.

        Returns:
            The bytes saved and the last envelope sequence used; None if there is nothing to merge, or what was to be
            merged was handed over meanwhile.

        Raises:
            Retry: nothing changed.
        """
        found = next_step(self._state.waiting(), self._state.handed(), self._resolution_seconds)
        if found is None:
            return None
        sequences = [row.sequence for row in found.waiting]
        waiting = self._state.values(sequences)
        if len(waiting) < len(sequences):
            return None
        envelopes = [decode(value) for value in waiting]
        crash_point("coarsen.read")
        values, sequence = self._sealed(merged(envelopes, found.seconds))
        before = sum(row.size_bytes for row in found.waiting)
        after = sum(len(value) for _, _, value in values)
        oldest_ns = min(row.created_ns for row in found.waiting)
        replacement = Replacement(sequences, values, oldest_ns, found.seconds, sequence)
        if after >= before:
            # Nothing to gain: what was there stays, and is not looked at again for this width.
            replacement = replace(replacement, values=None)
        if not self._state.replace_outbox(replacement):
            return None
        crash_point("coarsen.replaced")
        return max(before - after, 0), sequence if replacement.values is not None else 0
