"""Which parts the histograms and summaries of remote write have: their buckets, count and sum; see `reassembly`.

A *group* is a histogram or summary of one place, a *part* one of its series. Both are named by hashes of content, which
are the same in every process; ids are looked up once a slot of the `SeriesTable`, then a sample is two gathers away
from what is known of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catchment.identity import hash_parts, mix
from collectors.catalog import Catalog
from collectors.decode.families import Role
from collectors.hash_index import ABSENT, HashIndex
from collectors.remote_series import RemoteSeries

Int8s = npt.NDArray[np.int8]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
UInt64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

NO_ROOM = -2
_UNKNOWN = -1
_SUMS = (Role.SUM, Role.SUMMARY_SUM)
_SUMMARY = np.zeros(len(Role), np.uint64)
_SUMMARY[[Role.SUMMARY_COUNT, Role.SUMMARY_SUM]] = 1
_NEVER_NS = np.iinfo(np.int64).min


@dataclass(frozen=True)
class SavedParts:
    """Parts to persist, one row each; ``whole`` says that they are all there are.

    Columns:
        group, part: ids
        is_sum, is_part: what it is, and whether it still is
    """

    group: UInt64s
    part: UInt64s
    is_sum: Bools
    is_part: Bools
    whole: bool


class PartIndex:
    """Groups and their parts.

    Columns by group:
        parts: how many it has
        begun: a point of it was given out
        had_sum: one of its parts was a sum
        out_ns: the latest time given out in this run

    Columns by part:
        group: row of its group
        is_part: whether it is one still
        rank: its place among all parts by role and bound
    """

    def __init__(self, catalog: Catalog, parts_max: int) -> None:
        self._catalog = catalog
        self._parts_max = parts_max
        self._place_hashes: list[int] = []
        self._whole = False
        self._clear(1024)

    def _clear(self, capacity: int) -> None:
        self._groups, self._parts = HashIndex(), HashIndex()
        self._group_count = self._part_count = 0
        self._group_id: UInt64s = np.zeros(capacity, np.uint64)
        self.parts: Int32s = np.zeros(capacity, np.int32)
        self.begun: Bools = np.zeros(capacity, np.bool_)
        self.had_sum: Bools = np.zeros(capacity, np.bool_)
        self.out_ns: Int64s = np.full(capacity, _NEVER_NS)
        self._heard_ns: Int64s = np.full(capacity, _NEVER_NS)
        self._part_id: UInt64s = np.zeros(capacity, np.uint64)
        self.group: Int32s = np.zeros(capacity, np.int32)
        self._is_sum: Bools = np.zeros(capacity, np.bool_)
        self.is_part: Bools = np.zeros(capacity, np.bool_)
        self._ended_ns: Int64s = np.full(capacity, _NEVER_NS)
        self._changed: Bools = np.zeros(capacity, np.bool_)
        self.rank: Int32s = np.zeros(capacity, np.int32)
        self._kind: Int32s = np.zeros(capacity, np.int32)
        self._kinds: dict[tuple[int, float], int] = {}
        self.forget_slots()

    def forget_slots(self) -> None:
        """Slots of the `SeriesTable` are void."""
        self._part_of_slot: Int32s = np.full(1024, _UNKNOWN, np.int32)

    def __len__(self) -> int:
        return self._part_count

    def of_slots(self, series: RemoteSeries, slots: Int32s) -> Int32s:
        """The part that each slot is; `NO_ROOM` where it is too many."""
        while len(self._part_of_slot) < len(series.table.role):
            self._part_of_slot = np.concatenate(
                (self._part_of_slot, np.full(len(self._part_of_slot), _UNKNOWN, np.int32))
            )
        found = self._part_of_slot[slots]
        unknown = found == _UNKNOWN
        if unknown.any():
            distinct = np.unique(slots[unknown])
            self._part_of_slot[distinct] = self._look_up(series, distinct)
            found = self._part_of_slot[slots]
        return found

    def _look_up(self, series: RemoteSeries, slots: Int32s) -> Int32s:
        places, table = series.places(slots), series.table
        for place in self._catalog.places[len(self._place_hashes) :]:
            self._place_hashes.append(hash_parts("parts", place.tenant, place.cluster))
        place_hash = np.array(self._place_hashes, np.uint64)[places]
        role = table.role[slots]
        group_id = mix(table.group[slots], place_hash ^ _SUMMARY[role])
        bound = np.where(np.isnan(table.bound[slots]), 0.0, table.bound[slots] + 0.0)
        part_id = mix(group_id, mix(role.astype(np.uint64), bound.view(np.uint64)))
        rows = self._rows(group_id, part_id, np.isin(role, _SUMS))
        self._rank(rows, role, bound)
        return rows

    def _rank(self, rows: Int32s, role: Int8s, bound: Float64s) -> None:
        """Note the role and bound of some parts; few differ, and a new one moves the others."""
        rows, role, bound = rows[rows >= 0], role[rows >= 0], bound[rows >= 0]
        pairs, inverse = np.unique(np.stack((role.astype(np.float64), bound)), axis=1, return_inverse=True)
        known = len(self._kinds)
        kinds = [self._kinds.setdefault((int(r), b), len(self._kinds)) for r, b in zip(*pairs.tolist(), strict=True)]
        self._kind[rows] = np.array(kinds, np.int32)[inverse.reshape(-1)]
        ranks = np.empty(len(self._kinds), np.int32)
        ranks[[self._kinds[pair] for pair in sorted(self._kinds)]] = np.arange(len(ranks))
        changed = rows if known == len(self._kinds) else np.arange(self._part_count)
        self.rank[changed] = ranks[self._kind[changed]]

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self._kinds)

    def _rows(self, group_id: UInt64s, part_id: UInt64s, is_sum: Bools) -> Int32s:
        """The row of each part, made where it is new."""
        rows = self._parts.find(part_id)
        new = np.flatnonzero(rows == ABSENT)
        if not len(new):
            return rows
        _, first = np.unique(part_id[new], return_index=True)
        first.sort()
        room = max(self._parts_max - self._part_count, 0)
        made = new[first][:room]
        at = np.arange(self._part_count, self._part_count + len(made), dtype=np.int32)
        self._part_count += len(made)
        groups = self._groups_of(group_id[made])
        self._grow(
            "_part_id", "group", "_is_sum", "is_part", "_ended_ns", "_changed", "rank", "_kind", count=self._part_count
        )
        self._part_id[at], self.group[at], self._is_sum[at] = part_id[made], groups, is_sum[made]
        self.is_part[at], self._changed[at], self._ended_ns[at] = False, False, _NEVER_NS
        self._parts.insert(part_id[made], at)
        rows = self._parts.find(part_id)
        rows[rows == ABSENT] = NO_ROOM
        return rows

    def _groups_of(self, ids: UInt64s) -> Int32s:
        groups = self._groups.find(ids)
        new = np.unique(ids[groups == ABSENT])
        if len(new):
            at = np.arange(self._group_count, self._group_count + len(new), dtype=np.int32)
            self._group_count += len(new)
            self._grow("_group_id", "parts", "begun", "had_sum", "out_ns", "_heard_ns", count=self._group_count)
            self._group_id[at], self.parts[at], self.begun[at], self.had_sum[at] = new, 0, False, False
            self.out_ns[at] = self._heard_ns[at] = _NEVER_NS
            self._groups.insert(new, at)
            groups = self._groups.find(ids)
        return groups

    def _grow(self, *names: str, count: int) -> None:
        for name in names:
            column = getattr(self, name)
            while len(column) < count:
                column = np.concatenate((column, np.zeros_like(column)))
            setattr(self, name, column)

    def learn(self, parts: Int32s, time_ns: Int64s) -> None:
        """Take note of parts that came, but for those that ended since."""
        new = ~self.is_part[parts] & (time_ns > self._ended_ns[parts])
        if new.any():
            rows = np.unique(parts[new])
            self.is_part[rows] = self._changed[rows] = True
            np.add.at(self.parts, self.group[rows], 1)
            self.had_sum[self.group[rows[self._is_sum[rows]]]] = True

    def end(self, parts: Int32s, time_ns: Int64s) -> None:
        """Take note of parts that ended."""
        np.maximum.at(self._ended_ns, parts, time_ns)
        self._drop(np.unique(parts[self.is_part[parts]]))

    def shrink(self, groups: Int32s, present: Int32s) -> None:
        """Leave some groups only the parts that are present."""
        if len(groups):
            others = np.isin(self.group[: self._part_count], groups) & self.is_part[: self._part_count]
            others[present] = False
            self._drop(np.flatnonzero(others).astype(np.int32))

    def _drop(self, rows: Int32s) -> None:
        self.is_part[rows] = False
        self._changed[rows] = True
        np.subtract.at(self.parts, self.group[rows], 1)

    def give_out(self, groups: Int32s, time_ns: Int64s, now_ns: int) -> None:
        """Take note of points that are out."""
        np.maximum.at(self.out_ns, groups, time_ns)
        self._heard_ns[groups] = now_ns
        begins = np.unique(groups[~self.begun[groups]])
        if len(begins):
            self.begun[begins] = True
            own = np.isin(self.group[: self._part_count], begins)
            self._changed[: self._part_count] |= own & self.is_part[: self._part_count]

    def unsaved(self) -> SavedParts:
        """What changed since the last `saved`, of groups that have begun."""
        n = self._part_count
        groups = self.group[:n]
        which = self.begun[groups] & (self.is_part[:n] if self._whole else self._changed[:n])
        rows = np.flatnonzero(which)
        return SavedParts(
            self._group_id[groups[rows]], self._part_id[rows], self._is_sum[rows], self.is_part[rows], self._whole
        )

    def saved(self) -> None:
        """What `unsaved` gave is durable."""
        self._changed[: self._part_count] &= ~self.begun[self.group[: self._part_count]]
        self._whole = False

    def save_whole(self) -> None:
        """Let the next `unsaved` give everything."""
        self._whole = True

    def restore(self, parts: SavedParts) -> None:
        """Put persisted parts back, the oldest first."""
        rows = self._rows(parts.group, parts.part, parts.is_sum)
        kept = rows >= 0
        # Of several rows of a part the last is the one.
        self.is_part[rows[kept]] = parts.is_part[kept]
        n = self._part_count
        groups = self.group[:n]
        self.begun[groups] = True
        self.parts[: self._group_count] = np.bincount(groups[self.is_part[:n]], minlength=self._group_count)
        self.had_sum[groups[self.is_part[:n] & self._is_sum[:n]]] = True

    def forget_idle(self, before_ns: int, held: Int32s) -> int:
        """Forget groups of which nothing was given out since, unless samples of them are held (parts).

        Returns:
            How many parts were forgotten; if any, all rows are void.
        """
        n = self._part_count
        kept_groups = self._heard_ns[: self._group_count] >= before_ns
        # After loading nothing was heard of any group yet.
        unheard = (self._heard_ns[: self._group_count] == _NEVER_NS) & self.begun[: self._group_count]
        self._heard_ns[: self._group_count][unheard] = before_ns
        kept_groups |= unheard
        kept_groups[self.group[held]] = True
        kept = kept_groups[self.group[:n]]
        dropped = int(n - kept.sum())
        if dropped <= n // 10:
            return 0
        rows = np.flatnonzero(kept)
        groups = self.group[rows]
        old = {name: getattr(self, name) for name in ("parts", "begun", "had_sum", "out_ns", "_heard_ns")}
        group_id, part_id, is_sum = self._group_id[groups], self._part_id[rows], self._is_sum[rows]
        is_part, ended_ns = self.is_part[rows], self._ended_ns[rows]
        self._clear(1024)
        at = self._rows(group_id, part_id, is_sum)
        self.is_part[at], self._ended_ns[at] = is_part, ended_ns
        for name, column in old.items():
            getattr(self, name)[self.group[at]] = column[groups]
        self._whole = True
        return dropped
