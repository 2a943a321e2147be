"""Roll-up: decoded envelopes of one input partition become messages of the next tier. Pure: no clock, no I/O.

Rules:

1. One tenant and one region per output, as in every envelope; outputs come sorted by tenant, region and lane.
2. Cluster rows of metrics go out twice: merged as they are (``metrics_cluster``), and without the cluster
   (``metrics_region``). All other lanes are merged and go out as they are. Lanes that nobody asked for stay here: a
   zone's aggregator sends on cluster rows only, a large fleet's region sends on region rows only.
3. Σ points in = Σ points out for either table, else `Bug`: nothing is published that does not add up.
4. An output's digest is the Σ of its inputs' digests mod 2^64. Where rows are split over several outputs the first
   carries it, so that digests add up over messages.
5. A row whose sum of fractions overflowed to infinity here goes out as it is, and is counted as a drop of tier
   ``aggregator``, reason ``sum_overflow``, unit ``rows``, in its own window. It is counted where it first overflows.
6. An output has at most ``rows_max`` rows and, encoded, ``bytes_max`` bytes: a message is one insert, which the loader
   neither splits nor combines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from catchment.algebra.merge import merge, to_region
from catchment.algebra.overflow import overflowed
from catchment.algebra.text import compact
from catchment.columns import GLOBAL_LANES, LANES, METRICS_REGION
from catchment.envelope import Envelope, Header, encode, seal
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
    collected: dict[tuple[str, str], dict[str, list[Envelope]]] = defaultdict(lambda: defaultdict(list))
    for envelope in envelopes:
        header = envelope.header
        collected[header.tenant, header.region][header.lane].append(envelope)
    outputs = []
    for _, by_lane in sorted(collected.items()):
        sealed: dict[str, list[Envelope]] = {}
        # Drops last: the merge of the other lanes may add some.
        for lane in [*sorted(by_lane.keys() - {"drops"}), "drops"]:
            inputs = by_lane[lane]
            if not inputs:
                continue
            merged = list(_merged(lane, inputs, lanes))
            wanted = [_sealed(each, inputs, producer, sequence) for each in merged if each.lane in lanes]
            sealed[lane] = [part for whole in wanted for part in _cut(whole, rows_max)]
            by_lane["drops"] += [drops for each in merged for drops in _overflows(each, inputs[0].header)]
        outputs += [output for lane in sorted(sealed) for output in sealed[lane]]
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


@dataclass(frozen=True)
class _Merged:
    """A table of the next tier, and those of its rows whose sums overflowed in this merge."""

    lane: str
    rows: pa.Table
    overflowed: pa.Table


def _merged(lane: str, inputs: list[Envelope], lanes: Collection[str]) -> Iterator[_Merged]:
    """The tables that the rows of one lane become; one that nobody asked for comes only with what overflowed in it."""
    rows = pa.concat_tables([envelope.rows for envelope in inputs])
    if not rows.num_rows or not (lane in lanes or lane == "metrics_cluster"):
        return
    points = sum(envelope.header.totals.points for envelope in inputs)
    merged = _checked(merge(rows, LANES[lane].columns), lane, points)
    yield _Merged(lane, merged, overflowed(rows, merged, LANES[lane].columns))
    if lane == "metrics_cluster" and "metrics_region" in lanes:
        region = _checked(to_region(merged), "metrics_region", points)
        yield _Merged("metrics_region", region, overflowed(merged, region, METRICS_REGION))


def _sealed(merged: _Merged, inputs: list[Envelope], producer: str, sequence: int) -> Envelope:
    header = inputs[0].header
    return seal(
        merged.lane,
        merged.rows,
        tenant=header.tenant,
        region=header.region,
        producer=producer,
        sequence=sequence,
        policy_version=max(envelope.header.policy_version for envelope in inputs),
        digest=sum(envelope.header.totals.digest for envelope in inputs) % 2**64,
    )


def _overflows(merged: _Merged, header: Header) -> list[Envelope]:
    """The drops (rule 5) of what overflowed, one row each, to be merged with the other drops."""
    rows = merged.overflowed
    if not rows.num_rows:
        return []
    texts = {"tier": "aggregator", "lane": merged.lane, "reason": "sum_overflow", "unit": "rows"}
    columns = {name: pa.repeat(text, rows.num_rows) for name, text in texts.items()}
    columns |= {name: rows[name] for name in ("window_start_ns", "window_seconds")}
    columns["cluster"] = rows["cluster"] if "cluster" in rows.column_names else pa.repeat("", rows.num_rows)
    columns["count"] = pa.repeat(1, rows.num_rows)
    schema = LANES["drops"].schema
    table = pa.table({name: columns[name] for name in schema.names}).cast(schema)
    return [seal("drops", table, tenant=header.tenant, region=header.region, producer=header.producer, sequence=0)]


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
