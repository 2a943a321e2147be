"""What points add to rows: contributions, and their sum by (series, window).

The lane modules (`numbers`, `histograms`, `summaries`) turn points into contributions; `Contributions.rows` adds them
up into the columns of `catchment.columns.METRICS_CLUSTER`, one row a series and window. Additions are exact for
integers: sums of 64-bit integers are kept as two halves of 32 bits until they become a decimal.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.columns import LANES, METRICS_CLUSTER
from catchment.histogram import Histograms, concat_histograms, sum_by_group, take_histograms
from collectors.catalog import TEXT_COLUMNS, Catalog

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Float64s = npt.NDArray[np.float64]
Series = npt.NDArray[np.int32]

# A table of (series x windows) cells is used while it has at most this many cells for each contribution.
_DENSE_CELLS_PER_ITEM = 4


@dataclass(frozen=True)
class Exemplar:
    """Exemplars of points, one row each; ids as lower-case hex."""

    value: Float64s
    time_ns: Int64s
    trace_id: list[str]
    span_id: list[str]


@dataclass(frozen=True)
class Contribution:
    """What some points add, one row each; None is neutral.

    Columns:
        series: catalog slot
        window_ns: start of the window
        points: 1 where the row stands for an accepted point
        digest: hash of the accepted point
        count, sum_int, sum_float: added
        min, max: NaN is neutral
        last: (time_ns, value), the largest wins
        integral, observed_seconds: of held gauge values
        histograms: added by interval
        exemplars: the largest wins
    """

    series: Series
    window_ns: Int64s
    points: bool = False
    digest: UInt64s | None = None
    count: UInt64s | None = None
    sum_int: Int64s | None = None
    sum_float: Float64s | None = None
    min: Float64s | None = None
    max: Float64s | None = None
    last: tuple[Int64s, Float64s] | None = None
    integral: Float64s | None = None
    observed_seconds: Float64s | None = None
    histograms: Histograms | None = None
    exemplars: Exemplar | None = None


# Rows inside the edge name their series by its catalog slot; the texts come when rows leave (`named`).
PARTIAL_COLUMNS = tuple(c for c in METRICS_CLUSTER if c.name not in TEXT_COLUMNS)
_PARTIAL_SCHEMA = pa.schema([column.field for column in PARTIAL_COLUMNS])


def named(partials: pa.Table, catalog: Catalog) -> pa.Table:
    """Rows of the lane, from rows that name their series by slot."""
    schema = LANES["metrics_cluster"].schema
    keys = catalog.key_columns(partials["series_id"].to_numpy().astype(np.int64))
    columns = [keys[name] if name in keys else partials[name] for name in schema.names]
    return pa.table(columns, schema=schema)


@dataclass
class Contributions:
    """Contributions of one chunk of points."""

    window_seconds: int
    items: list[Contribution] = field(default_factory=list)

    def add(self, contribution: Contribution) -> None:
        """Take a contribution along."""
        if len(contribution.series):
            self.items.append(contribution)

    def rows(self) -> Rows | None:
        """Add everything up; None if there is nothing."""
        if not self.items:
            return None
        series = np.concatenate([item.series for item in self.items])
        window_ns = np.concatenate([item.window_ns for item in self.items])
        groups, codes = _groups(series, window_ns, self.window_seconds)
        columns = _Columns(len(groups.series))
        start = 0
        for item in self.items:
            end = start + len(item.series)
            columns.add(item, codes[start:end])
            start = end
        return Rows(
            groups.series,
            columns.table(groups, self.window_seconds),
            columns.digest,
        )


@dataclass(frozen=True)
class Rows:
    """Rows in the schema of `PARTIAL_COLUMNS`, with the catalog slot of their series and the digest of their points."""

    series: Series
    table: pa.Table
    digest: UInt64s


@dataclass(frozen=True)
class _Groups:
    series: Series
    window_ns: Int64s


def _groups(series: Series, window_ns: Int64s, window_seconds: int) -> tuple[_Groups, Int64s]:
    """The distinct (series, window) pairs and each item's index into them."""
    width_ns = window_seconds * 1_000_000_000
    first = int(window_ns.min())
    window = (window_ns - first) // width_ns
    windows = int(window.max()) + 1
    series_count = int(series.max()) + 1
    if windows * series_count <= _DENSE_CELLS_PER_ITEM * len(series) + 65_536:
        cell = series * np.int64(windows) + window
        used = np.zeros(windows * series_count, np.bool_)
        used[cell] = True
        cells = np.flatnonzero(used)
        codes = (np.cumsum(used) - 1)[cell]
    else:
        # Windows far apart (late data): the cells are numbered through the windows that occur.
        distinct, window_rank = np.unique(window, return_inverse=True)
        cells, codes = np.unique(series * np.int64(len(distinct)) + window_rank, return_inverse=True)
        chosen, rank = np.divmod(cells, np.int64(len(distinct)))
        return _Groups(chosen.astype(np.int32), first + distinct[rank] * width_ns), codes
    chosen, window_of = np.divmod(cells, np.int64(windows))
    return _Groups(chosen.astype(np.int32), first + window_of * width_ns), codes


