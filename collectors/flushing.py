"""When a collector flushes, and what it means for senders when that fails.

    forever       every ``flush`` seconds, or as soon as rows that wait are too many
    in_replay     while the inbox is replayed, at the time of then
    cut           before policies or limits change

Rules:
1. `once` runs a flush on the edge's thread. One that fails has changed nothing: what was drained is put back, its
   trouble is said on the status port, and the next one takes all of it.
2. Once a flush is committed nothing behind it makes it a failed one.
3. Rows that wait are bounded: at ``flush_bytes_max`` the next flush comes early, at twice as much `pressure` pushes
   senders back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from catchment.config import CollectorConfig
from catchment.crash import crash_point
from catchment.errors import CatchmentError, Invalid, Retry
from catchment.identity import hash_parts
from catchment.telemetry import OwnMetric, Telemetry
from catchment.tracing import Tracing
from catchment.units import about, about_duration
from collectors.flush import Flushed, Flusher
from collectors.heard import Heard
from collectors.intake import Pipeline
from collectors.ladder import Ladder
from collectors.state_records import PolicyRow
from collectors.tenants import Sender

log = logging.getLogger(__name__)

# One in each window, also where the loop is late.
_BEATS_PER_WINDOW = 4


class Flushing:
    """The flushes of one collector.

    Args:
        config: of the collector.
        own: who the collector itself is; its heartbeats are of that.
        pipeline: the edge's thread, and the inbox that is trimmed.
        flusher: makes one flush real.
        ladder: merges what waits where that has become much.
        policies: those to be kept from a flush at a time (ns, UTC) on, None for as they are.
        telemetry: is told of each flush.
        tracing: has a span for each.
        clock: now in ns, UTC.
    """

    def __init__(
        self,
        config: CollectorConfig,
        own: Sender,
        pipeline: Pipeline,
        flusher: Flusher,
        ladder: Ladder,
        policies: Callable[[int], Sequence[PolicyRow] | None],
        telemetry: Telemetry,
        tracing: Tracing,
        clock: Callable[[], int],
    ) -> None:
        self._config = config
        self._own = own
        self._pipeline = pipeline
        self._edge = pipeline.edge
        self._flusher = flusher
        self._ladder = ladder
        self._policies = policies
        self._telemetry = telemetry
        self._tracing = tracing
        self._clock = clock
        # Told of each flush that was made.
        self.flushed: Callable[[], None] = lambda: None
        self._soon = asyncio.Event()
        self._refusals: Counter[tuple[Sender, str]] = Counter()
        self._beats: list[int] = []
        self._flush_trouble = self._trim_trouble = self._merge_trouble = ""

    async def forever(self, stop: asyncio.Event) -> None:
        """Flush until ``stop``, but for the last time."""
        period = self._config.flush_seconds
        # A fleet must not arrive on the same second: the phase is a hash of the name.
        phase = hash_parts("flush", self._config.cluster.name) % 1_000_000 / 1_000_000 * period
        while not stop.is_set():
            now = time.time()
            wait = period - (now - phase) % period
            waiting = [asyncio.create_task(event.wait()) for event in (stop, self._soon)]
            try:
                await asyncio.wait(waiting, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting:
                    task.cancel()
            if not stop.is_set():
                self._soon.clear()
                await self.once()

    def pressure(self) -> str:
        """Why senders are pushed back; "" while they are not."""
        size_bytes = self._edge.rows_bytes
        if size_bytes >= 2 * self._config.limits.flush_bytes_max:
            return f"rows of {about(size_bytes)} wait for a flush"
        return self._ladder.pressure()

    def troubles(self) -> list[str]:
        """Why the collector should get no traffic; empty while it takes all that is sent."""
        full = self.pressure()
        seconds = self._ladder.pushing_back_seconds(self._clock())
        if full and seconds:
            full += f"; senders have been pushed back for {about_duration(seconds)}"
        return [trouble for trouble in (full, self._flush_trouble, self._trim_trouble, self._merge_trouble) if trouble]

    def refused(self, sender: Sender | None, reason: str) -> None:
        """A request was refused, of somebody unknown if ``sender`` is None; the next flush tells."""
        self._refusals[sender or self._own, reason] += 1

    def applied(self) -> None:
        """A batch was applied: flush early where rows have become too many. What fails waits for its turn."""
        if self._edge.rows_bytes >= self._config.limits.flush_bytes_max and not self._flush_trouble:
            self._soon.set()

    def in_replay(self, received_ns: int) -> None:
        """The same while the inbox is replayed, at the time of then: streams that went on later must not be idle.

        Raises:
            Retry: it fails, and there is no room to go on without.
        """
        size_bytes, limit = self._edge.rows_bytes, self._config.limits.flush_bytes_max
        if size_bytes < limit or (self._flush_trouble and size_bytes < 2 * limit):
            return
        try:
            self._flusher.flush(self._pipeline.applied, received_ns)
            self._flush_trouble = ""
        except Retry as error:
            if size_bytes >= 2 * limit:
                raise
            self._flush_trouble = f"flushing fails: {error}"

    async def beat_forever(self) -> None:
        """Note that this process lives: flushes may be further apart than windows, or come on either side of one."""
        while True:
            self._beats.append(self._clock())
            await asyncio.sleep(self._config.resolution_seconds / _BEATS_PER_WINDOW)

    async def once(self, *, release: bool = False) -> None:
        """Flush what was applied so far; ``release`` lets go of what is held. A failure is told by `troubles`."""
        try:
            started = time.monotonic()
            refusals, self._refusals = self._refusals, Counter()
            beats, self._beats = self._beats, []
            with self._tracing.span("collector.flush"):
                flushed = await self._pipeline.run(lambda: self._flush(refusals, beats, release=release))
            self._telemetry.observe(OwnMetric.FLUSH_SECONDS, time.monotonic() - started)
            self._flush_trouble = ""
        except Retry as error:
            self._flush_trouble = f"flushing fails: {error}"
            log.warning("flush failed, everything is kept for the next", extra={"error": str(error)})
            return
        self._count_flush(flushed)
        self.flushed()

    def cut(self) -> None:
        """Flush on the edge's thread, where this is called, and let go of what is held.

        What the event loop gathers, refusals and heartbeats, goes with the next flush.

        Raises:
            Retry: nothing changed.
        """
        self._count_flush(self._flush(Counter(), (), release=True))

    def _count_flush(self, flushed: Flushed) -> None:
        for lane, rows in flushed.rows.items():
            self._telemetry.count(OwnMetric.FLUSHED_ROWS, rows, lane)
        self._telemetry.count(OwnMetric.POINTS_ACCEPTED, flushed.points, "metrics")
        for (reason, unit), count in flushed.drops.items():
            self._telemetry.count(OwnMetric.DROPS, count, "collector", "metrics", reason, unit)

    def _flush(self, refusals: Counter[tuple[Sender, str]], beats: Sequence[int], *, release: bool) -> Flushed:
        """On the edge's thread: a cut at what was applied so far; ``release`` lets go of what is held.

        Once that is committed nothing below it makes it a failed flush: what has not worked is said on the status port,
        and the next flush does it.
        """
        now_ns = self._clock()
        for (sender, reason), count in refusals.items():
            place = self._edge.catalog.place(sender.tenant, sender.cluster)
            self._edge.tally.add(place, reason, "requests", count)
        exploded = self._edge.exploded(now_ns)
        if exploded is not None:
            log.warning(exploded.text, extra=exploded.fields)
        own = self._own
        for beat_ns in (*beats, now_ns):
            self._edge.hear(own.tenant, own.cluster, Heard(own.labels, beat_ns, self._edge.policy.version))
        position = self._pipeline.applied
        flushed = self._flusher.flush(position, now_ns, policies=self._policies(now_ns), release=release)
        crash_point("flush.committed")
        self._trim_trouble = self._merge_trouble = ""
        try:
            self._pipeline.inbox.trim(position)
        except CatchmentError as error:
            # The flush is real; the segments stay until a later trim can delete them.
            self._trim_trouble = str(error)
        crash_point("flush.trimmed")
        try:
            self._merge_waiting(now_ns)
        except (Retry, Invalid) as error:
            self._merge_trouble = f"what waits cannot be merged: {error}"
            log.warning(self._merge_trouble)
        return flushed

    def _merge_waiting(self, now_ns: int) -> None:
        saved = self._ladder.after_flush(now_ns)
        if saved:
            self._telemetry.count(OwnMetric.OUTBOX_MERGED_BYTES, saved)
            waits = self._ladder.waits
            log.info("waiting envelopes merged", extra={"saved_bytes": saved, "outbox_bytes": waits.size_bytes})
