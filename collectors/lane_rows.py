"""Rows of one lane and tenant on their way into envelopes; metric rows parted by how they leave."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

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

    ``policy_version`` is that of envelopes that the rows were in before; "" for the one in force. ``flush_seconds`` is
    how often they leave; 0 for with each flush.
    """

    lane: str
    tenant: str
    table: pa.Table
    digest: int = 0
    reach: Reach = Reach.GLOBAL
    policy_version: str = ""
    flush_seconds: float = 0.0


_Digests = Counter[tuple[str, int, int]]


def metric_lanes(drained: Drained, catalog: Catalog, *, window_seconds: int, reach: Reach) -> list[LaneRows]:
    """Rows of metrics by tenant, reach and how often they leave, and the control totals of those that leave together.

    Args:
        drained: see `Edge.drain`.
        catalog: what its slots mean.
        window_seconds: the resolution.
        reach: of cluster rows of which policy says nothing else.
    """
    lanes = []
    digests_of = _digests_by_tenant(drained, catalog, window_seconds)
    for tenant, table in drained.rows.items():
        codes = catalog.treatments_of(drained.partials[tenant]["series_id"].to_numpy().astype(np.int64))
        digests = digests_of[tenant]
        parts: dict[float, dict[Reach, list[int]]] = defaultdict(lambda: defaultdict(list))
        for code in np.unique(codes).tolist():
            treatment = catalog.treatments[code]
            parts[treatment.flush_seconds or 0.0][treatment.reach or reach].append(code)
        for flush_seconds, by_reach in parts.items():
            together: _Digests = Counter()
            of_flush = []
            for of_reach, members in by_reach.items():
                alone = len(parts) == len(by_reach) == 1
                rows = table if alone else compact(table.filter(np.isin(codes, members)))
                digest = sum(sum(digests[code].values()) for code in members) % 2**64
                of_flush.append(
                    LaneRows("metrics_cluster", tenant, rows, digest, of_reach, flush_seconds=flush_seconds)
                )
                for code in members:
                    together.update(digests[code])
            all_rows = pa.concat_tables([lane.table for lane in of_flush])
            lanes += [*of_flush, replace(_totals(tenant, all_rows, together), flush_seconds=flush_seconds)]
    return lanes


def _digests_by_tenant(drained: Drained, catalog: Catalog, window_seconds: int) -> dict[str, dict[int, _Digests]]:
    """Digests by tenant and treatment, then by cluster, start and width of windows."""
    digests: dict[str, dict[int, _Digests]] = defaultdict(lambda: defaultdict(Counter))
    for (place, code, window_start_ns), digest in drained.digests.items():
        where = catalog.places[place]
        width_seconds = catalog.treatments[code].width_seconds(window_seconds)
        digests[where.tenant][code][where.cluster, window_start_ns, width_seconds] = digest
    return digests


def _totals(tenant: str, table: pa.Table, digests: _Digests) -> LaneRows:
    """Control totals of some of a tenant's metric rows, with the digests by cluster and window."""
    keys = ["window_start_ns", "window_seconds", "cluster"]
    columns = table.select([*keys, "points"])
    columns = columns.set_column(2, "cluster", columns["cluster"].cast(pa.string()))
    frame = (
        pl.DataFrame(columns).group_by(keys, maintain_order=True).agg(pl.col("points").sum(), pl.len().alias("rows"))
    )
    of_rows = zip(frame["cluster"], frame["window_start_ns"], frame["window_seconds"], strict=True)
    rows = frame.with_columns(
        pl.lit("metrics").alias("lane"),
        pl.Series("digest", [digests[key] % 2**64 for key in of_rows], pl.UInt64),
    ).to_arrow()
    schema = LANES["totals"].schema
    table = pa.table([rows[name].cast(schema.field(name).type) for name in schema.names], schema=schema)
    return LaneRows("totals", tenant, table, sum(digests.values()) % 2**64)