class _Columns:
    """The value columns of some groups."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self.points = np.zeros(groups, np.uint64)
        self.digest: UInt64s = np.zeros(groups, np.uint64)
        self.count = np.zeros(groups, np.uint64)
        self.sum_high = np.zeros(groups, np.int64)
        self.sum_low = np.zeros(groups, np.int64)
        self.sum_float = np.zeros(groups)
        self.min = np.full(groups, np.nan)
        self.max = np.full(groups, np.nan)
        self.last_time_ns = np.full(groups, np.iinfo(np.int64).min)
        self.last_value = np.full(groups, -np.inf)
        self.integral = np.zeros(groups)
        self.observed_seconds = np.zeros(groups)
        self._histograms: list[tuple[Histograms, Int64s]] = []
        self._exemplars: list[tuple[Exemplar, Int64s]] = []

    def add(self, item: Contribution, codes: Int64s) -> None:
        if item.points:
            np.add.at(self.points, codes, np.uint64(1))
        if item.digest is not None:
            np.add.at(self.digest, codes, item.digest)
        if item.count is not None:
            np.add.at(self.count, codes, item.count)
        if item.sum_int is not None:
            np.add.at(self.sum_high, codes, item.sum_int >> 32)
            np.add.at(self.sum_low, codes, item.sum_int & 0xFFFFFFFF)
        for name in ("sum_float", "integral", "observed_seconds"):
            values = getattr(item, name)
            if values is not None:
                np.add.at(getattr(self, name), codes, values)
        if item.min is not None:
            np.fmin.at(self.min, codes, item.min)
        if item.max is not None:
            np.fmax.at(self.max, codes, item.max)
        if item.last is not None:
            self._add_last(*item.last, codes)
        if item.histograms is not None:
            self._histograms.append((item.histograms, codes))
        if item.exemplars is not None:
            self._exemplars.append((item.exemplars, codes))

    def _add_last(self, time_ns: Int64s, value: Float64s, codes: Int64s) -> None:
        before = self.last_time_ns.copy()
        np.maximum.at(self.last_time_ns, codes, time_ns)
        self.last_value[self.last_time_ns > before] = -np.inf
        latest = time_ns == self.last_time_ns[codes]
        np.maximum.at(self.last_value, codes[latest], value[latest])

    def table(self, groups: _Groups, window_seconds: int) -> pa.Table:
        schema = _PARTIAL_SCHEMA
        n = self._groups
        has_last = self.last_time_ns > np.iinfo(np.int64).min
        offsets, keys, counts = self._histogram_maps()
        columns: dict[str, pa.Array] = {
            "window_start_ns": pa.array(groups.window_ns),
            "window_seconds": pa.array(np.full(n, window_seconds, np.uint32)),
            "series_id": pa.array(groups.series.astype(np.uint64)),
            "points": pa.array(self.points),
            "count": pa.array(self.count),
            "sum_int": _decimals(self.sum_high, self.sum_low),
            "sum_float": pa.array(self.sum_float),
            "min": pa.array(self.min, from_pandas=True),
            "max": pa.array(self.max, from_pandas=True),
            "last_time_ns": pa.array(self.last_time_ns, mask=~has_last),
            "last_value": pa.array(self.last_value, mask=~has_last),
            "integral": pa.array(self.integral),
            "observed_seconds": pa.array(self.observed_seconds),
            "histogram": pa.MapArray.from_arrays(
                pa.array(offsets.astype(np.int32)),
                pa.array(keys),
                pa.array(counts),
                type=schema.field("histogram").type,
            ),
            **self._exemplar_columns(),
        }
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _histogram_maps(self) -> Histograms:
        """One map a group. Each part is summed by itself first: its histograms are of one kind, and often alike."""
        sums = [sum_by_group(*part, codes, self._groups) for part, codes in self._histograms]
        if len(sums) == 1:
            return sums[0]
        if not sums:
            return Histograms(np.zeros(self._groups + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))
        filled = [np.flatnonzero(np.diff(part.offsets)) for part in sums]
        joined = concat_histograms([take_histograms(part, rows) for part, rows in zip(sums, filled, strict=True)])
        return sum_by_group(*joined, np.concatenate(filled), self._groups)

    def _exemplar_columns(self) -> dict[str, pa.Array]:
        best: dict[int, tuple[float, int, str, str]] = {}
        # A loop, but only over exemplars, of which senders keep a handful a series.
        for exemplar, codes in self._exemplars:
            for candidate in zip(
                codes.tolist(),
                zip(
                    exemplar.value.tolist(), exemplar.time_ns.tolist(), exemplar.trace_id, exemplar.span_id, strict=True
                ),
                strict=True,
            ):
                code, row = candidate
                if code not in best or row > best[code]:
                    best[code] = row
        at = np.full(self._groups, -1, np.int64)
        at[list(best)] = np.arange(len(best))
        index = pa.array(at, mask=at < 0)
        rows = list(best.values())
        names = ("exemplar_value", "exemplar_time_ns", "exemplar_trace_id", "exemplar_span_id")
        types = (pa.float64(), pa.int64(), pa.string(), pa.string())
        return {
            name: pa.array([row[i] for row in rows], type_).take(index)
            for i, (name, type_) in enumerate(zip(names, types, strict=True))
        }


def _decimals(high: Int64s, low: Int64s) -> pa.Array:
    """high x 2^32 + low as decimal128(38, 0), little-endian two's complement."""
    with np.errstate(over="ignore"):
        carried = high + (low >> 32)
        words = np.empty((len(high), 2), np.int64)
        words[:, 0] = (carried << 32) | (low & 0xFFFFFFFF)
        words[:, 1] = carried >> 32
    return pa.Array.from_buffers(pa.decimal128(38, 0), len(high), [None, pa.py_buffer(words)])
