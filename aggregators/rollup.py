"""Roll-up: decoded envelopes of one input partition become messages of the next tier. Pure: no clock, no I/O.

Rules:

1. One tenant and one region per output, as in every envelope; outputs come sorted by tenant, region and lane.
2. Cluster rows of metrics go out twice: merged as they are (``metrics_cluster``), and without the cluster
   (``metrics_region``). All other lanes are merged and go out as they are. Lanes that nobody asked for stay here: a
   zone's aggregator sends on cluster rows only, a large fleet's region sends on region rows only.
3. Σ points in = Σ points out for either table, else `Bug`: nothing is published that does not add up.
4. An output's digest is the Σ of its inputs' digests mod 2^64. Where rows are split over several outputs the first
   carries it, so that digests add up over messages.
5. An output has at most ``rows_max`` rows and, encoded, ``bytes_max`` bytes: a message is one insert, which the loader
   neither splits nor combines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa

from catchment.algebra.merge import merge, to_region
from catchment.algebra.text import compact
from catchment.columns import GLOBAL_LANES, LANES
from catchment.envelope import ControlTotals, Envelope, encode, seal
from catchment.errors import Bug

ROWS_MAX = 500_000


def roll_up(
    envelopes: Iterable[Envelope],
    *,
    producer: str,
    sequence: int,
    lanes: Collection[str] = GLOBAL_LANES,
    rows_max: int = ROWS_MAX,
) -> list[Envelope]:
    """Merge the envelopes of one partition.

    Args:
        envelopes: what a linger collected, of any lanes, tenants and regions.
        producer: the log and partition that were read, as text; further parts of one table get "/1", "/2" … behind it.
        sequence: the input position that the outputs are published with.
        lanes: the tables to make.
        rows_max: most rows of one output.

    Raises:
        Bug: points in differ from points out.
    """
    collected: dict[tuple[str, str, str], list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        header = envelope.header
        collected[header.tenant, header.region, header.lane].append(envelope)
    outputs = []
    for (tenant, region, lane), inputs in sorted(collected.items()):
        totals = sum((envelope.header.totals for envelope in inputs), ControlTotals())
        for output_lane, rows in _merged(lane, inputs, totals.points, lanes):
            whole = seal(
                output_lane,
                rows,
                tenant=tenant,
                region=region,
                producer=producer,
                sequence=sequence,
                policy_version=max(envelope.header.policy_version for envelope in inputs),
                digest=totals.digest,
            )
            outputs += _cut(whole, rows_max)
    return outputs


def encode_bounded(envelope: Envelope, bytes_max: int) -> list[tuple[Envelope, bytes]]:
    """The envelope encoded, in as many parts as it takes for none to be over ``bytes_max`` (one row always may be)."""
    data = encode(envelope)
    rows = envelope.rows.num_rows
    if len(data) <= bytes_max or rows <= 1:
        return [(envelope, data)]
    # A tenth more parts than the average asks for, since rows differ.
    parts = min(rows, len(data) * 11 // (bytes_max * 10) + 1)
    return [pair for part in _cut(envelope, -(-rows // parts)) for pair in encode_bounded(part, bytes_max)]


def _merged(lane: str, inputs: list[Envelope], points: int, lanes: Collection[str]) -> Iterator[tuple[str, pa.Table]]:
    rows = pa.concat_tables([envelope.rows for envelope in inputs])
    if not rows.num_rows:
        return
    if lane in lanes or lane == "metrics_cluster":
        rows = _checked(merge(rows, LANES[lane].columns), lane, points)
    if lane in lanes:
        yield lane, rows
    if lane == "metrics_cluster" and "metrics_region" in lanes:
        yield "metrics_region", _checked(to_region(rows), "metrics_region", points)


def _checked(rows: pa.Table, lane: str, points: int) -> pa.Table:
    if "points" not in rows.column_names:
        return rows
    found = int(rows["points"].to_numpy().sum())
    if found != points:
        raise Bug(f"{points} points went in and {found} came out", lane=lane)
    return rows


def _cut(envelope: Envelope, rows_max: int) -> list[Envelope]:
    """The envelope in parts of at most ``rows_max`` rows, each with a producer of its own."""
    if envelope.rows.num_rows <= rows_max:
        return [envelope]
    header = envelope.header
    parts = []
    for number, first in enumerate(range(0, envelope.rows.num_rows, rows_max)):
        part = seal(
            header.lane,
            compact(envelope.rows.slice(first, rows_max)),
            tenant=header.tenant,
            region=header.region,
            producer=f"{header.producer}/{number}",
            sequence=header.sequence,
            policy_version=header.policy_version,
            digest=0 if number else header.totals.digest,
        )
        parts.append(part)
    return parts
