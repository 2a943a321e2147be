"""The flush: a cut at an inbox position becomes envelopes and state, in one transaction.

`rows_of` is the pure part: what was drained → rows of every lane by tenant. `Flusher` is the shell around it: it
drains, seals envelopes, commits and, if that fails, puts everything back.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from catchment.algebra.text import compact
from catchment.columns import LANES, Column, Merge
from catchment.crash import crash_point
from catchment.envelope import Envelope, encode, seal
from catchment.errors import Retry
from catchment.reach import Reach
from catchment.version import PROGRAM
from catchment.windows import NANOSECONDS
from collectors.cardinality import rows_by_tenant
from collectors.catalog import Catalog
from collectors.coarsen import Coarsener
from collectors.edge import Drained, Edge
from collectors.hold import Holder, Parted
from collectors.lane_rows import LaneRows, metric_lanes
from collectors.life_table import to_tables, touched_lives
from collectors.reasons import SUM_OVERFLOW
from collectors.seen import Segment
from collectors.series_table import to_rows
from collectors.state import StateFile
from collectors.state_records import Flush, Meta, PolicyRow

log = logging.getLogger(__name__)

# A row whose histogram has fewer intervals (16 bytes each) is not split: it is small, or large for another reason.
_INTERVALS_SPLIT_MIN = 4096


@dataclass(frozen=True)
class Flushed:
    """What a flush made durable: rows by lane, points, and what did not make it by (reason, unit)."""

    rows: dict[str, int]
    points: int
    drops: dict[tuple[str, str], int]


@dataclass(frozen=True)
class Source:
    """Who flushes: what heartbeats and drops are signed with."""

    name: str
    sequence: int
    policy_version: str


def rows_of(
    drained: Drained,
    catalog: Catalog,
    source: Source,
    *,
    now_ns: int,
    window_seconds: int,
    reach: Reach = Reach.GLOBAL,
) -> list[LaneRows]:
    """The rows of every lane by tenant, those of metrics by reach.

    Args:
        drained: see `Edge.drain`.
        catalog: what its place slots mean.
        source: who flushes.
        now_ns: the time of the flush: the window of drops and sketches.
        window_seconds: the resolution.
        reach: how far cluster rows go of which policy says nothing else.
    """
    lanes = metric_lanes(drained, catalog, window_seconds=window_seconds, reach=reach)
    window_ns = now_ns - now_ns % (window_seconds * NANOSECONDS)
    drops: dict[str, list[dict[str, object]]] = {}
    # Of what leaves, not tallied: what a failed flush puts back is looked at again.
    counts = Counter(drained.tally)
    for table in drained.partials.values():
        counts.update(_overflows(table, catalog))
    for (place, reason, unit), count in counts.items():
        drops.setdefault(catalog.places[place].tenant, []).append(
            {
                "window_start_ns": window_ns,
                "window_seconds": window_seconds,
                "cluster": catalog.places[place].cluster,
                "tier": "collector",
                "lane": "metrics",
                "reason": reason,
                "unit": unit,
                "count": count,
            }
        )
    health: dict[str, list[dict[str, object]]] = {}
    for (place, window_start_ns), heard in drained.heard.items():
        health.setdefault(catalog.places[place].tenant, []).append(
            {
                "window_start_ns": window_start_ns,
                "window_seconds": window_seconds,
                "cluster": catalog.places[place].cluster,
                "source": source.name,
                "heartbeat_ns": heard.heartbeat_ns,
                "sequence": source.sequence,
                "labels": heard.labels,
                "version": PROGRAM,
                "policy_version": heard.policy_version or source.policy_version,
            }
        )
    sketches = rows_by_tenant(drained.cardinality, catalog, window_start_ns=window_ns, window_seconds=window_seconds)
    lanes += [LaneRows("cardinality", tenant, table) for tenant, table in sketches.items()]
    for lane, by_tenant in (("drops", drops), ("health", health)):
        for tenant, rows in by_tenant.items():
            lanes.append(LaneRows(lane, tenant, pa.Table.from_pylist(rows, LANES[lane].schema)))
    return lanes


def _overflows(partials: pa.Table, catalog: Catalog) -> Counter[tuple[int, str, str]]:
    """Rows whose sums of fractions left the range of a float, by place; every point was finite."""
    sums = ("sum_float", "integral", "observed_seconds")
    bad = np.flatnonzero(~np.logical_and.reduce([np.isfinite(partials[name].to_numpy()) for name in sums]))
    places = catalog.places_of(partials["series_id"].to_numpy()[bad].astype(np.int64))
    return Counter((place, SUM_OVERFLOW, "rows") for place in places.tolist())


class Flusher:
    """Flushes one edge into one state file.

    Args:
        edge, state: of one folder.
        meta: the state's head as it was loaded.
        region: of all rows.
        name: the collector's own cluster: the key of its messages and the source of its heartbeats.
    """

    def __init__(self, edge: Edge, state: StateFile, meta: Meta, *, region: str, name: str) -> None:
        self._edge = edge
        self._state = state
        self._region = region
        self._name = name
        self.meta = meta
        self._series_saved = len(edge.catalog.series)
        self._lives_saved_rows = state.lives_rows()
        self._unsaved_seen: list[Segment] = []
        self._unsaved_forgotten = 0
        self._whole = False
        self._holder = Holder(name, lambda lane: self._envelope(lane, 0), state.held_values)
        self._coarsener = Coarsener(state, edge.window_seconds, self._sealed)

    def flush(
        self, position: int, now_ns: int, policies: Sequence[PolicyRow] | None = None, *, release: bool = False
    ) -> Flushed:
        """Make everything applied so far durable as rows, consumed up to ``position``.

        Args:
            position: of the inbox.
            now_ns: the time of the flush.
            policies: the ones to keep from now on; None for those that are.
            release: what is held leaves too.

        Raises:
            Retry: nothing changed; all is put back and goes with the next flush.
        """
        edge, catalog = self._edge, self._edge.catalog
        drained = edge.drain(now_ns)
        crash_point("flush.drained")
        segment, forgotten = edge.seen.seal(now_ns, edge.limits.lateness_seconds * NANOSECONDS)
        self._unsaved_seen += [segment] if segment is not None else []
        self._unsaved_forgotten += forgotten
        source = Source(self._name, self.meta.sequence + 1, edge.policy.version)
        try:
            drained_lanes = rows_of(
                drained,
                catalog,
                source,
                now_ns=now_ns,
                window_seconds=edge.window_seconds,
                reach=edge.policy.policies.reach,
            )
            parted = self._holder.part(drained_lanes, self._state.held(), now_ns, release=release)
            for said in parted.unreadable:
                log.warning(said)
            lanes = parted.leaving
            acknowledged = _acknowledged(lanes)
            envelopes, sequence = self._sealed(lanes)
            meta = replace(self.meta, consumed=position, sequence=sequence)
            self._commit(meta, now_ns, parted, envelopes, acknowledged, policies)
        except BaseException:
            edge.put_back(drained)
            raise
        self._evict(now_ns)
        points = sum(points for points, _ in _acknowledged(drained_lanes).values())
        drops: Counter[tuple[str, str]] = Counter()
        for (_, reason, unit), count in drained.tally.items():
            drops[reason, unit] += count
        return Flushed(_row_counts(lanes), points, dict(drops))

    def _commit(
        self,
        meta: Meta,
        now_ns: int,
        parted: Parted,
        envelopes: list[tuple[str, str, bytes]],
        acknowledged: dict[tuple[str, str], tuple[int, int]],
        policies: Sequence[PolicyRow] | None,
    ) -> None:
        """Make rows, and what has changed of the state, durable; raises `Retry`, and nothing changed."""
        edge, catalog = self._edge, self._edge.catalog
        size = len(edge.lives)
        # Segments are rewritten whole once they hold three times what there is: at most three times the writing.
        whole = self._whole or self._lives_saved_rows > 3 * size + 1024
        touched = touched_lives(edge.lives)
        rows = np.flatnonzero(~edge.lives.columns.dead[:size]) if whole else touched
        meta = replace(meta, known_since_ns=edge.lives.known_since_ns, seen_horizon_ns=edge.seen.horizon_ns)
        writes = edge.remote.unsaved()
        saved = 0 if self._whole else self._series_saved
        slots = [*(slot for slot in catalog.recounted if slot < saved), *range(saved, len(catalog.series))]
        self._state.commit(
            Flush(
                meta=meta,
                envelopes=envelopes,
                created_ns=now_ns,
                lives=to_tables(edge.lives, rows),
                lives_whole=whole,
                series=to_rows(catalog, slots),
                series_whole=self._whole,
                series_anew=catalog.counts_anew,
                seen=self._unsaved_seen,
                seen_forgotten=self._unsaved_forgotten,
                acknowledged=acknowledged,
                writes=writes,
                policies=policies,
                held=parted.held,
                held_gone=parted.gone,
            )
        )
        self.meta = meta
        edge.remote.saved(writes)
        self._series_saved = len(catalog.series)
        catalog.counts_saved()
        self._lives_saved_rows = len(rows) + (0 if whole else self._lives_saved_rows)
        self._unsaved_seen, self._unsaved_forgotten = [], 0
        edge.lives.columns.heard_ns[touched] = now_ns
        edge.lives.columns.touched[:size] = False
        self._whole = False

    def _evict(self, now_ns: int) -> None:
        """Let go of what is idle, and save that at once: who comes next may take the room, and must find it at replay.

        Where it cannot be saved, the next flush does; until then the old segments are right, but for that room.
        """
        if not self._edge.evict_idle(now_ns):
            return
        self._whole = True  # what is renumbered is written whole
        try:
            self._commit(self.meta, now_ns, Parted(), [], {}, None)
        except Retry as error:
            log.warning("what was evicted is saved with the next flush", extra={"error": str(error)})

    def coarsen(self) -> int:
        """Merge some of what waits in the outbox; see `collectors.coarsen`.

        Returns:
            The bytes saved; 0 when nothing more can be.

        Raises:
            Retry: nothing changed.
        """
        while (step := self._coarsener.step()) is not None:
            saved, sequence = step
            self.meta = replace(self.meta, sequence=max(self.meta.sequence, sequence))
            if saved:
                return saved
        return 0

    def _sealed(self, lanes: list[LaneRows]) -> tuple[list[tuple[str, str, bytes]], int]:
        """Envelopes as (lane, key, bytes), split at the limits of rows and bytes, and the last sequence used."""
        sequence = self.meta.sequence
        sealed = []
        limits = self._edge.limits
        # The digest is of all the rows together: it goes with the first part, so that parts add up to it.
        parts = deque(
            replace(
                lane,
                table=_slice(lane.table, start, limits.envelope_rows_max),
                digest=lane.digest if start == 0 else 0,
            )
            for lane in lanes
            for start in range(0, lane.table.num_rows, limits.envelope_rows_max)
        )
        while parts:
            part = parts.popleft()
            envelope = self._envelope(part, sequence + 1)
            data = encode(envelope)
            halves = _halves(part) if len(data) > limits.message_bytes_max else None
            if halves is not None:
                parts.extendleft(reversed(halves))
                continue
            sequence += 1
            sealed.append((part.lane, f"{part.tenant}/{self._name}", data))
        return sealed, sequence

    def _envelope(self, part: LaneRows, sequence: int) -> Envelope:
        return seal(
            part.lane,
            part.table,
            tenant=part.tenant,
            region=self._region,
            producer=self.meta.inbox_id,
            sequence=sequence,
            policy_version=part.policy_version or self._edge.policy.version,
            digest=part.digest,
            reach=part.reach,
        )


def _slice(table: pa.Table, start: int, rows: int) -> pa.Table:
    """Some rows with their own texts only: a plain slice would carry those of all, and never get small."""
    return table if start == 0 and rows >= table.num_rows else compact(table.slice(start, rows))


def _halves(part: LaneRows) -> tuple[LaneRows, LaneRows] | None:
    """The rows as two parts that merge to them; the digest goes with the first. None where that cannot be."""
    table = part.table
    if table.num_rows > 1:
        half = table.num_rows // 2
        return (
            replace(part, table=_slice(table, 0, half)),
            replace(part, table=_slice(table, half, table.num_rows), digest=0),
        )
    if "histogram" not in table.column_names:
        return None
    # One row that senders gave very many intervals: the second part has some of them, and nothing else.
    whole = table["histogram"].combine_chunks()
    start, end = whole.offsets.to_pylist()
    if end - start < _INTERVALS_SPLIT_MIN:
        return None
    half = (start + end) // 2
    first, second = (
        pa.MapArray.from_arrays([0, high - low], whole.keys[low:high], whole.items[low:high], type=whole.type)
        for low, high in ((start, half), (half, end))
    )
    place = table.schema.get_field_index("histogram")
    rest = pa.table(
        [second if column.name == "histogram" else _neutral(table, column) for column in LANES[part.lane].columns],
        schema=table.schema,
    )
    return (
        replace(part, table=table.set_column(place, table.schema.field(place), first)),
        replace(part, table=rest, digest=0),
    )


def _neutral(table: pa.Table, column: Column) -> pa.Array | pa.ChunkedArray:
    """The key of one row, or what a value merges with unchanged."""
    if column.merge is Merge.KEY:
        return table[column.name]
    return pa.nulls(1, column.arrow_type) if column.nullable else pa.array([0], column.arrow_type)


def _acknowledged(lanes: list[LaneRows]) -> dict[tuple[str, str], tuple[int, int]]:
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for lane in lanes:
        if lane.lane == "metrics_cluster":
            points, digest = sums.get((lane.tenant, "metrics"), (0, 0))
            points += int(np.sum(lane.table["points"].to_numpy()))
            sums[lane.tenant, "metrics"] = points, (digest + lane.digest) % 2**64
    return sums


def _row_counts(lanes: list[LaneRows]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for lane in lanes:
        counts[lane.lane] += lane.table.num_rows
    return dict(counts)
