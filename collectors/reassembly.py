"""Histograms and summaries of remote write, whose samples come in different requests, put together again.

Prometheus shards series over queues and cuts batches anywhere, so the buckets, sum and count of one point (a *group* at
one time) come separately. A point with half of its buckets would be wrong; so its samples are *held* until they are all
there.

Rules:

1. What belongs to a group is learnt: the union of the *parts* that ever came. A point is whole when all of them are
   there for its time. A stale marker takes a part away.
2. A new group has nothing to go by: its first point waits ``parts_settle_seconds``, and for +Inf, count and sum.
3. What is not whole after ``held_seconds_max`` is counted without its missing buckets if it has a count and, where
   there ever was one, a sum; its group has those parts only, then. Else it is given up: cumulative values are all in
   the next. Differences are taken over the bounds that two points share (`HistogramPoints.bounds_vary`), so that
   neither shows as a reset.
4. Time is when requests were received, and the flush's own. Nothing else decides, so a replay differs from the first
   run at most in when a point is given up.
5. Held samples and the parts of groups that have begun are saved with every flush. What is held is bounded by
   ``held_samples_max``: the groups that wait longest are given up. Parts are bounded by ``histogram_parts_max``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from catchment.identity import mix
from catchment.limits import Limits
from catchment.windows import NANOSECONDS
from collectors.decode.families import Role
from collectors.decode.prometheus import STALE_BITS
from collectors.part_index import PartIndex
from collectors.reasons import Reason
from collectors.remote_series import RemoteSeries
from collectors.tally import Tally

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

_MS = 10**6
_BITS = 63


@dataclass(frozen=True)
class HeldSamples:
    """Samples of histograms and summaries, one row each.

    Columns:
        slot: of the series
        time_ns, start_ns: UTC
        value: stale markers among them
        received_ns: when their requests came
    """

    slot: Int32s
    time_ns: Int64s
    start_ns: Int64s
    value: Float64s
    received_ns: Int64s

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, rows: Rows | Bools) -> HeldSamples:
        """Some rows."""
        return HeldSamples(**{name: getattr(self, name)[rows] for name in _COLUMNS})

    @staticmethod
    def concat(parts: list[HeldSamples]) -> HeldSamples:
        """All rows of some tables."""
        return HeldSamples(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in fields(HeldSamples))
NOTHING_HELD = HeldSamples(
    np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
)


@dataclass(frozen=True)
class _Sorted:
    """Samples by point, and what they are: point id, row of the `PartIndex`, role."""

    samples: HeldSamples
    point: UInt64s
    part: Int32s

    def take(self, rows: Rows | Bools) -> _Sorted:
        return _Sorted(self.samples.take(rows), self.point[rows], self.part[rows])


class Reassembly:
    """Holds samples until their points are whole."""

    def __init__(self, limits: Limits, series: RemoteSeries, index: PartIndex, tally: Tally) -> None:
        self._held_max = limits.held_samples_max
        self._hold_ns = limits.held_seconds_max * NANOSECONDS
        self._settle_ns = limits.parts_settle_seconds * NANOSECONDS
        self._series = series
        self._index = index
        self._tally = tally
        self._settles = False
        self.held = NOTHING_HELD

    def settle(self) -> None:
        """Let the next `release` not wait for ``parts_settle_seconds`` (rule 2)."""
        self._settles = True

    def release(self, samples: HeldSamples, now_ns: int) -> HeldSamples:
        """Take samples in, and give those of all points that are whole, the samples of a point side by side.

        Args:
            samples: in the order of the inbox.
            now_ns: up to when it is known that nothing more came.
        """
        if len(self.held):
            samples = HeldSamples.concat([self.held, samples])
        if not len(samples):
            return samples
        index = self._index
        part = index.of_slots(self._series, samples.slot)
        good = part >= 0
        self._count(samples.slot[~good], Reason.STREAMS_FULL)
        stale = samples.value.view(np.uint64) == STALE_BITS
        if stale.any():
            self._count(samples.slot[good & stale], Reason.NO_RECORDED_VALUE, "samples")
            index.end(part[good & stale], samples.time_ns[good & stale])
            good &= ~stale
        if not good.all():
            samples, part = samples.take(good), part[good]
        index.learn(part, samples.time_ns)
        return self._decide(self._without_repeats(self._by_point(samples, part)), now_ns)

    def _by_point(self, samples: HeldSamples, part: Int32s) -> _Sorted:
        """Samples of one point side by side, in the order of their parts; a part of a point once."""
        group, rank = self._index.group[part], self._index.rank[part]
        first_ns = int(samples.time_ns.min()) if len(part) else 0
        # Times are milliseconds.
        step = (samples.time_ns - first_ns) // _MS
        group_bits, rank_bits = len(self._index).bit_length(), self._index.ranks.bit_length()
        time_bits = int(step.max(initial=0)).bit_length()
        if group_bits + time_bits + rank_bits > _BITS:
            order = np.lexsort((rank, samples.time_ns, group))
            point = mix(group.astype(np.uint64), samples.time_ns.view(np.uint64))[order]
        else:
            # All three in one integer: sorting that is several times faster.
            packed = (group.astype(np.int64) << (time_bits + rank_bits)) | (step << rank_bits) | rank
            order = np.argsort(packed, kind="stable")
            point = (packed[order] >> rank_bits).view(np.uint64)
        by_point = _Sorted(samples.take(order), point, part[order])
        twice = np.zeros(len(part), np.bool_)
        twice[1:] = (point[1:] == point[:-1]) & (by_point.part[1:] == by_point.part[:-1])
        if not twice.any():
            return by_point
        self._count(by_point.samples.slot[twice], Reason.REPEATED, "samples")
        return by_point.take(~twice)

    def _without_repeats(self, by_point: _Sorted) -> _Sorted:
        """Samples of points that are not out already; what is dropped is counted by point."""
        time_ns, out_ns = by_point.samples.time_ns, self._index.out_ns[self._index.group[by_point.part]]
        over = time_ns <= out_ns
        if not over.any():
            return by_point
        heads = _heads(by_point.point)
        self._count(by_point.samples.slot[heads & (time_ns == out_ns)], Reason.REPEATED)
        self._count(by_point.samples.slot[heads & (time_ns < out_ns)], Reason.LATE_CUMULATIVE)
        return by_point.take(~over)

    def _decide(self, by_point: _Sorted, now_ns: int) -> HeldSamples:
        """Give what is whole, or will not become so; hold the rest."""
        samples, part, index = by_point.samples, by_point.part, self._index
        if not len(samples):
            self.held = samples
            return samples
        begins = np.flatnonzero(_heads(by_point.point))
        lengths = np.diff(np.append(begins, len(part)))
        group = index.group[part[begins]]
        known = np.add.reduceat(index.is_part[part].astype(np.int64), begins)
        give = (known == index.parts[group]) & index.begun[group]
        give_up = np.zeros(len(begins), np.bool_)
        first_ns = np.minimum.reduceat(samples.received_ns, begins)
        if not give.all():
            has = _Has.of(self._series, samples.slot, begins)
            waited_ns = now_ns - first_ns
            has_settled = (waited_ns >= self._settle_ns) | self._settles
            settled = ~give & ~index.begun[group] & has.all_kinds & has_settled
            late = ~give & ~settled & (waited_ns >= self._hold_ns)
            missing = late & has.count & (has.sum | ~index.had_sum[group])
            give |= settled | missing
            give_up = late & ~missing
            self._count(samples.slot[begins[missing]], Reason.BUCKETS_MISSING)
            index.shrink(group[missing], part[np.repeat(missing, lengths)])
        held = ~give & ~give_up
        over = int(lengths[held].sum()) - self._held_max
        if over > 0:
            oldest = np.flatnonzero(held)
            oldest = oldest[np.argsort(first_ns[oldest], kind="stable")]
            give_up[oldest[: int(np.searchsorted(np.cumsum(lengths[oldest]), over)) + 1]] = True
            held &= ~give_up
        self._count(samples.slot[begins[give_up]], Reason.PARTS_MISSING)
        index.give_out(group[give], samples.time_ns[begins[give]], now_ns)
        self.held = samples.take(np.repeat(held, lengths))
        self._settles = False
        return _one_start(samples.take(np.repeat(give, lengths)), lengths[give])

    def _count(self, slots: Int32s, reason: Reason, unit: str = "points") -> None:
        self._tally.places(self._series.places(slots), reason, unit)


@dataclass(frozen=True)
class _Has:
    """What each point has of what it needs."""

    count: Bools
    sum: Bools
    all_kinds: Bools

    @staticmethod
    def of(series: RemoteSeries, slots: Int32s, begins: Rows) -> _Has:
        role, bound = series.table.role[slots], series.table.bound[slots]

        def some(where: Bools) -> Bools:
            return np.logical_or.reduceat(where, begins)

        top = some((role == Role.BUCKET) & (bound == np.inf))
        count = some(role == Role.COUNT)
        total = some((role == Role.SUM) | (role == Role.SUMMARY_SUM))
        summary = some(role == Role.SUMMARY_COUNT)
        return _Has(top | count | summary, total, ((top & count) | summary) & total)


def _heads(point: UInt64s) -> Bools:
    heads = np.ones(len(point), np.bool_)
    heads[1:] = point[1:] != point[:-1]
    return heads


def _one_start(samples: HeldSamples, lengths: Int64s) -> HeldSamples:
    """The samples of a point have one start: the latest that any of them has."""
    if not samples.start_ns.any():
        return samples
    begins = np.cumsum(lengths) - lengths
    start_ns = np.repeat(np.maximum.reduceat(samples.start_ns, begins), lengths)
    return replace(samples, start_ns=start_ns)
