"""Staged points: decoded, checked and identified, ready to be applied once their requests are durable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from catchment.histogram import Histograms, explicit_keys, exponential_keys, take_histograms
from catchment.limits import Limits
from collectors.contributions import Exemplar
from collectors.decode.points import Buckets, Decoded, Points, Shape
from collectors.histograms import HistogramPoints
from collectors.identify import Identifier
from collectors.kinds import Kind
from collectors.numbers import NumberPoints
from collectors.reasons import Reason
from collectors.remote_write import StagedWrites
from collectors.validate import no_recorded_value, validate

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp] | slice

_TRACE_ID_BYTES = 16
_SPAN_ID_BYTES = 8
# Kinds that alternate more often are sorted out by their rows.
_RUNS_MAX = 8


@dataclass
class Staged:
    """Points of some requests by kind, and what is to be counted with them; ``buckets`` are those of histograms.

    ``writes`` are of remote write: their samples become points once they are applied.
    """

    numbers: dict[Kind, list[NumberPoints]] = field(default_factory=dict)
    histograms: dict[Kind, list[HistogramPoints]] = field(default_factory=dict)
    exemplars: list[tuple[Int32s, Int64s, Exemplar]] = field(default_factory=list)
    writes: list[StagedWrites] = field(default_factory=list)
    tally: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    points: int = 0
    buckets: int = 0
    refused: list[Counter[Reason]] = field(default_factory=list)

    def lives(self) -> Iterator[Int32s]:
        """The lives that the points name by row."""
        for numbers in self.numbers.values():
            yield from (part.life for part in numbers)
        for histograms in self.histograms.values():
            yield from (part.life for part in histograms)
        yield from (life for life, _, _ in self.exemplars)

    def follow(self, moved: Int32s) -> None:
        """Name the lives by their new rows; see `Lives.evict`."""
        for kind, numbers in self.numbers.items():
            self.numbers[kind] = [replace(part, life=moved[part.life]) for part in numbers]
        for kind, histograms in self.histograms.items():
            self.histograms[kind] = [replace(part, life=moved[part.life]) for part in histograms]
        self.exemplars = [(moved[life], instant_ns, exemplar) for life, instant_ns, exemplar in self.exemplars]

    def take_in(self, other: Staged) -> None:
        """Add another's points; `refused` stays."""
        for kind, numbers in other.numbers.items():
            self.numbers.setdefault(kind, []).extend(numbers)
        for kind, histograms in other.histograms.items():
            self.histograms.setdefault(kind, []).extend(histograms)
        self.exemplars.extend(other.exemplars)
        self.writes.extend(other.writes)
        self.tally.update(other.tally)
        self.points += other.points
        self.buckets += other.buckets


def stage(
    decoded: Decoded, places: Int32s, received_ns: Int64s | None, identifier: Identifier, limits: Limits
) -> Staged:
    """Check and identify all points of some requests.

    Args:
        decoded: the requests.
        places: catalog slot of each request's place.
        received_ns: when each request came; None if times were checked.
        identifier: finds lives, and makes those of new streams.
        limits: bounds.
    """
    staged = Staged(refused=[Counter() for _ in range(decoded.requests)])
    codes = [validate(points, received_ns, limits) for points in decoded.points]
    identified = identifier.identify(decoded, places, [code == Reason.OK for code in codes])
    for (place, reason), count in identified.notes.items():
        staged.tally[place, reason.text, "streams"] += count
    for i, points in enumerate(decoded.points):
        _stage_shape(staged, points, codes[i], identified.lives[i], places)
    return staged


def _stage_shape(
    staged: Staged,
    points: Points,
    codes: npt.NDArray[np.uint8],
    lives: Int32s,
    places: Int32s,
) -> None:
    unusable = (codes == Reason.OK) & (lives < 0)
    codes[unusable] = -lives[unusable]
    if codes.any():
        _count_refusals(staged, codes, points.request, places)
    good = codes == Reason.OK
    staged.points += int(good.sum())
    for kind, rows in _by_kind(points.kind, good):
        if points.shape is Shape.NUMBER:
            staged.numbers.setdefault(kind, []).append(_numbers(points, lives, rows))
        else:
            histograms = _histograms(points, lives, rows)
            staged.histograms.setdefault(kind, []).append(histograms)
            staged.buckets += len(histograms.histograms.keys)
    if points.quantiles is not None:
        for place, count in enumerate(
            np.bincount(places[points.request], points.quantiles * good).astype(int).tolist()
        ):
            if count:
                staged.tally[place, Reason.SUMMARY_QUANTILES.text, "values"] += count
    _stage_exemplars(staged, points, lives, good)


