"""Rows of one lane and tenant on their way into envelopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from catchment.algebra.text import compact
from catchment.reach import Reach


@dataclass(frozen=True)
class LaneRows:
    """Rows of one lane, tenant and reach, and the digest of their points."""

    lane: str
    tenant: str
    table: pa.Table
    digest: int = 0
    reach: Reach = Reach.GLOBAL


def by_reach(rows: LaneRows, reach_of: Callable[[str], Reach]) -> list[LaneRows]:
    """Rows of metrics parted by how far each metric's go; the digest, which is of all together, goes with the first.

    Args:
        rows: of the lane ``metrics_cluster``.
        reach_of: the reach of a metric's name.
    """
    metrics = rows.table["metric"].unify_dictionaries().combine_chunks()
    reaches = [reach_of(name) for name in metrics.dictionary.to_pylist()]
    if len(set(reaches)) <= 1:
        return [replace(rows, reach=reach) for reach in reaches[:1]] or [rows]
    of_row = np.array([reach.value for reach in reaches])[metrics.indices.to_numpy()]
    parts = [
        LaneRows(rows.lane, rows.tenant, compact(rows.table.filter(of_row == reach.value)), reach=reach)
        for reach in Reach
        if np.any(of_row == reach.value)
    ]
    return [replace(parts[0], digest=rows.digest), *parts[1:]]
