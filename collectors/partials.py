"""Partial rows that wait for the next flush, by tenant, and the digests of their points.

Rules:
1. Rows are partials: what comes in several parts is merged now and then, so that a long flush stays about as small as
   its series, and merging costs each row a bounded number of times.
2. What policy asks for in wider windows is widened here, so that all before it knows of one width only.
3. Histograms of too many intervals get coarser as they are handed out: each flush would add others for ever. Each time
   is tallied, so a row that a failed flush puts back may be tallied again.
4. Digests are by place, treatment and window: rows that leave apart have digests of just them.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.algebra.merge import merge
from catchment.histogram import Histograms, coarsened
from catchment.windows import NANOSECONDS
from collectors.catalog import Catalog
from collectors.contributions import PARTIAL_COLUMNS, Rows
from collectors.reasons import HISTOGRAM_COARSENED
from collectors.tally import Tally
from collectors.widen import widened

Int64s = npt.NDArray[np.int64]
Digests = Counter[tuple[int, int, int]]

# Parts are merged once they have this many rows and three times what the last merge left.
_ROWS_MERGED_MIN = 131_072


class Partials:
    """The rows of one edge."""

    def __init__(self, catalog: Catalog, tally: Tally, window_seconds: int, intervals_max: int) -> None:
        self._catalog = catalog
        self._tally = tally
        self._window_seconds = window_seconds
        self._intervals_max = intervals_max
        self._rows: dict[str, list[pa.Table]] = {}
        self._digests: Digests = Counter()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._rows)

    def drain(self) -> tuple[dict[str, pa.Table], Digests]:
        """Hand out the rows of each tenant, merged, and the digests by place, treatment and window."""
        rows = {tenant: self._bounded(_merged(parts)) for tenant, parts in self._rows.items()}
        digests = self._digests
        self._rows, self._digests, self.size_bytes = {}, Counter(), 0
        return rows, digests

    def put_back(self, rows: dict[str, pa.Table], digests: Digests) -> None:
        """Take back what was drained."""
        for tenant, table in rows.items():
            self._rows.setdefault(tenant, []).append(table)
            self.size_bytes += table.nbytes
        self._add_digests(digests)

    def add(self, rows: Rows) -> None:
        """Take rows in, of any tenants."""
        slots = rows.series.astype(np.int64)
        # A place and a treatment as one integer.
        treatments, codes = len(self._catalog.treatments), self._catalog.treatments_of(slots)
        groups = self._catalog.places_of(slots).astype(np.int64) * treatments + codes
        widths = np.array([each.width_seconds(self._window_seconds) for each in self._catalog.treatments])[codes]
        is_wider = widths > self._window_seconds
        table = widened(rows.table, widths) if is_wider.any() else rows.table
        windows_ns = table["window_start_ns"].to_numpy()
        group_of_pair, window_of_pair, inverse = pairs_of(groups, windows_ns, self._window_seconds)
        digests = np.zeros(len(group_of_pair), np.uint64)
        np.add.at(digests, inverse, rows.digest)
        of_pair_place, of_pair_treatment = np.divmod(group_of_pair, treatments)
        place_of_pair = of_pair_place.tolist()
        keys = zip(place_of_pair, of_pair_treatment.tolist(), window_of_pair.tolist(), strict=True)
        self._add_digests(Counter(dict(zip(keys, digests.tolist(), strict=True))))
        tenants = np.array([self._catalog.places[place].tenant for place in place_of_pair])
        distinct, of_pair = np.unique(tenants, return_inverse=True)
        for code, tenant in enumerate(distinct.tolist()):
            of_tenant = np.ones(len(slots), np.bool_) if len(distinct) == 1 else of_pair[inverse] == code
            self._add_part(tenant, _folded(table, of_tenant, is_wider))

    def _bounded(self, table: pa.Table) -> pa.Table:
        maps = table["histogram"].combine_chunks()
        offsets = maps.offsets.to_numpy().astype(np.int64)
        if not len(table) or np.diff(offsets).max() <= self._intervals_max:
            return table
        histograms = Histograms(offsets, maps.keys.to_numpy(), maps.items.to_numpy())
        (offsets, keys, counts), is_coarser = coarsened(histograms, self._intervals_max)
        series = table["series_id"].to_numpy()[is_coarser].astype(np.int64)
        self._tally.rows(self._catalog.places_of(series), HISTOGRAM_COARSENED)
        coarser = pa.MapArray.from_arrays(
            pa.array(offsets.astype(np.int32)), pa.array(keys), pa.array(counts), type=maps.type
        )
        at = table.schema.get_field_index("histogram")
        # With its own field: what a failed flush puts back stands beside tables of the same schema.
        return table.set_column(at, table.schema.field(at), coarser)

    def _add_part(self, tenant: str, table: pa.Table) -> None:
        parts = self._rows.setdefault(tenant, [])
        parts.append(table)
        self.size_bytes += table.nbytes
        # The first part is what the last merge left.
        if sum(part.num_rows for part in parts) > max(_ROWS_MERGED_MIN, 3 * parts[0].num_rows):
            self._rows[tenant] = [_merged(parts)]
            self.size_bytes += self._rows[tenant][0].nbytes - sum(part.nbytes for part in parts)

    def _add_digests(self, digests: Digests) -> None:
        for key, digest in digests.items():
            self._digests[key] = (self._digests[key] + digest) % 2**64


def pairs_of(groups: Int64s, windows_ns: Int64s, window_seconds: int) -> tuple[Int64s, Int64s, Int64s]:
    """The distinct pairs of group and window: the group of each, the start of its window, and the pair of each row.

    Args:
        groups: not negative.
        windows_ns: starts of windows of ``window_seconds``, or of some multiples of that.
    """
    first_ns, width_ns = int(windows_ns.min()), window_seconds * NANOSECONDS
    windows = (windows_ns - first_ns) // width_ns
    count = int(windows.max()) + 1
    # As one integer; numbered densely, which beats sorting, unless windows lie far apart.
    pairs, of_row = _numbered(groups * count + windows)
    group_of_pair, window_of_pair = np.divmod(pairs, count)
    return group_of_pair, window_of_pair * width_ns + first_ns, of_row


def _numbered(values: Int64s) -> tuple[Int64s, Int64s]:
    """The distinct non-negative values, ascending, and the number of each value among them."""
    size = int(values.max()) + 1
    if size > 4 * len(values) + 65_536:
        return np.unique(values, return_inverse=True)
    used = np.zeros(size, np.bool_)
    used[values] = True
    numbers: Int64s = (np.cumsum(used) - 1)[values]
    return np.flatnonzero(used), numbers


def _folded(table: pa.Table, chosen: npt.NDArray[np.bool_], is_wider: npt.NDArray[np.bool_]) -> pa.Table:
    """The chosen rows; of those in wider windows one a series and window."""
    folding = chosen & is_wider
    if not folding.any():
        return table if chosen.all() else table.filter(chosen)
    return pa.concat_tables([table.filter(chosen & ~is_wider), merge(table.filter(folding), PARTIAL_COLUMNS)])


def _merged(tables: list[pa.Table]) -> pa.Table:
    if len(tables) == 1:
        return tables[0]
    return merge(pa.concat_tables(tables), PARTIAL_COLUMNS)