def _by_kind(kinds: Int32s, good: npt.NDArray[np.bool_]) -> Iterator[tuple[Kind, Rows]]:
    """The good rows of each kind; usually all rows are good and lie by kind, and nothing has to be copied."""
    if good.all():
        ends = [*(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist(), len(kinds)]
        if len(ends) <= _RUNS_MAX:
            for start, end in zip([0, *ends], ends, strict=False):
                yield Kind(int(kinds[start])), slice(start, end)
            return
    for kind in np.unique(kinds[good]).tolist():
        yield Kind(kind), np.flatnonzero(good & (kinds == kind))


def _count_refusals(staged: Staged, codes: npt.NDArray[np.uint8], request: Int32s, places: Int32s) -> None:
    bad = np.flatnonzero(codes)
    pairs, counts = np.unique(np.stack([request[bad], codes[bad].astype(np.int32)]), axis=1, return_counts=True)
    for row, code, count in zip(pairs[0].tolist(), pairs[1].tolist(), counts.tolist(), strict=True):
        reason = Reason(code)
        staged.tally[int(places[row]), reason.text, "points"] += count
        if reason.refused:
            staged.refused[row][reason] += count


def _numbers(points: Points, lives: Int32s, rows: Rows) -> NumberPoints:
    return NumberPoints(
        life=lives[rows],
        start_ns=points.start_ns[rows],
        time_ns=points.time_ns[rows],
        value_int=points.number_int[rows],
        value_float=points.number_float[rows],
        is_int=points.is_int[rows],
        ends=no_recorded_value(points)[rows],
    )


def _histograms(points: Points, lives: Int32s, rows: Rows) -> HistogramPoints:
    if isinstance(rows, slice):
        rows = slice(None) if rows == slice(0, len(points)) else np.arange(rows.start, rows.stop)
    n = len(points) if isinstance(rows, slice) else len(rows)
    histograms = Histograms(np.zeros(n + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))
    scale, zero_threshold = np.zeros(n, np.int32), np.zeros(n)
    if points.buckets is not None:
        intervals = _intervals(points, points.buckets)
        histograms = intervals if isinstance(rows, slice) else take_histograms(intervals, rows)
        # Scales finer than 5 are folded already: the fold of a baseline begins there.
        scale = np.minimum(points.buckets.scale[rows], 5)
        zero_threshold = points.buckets.zero_threshold[rows]
    return HistogramPoints(
        life=lives[rows],
        start_ns=points.start_ns[rows],
        time_ns=points.time_ns[rows],
        count=points.count[rows],
        sum=points.sum[rows],
        min=np.where(np.isfinite(points.min[rows]), points.min[rows], np.nan),
        max=np.where(np.isfinite(points.max[rows]), points.max[rows], np.nan),
        scale=scale,
        zero_threshold=zero_threshold,
        bounds_vary=np.full(n, points.bounds_vary),
        resets=np.zeros(n, np.bool_) if points.resets is None else points.resets[rows],
        histograms=histograms,
    )


def _intervals(points: Points, buckets: Buckets) -> Histograms:
    """The buckets of all points of a shape as intervals; malformed points give something, and are left out later."""
    if points.shape is Shape.EXPONENTIAL:
        return exponential_keys(
            np.clip(buckets.scale, -10, 20),
            np.where(np.isfinite(buckets.zero_threshold), np.abs(buckets.zero_threshold), 0.0),
            buckets.zero_count,
            buckets.positive_start,
            buckets.offsets,
            buckets.counts,
            buckets.negative_start,
            buckets.negative_offsets,
            buckets.negative_counts,
        )
    offsets, keys = explicit_keys(buckets.bound_offsets, buckets.bounds)
    counts_of, keys_of = np.diff(buckets.offsets), np.diff(offsets)
    if (counts_of == keys_of).all():
        return Histograms(offsets, keys, buckets.counts)
    # Points without buckets have all of their count in (-inf, +inf]; of malformed ones nothing is kept.
    counts = np.zeros(len(keys), np.uint64)
    whole = np.flatnonzero((counts_of == 0) & (keys_of == 1))
    counts[offsets[whole]] = points.count[whole]
    fits = np.flatnonzero((counts_of == keys_of) & (counts_of > 0))
    lengths = counts_of[fits]
    step = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    counts[np.repeat(offsets[fits], lengths) + step] = buckets.counts[np.repeat(buckets.offsets[fits], lengths) + step]
    return Histograms(offsets, keys, counts)


def _stage_exemplars(staged: Staged, points: Points, lives: Int32s, good: npt.NDArray[np.bool_]) -> None:
    exemplars = points.exemplars
    if exemplars is None:
        return
    rows = np.flatnonzero(good[exemplars.point] & np.isfinite(exemplars.value))
    if len(rows):
        point = exemplars.point[rows]
        # An exemplar stands in the row of its point, whatever its own time.
        instant_ns = points.time_ns[point] + (points.kind[point] == Kind.GAUGE)
        staged.exemplars.append(
            (
                lives[point],
                instant_ns,
                Exemplar(
                    exemplars.value[rows],
                    exemplars.time_ns[rows],
                    _hex(exemplars.trace_ids.take(rows).to_pylist(), _TRACE_ID_BYTES),
                    _hex(exemplars.span_ids.take(rows).to_pylist(), _SPAN_ID_BYTES),
                ),
            )
        )


def _hex(ids: list[bytes], size_bytes: int) -> list[str]:
    """Ids as text; what has another length is no id, and could be of any size."""
    return [raw.hex() if len(raw) == size_bytes else "" for raw in ids]


def refusal_message(refused: Counter[Reason], meanings: dict[Reason, str]) -> str:
    """What a sender is told of its refused points."""
    parts: Sequence[str] = [f"{count} {reason.text}: {meanings[reason]}" for reason, count in refused.most_common()]
    return "; ".join(parts)
