"""Overflow: sums of finite floats that left the range of a float, found after a merge.

A sum beyond 1.8e308 is infinite, and one of infinities of both signs is NaN: absorbing, so that the merge stays
associative and no later row can hide it. Which rows overflowed may depend on the order of the rows (1e308 + 1e308 -
1e308); that one did is never silent: whoever merges asks here, and counts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from catchment.algebra.merge import group_by_key
from catchment.columns import Column, Merge


def overflowed(before: pa.Table, after: pa.Table, columns: tuple[Column, ...]) -> pa.Table:
    """The rows of ``after`` = ``merge(before, columns)`` that hold a sum that is not finite, of rows that were."""
    names = [c.name for c in columns if c.merge is Merge.SUM and pa.types.is_floating(c.arrow_type)]
    found = _not_finite(after, names)
    if not found.num_rows:
        return found
    known = _not_finite(before, names).select(found.column_names)
    groups = group_by_key(pa.concat_tables([found, known]), columns)
    was_known = np.zeros(groups.groups, np.bool_)
    was_known[groups.group_of[found.num_rows :]] = True
    return found.filter(pa.array(~was_known[groups.group_of[: found.num_rows]]))


def _not_finite(rows: pa.Table, names: list[str]) -> pa.Table:
    """The rows in which one of the columns is infinite or NaN."""
    bad = np.zeros(rows.num_rows, np.bool_)
    for name in names:
        bad |= ~np.isfinite(rows[name].to_numpy())
    return rows.filter(pa.array(bad)) if bad.any() else rows.slice(0, 0)
