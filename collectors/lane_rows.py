"""Rows of one lane and tenant on their way into envelopes; metric rows parted by how they leave."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from catchment.algebra.text import compact
from catchment.columns import LANES
from catchment.reach import Reach
from collectors.catalog import Catalog
from collectors.edge import Drained


@dataclass(frozen=True)
class LaneRows:
    """Rows of one lane, tenant and reach, and the digest of their points.

    ``policy_version`` is that of envelopes that the rows were in before; "" for the one in force.
    """

    lane: str
    tenant: str
    table: pa.Table
    digest: int = 0
    reach: Reach = Reach.GLOBAL
    policy_version: str = ""


_Digests = dict[tuple[str, int], int]


def metric_lanes(drained: Drained, catalog: Catalog, *, window_seconds: int, reach: Reach) -> list[LaneRows]:
    """Rows of metrics by tenant and reach, and the control totals of each tenant's.

    Args:
        drained: see `Edge.drain`.
        catalog: what its slots mean.
        window_seconds: the resolution.
        reach: of cluster rows of which policy says nothing else.
    """
    lanes = []
    for tenant, table in drained.rows.items():
        codes = catalog.treatments_of(drained.partials[tenant]["series_id"].to_numpy().astype(np.int64))
        digests = _digests_of(drained, catalog, tenant)
        parts: dict[Reach, list[int]] = defaultdict(list)
        for code in np.unique(codes).tolist():
            parts[catalog.treatments[code].reach or reach].append(code)
        for of_reach, members in parts.items():
            rows = table if len(parts) == 1 else compact(table.filter(np.isin(codes, members)))
            digest = sum(sum(digests[code].values()) for code in members) % 2**64
            lanes.append(LaneRows("metrics_cluster", tenant, rows, digest, of_reach))
        merged: Counter[tuple[str, int]] = Counter()
        for of_code in digests.values():
            merged.update(of_code)
        lanes.append(_totals(tenant, table, {key: digest % 2**64 for key, digest in merged.items()}))
    return lanes


def _digests_of(drained: Drained, catalog: Catalog, tenant: str) -> dict[int, _Digests]:
    """A tenant's digests by treatment, then by cluster and window."""
    digests: dict[int, _Digests] = defaultdict(dict)
    for (place, treatment, window_start_ns), digest in drained.digests.items():
        where = catalog.places[place]
        if where.tenant == tenant:
            digests[treatment][where.cluster, window_start_ns] = digest
    return digests


def _totals(tenant: str, table: pa.Table, digests: Mapping[tuple[str, int], int]) -> LaneRows:
    """Control totals of a tenant's metric rows, with the digests by cluster and window."""
    keys = ["window_start_ns", "window_seconds", "cluster"]
    columns = table.select([*keys, "points"])
    columns = columns.set_column(2, "cluster", columns["cluster"].cast(pa.string()))
    frame = (
        pl.DataFrame(columns).group_by(keys, maintain_order=True).agg(pl.col("points").sum(), pl.len().alias("rows"))
    )
    rows = frame.with_columns(
        pl.lit("metrics").alias("lane"),
        pl.Series(
            "digest",
            [digests.get(pair, 0) for pair in zip(frame["cluster"], frame["window_start_ns"], strict=True)],
            pl.UInt64,
        ),
    ).to_arrow()
    schema = LANES["totals"].schema
    table = pa.table([rows[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
    return LaneRows("totals", tenant, table, sum(digests.values()) % 2**64)
