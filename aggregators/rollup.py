"""Roll-up: decoded envelopes of one input partition become messages of the next tier. Pure: no clock, no I/O.

Rules:

1. One tenant and one region per output, as in every envelope; outputs come sorted by tenant, region and lane.
2. Cluster rows of metrics go out twice: merged as they are (``metrics_cluster``), and without the cluster
   (``metrics_region``). All other lanes are merged and go out as they are. Lanes that nobody asked for stay here: a
   zone's aggregator makes no region rows. Cluster rows of each reach go out apart; those that do not get as far as to
   anybody only become part of region rows.
3. Σ points in = Σ points out for either table, else `Bug`: nothing is published that does not add up.
4. An output's digest is the Σ of its inputs' digests mod 2^64. Where rows are split over several outputs the first
   carries it, so that digests add up over messages.
5. A row whose sum of fractions overflowed to infinity here goes out as it is, and is counted as a drop of tier
   ``aggregator``, reason ``sum_overflow``, unit ``rows``, in its own window. It is counted where it first overflows.
6. An output has at most ``rows_max`` rows and, encoded, ``bytes_max`` bytes: a message is one insert, which the loader
   neither splits nor combines.
7. An output names the policy versions of all its inputs, the first few in order, with commas between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pyarrow as pa

from catchment.algebra.merge import merge, to_region
from catchment.algebra.overflow import overflowed
from catchment.algebra.text import compact
from catchment.columns import GLOBAL_LANES, LANES, METRICS_REGION
from catchment.envelope import Envelope, Header, encode, seal
from catchment.errors import Bug
from catchment.reach import Reach

ROWS_MAX = 500_000
# Clusters of a region seldom have more policies than this; an envelope's header must not grow with them.
_VERSIONS_MAX = 8
_MORE = "..."


def roll_up(
    envelopes: Iterable[Envelope],
    *,
    producer: str,
    sequence: int,
    lanes: Collection[str] = GLOBAL_LANES,
    reach: Reach = Reach.CLUSTER,
    rows_max: int = ROWS_MAX,
) -> list[Envelope]:
    """Merge the envelopes of one partition.

    Args:
        envelopes: what a linger collected, of any lanes, tenants and regions.
        producer: the log and partition that were read, as text; further parts of one table get "/1", "/2" … behind it.
        sequence: the input position that the outputs are published with.
        lanes: the tables to make.
        reach: cluster rows that do not get so far are not made.
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
            merged = _merged_metrics(inputs, lanes) if lane == "metrics_cluster" else _merged(lane, inputs, lanes)
            wanted = [each for each in merged if each.lane in lanes and each.reach.gets_to(reach)]
            wholes = [_sealed(each, inputs[0].header, producer, sequence) for each in wanted]
            sealed[lane] = [part for whole in wholes for part in _cut(whole, rows_max)]
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
    """A table of the next tier, with what its inputs say together; and its rows whose sums overflowed in this merge."""

    lane: str
    rows: pa.Table
    overflowed: pa.Table
    policy_version: str
    digest: int
    reach: Reach = Reach.GLOBAL


def _merged(lane: str, inputs: list[Envelope], lanes: Collection[str], reach: Reach = Reach.GLOBAL) -> list[_Merged]:
    """The table that the rows of one lane become, if they are asked for."""
    rows = pa.concat_tables([envelope.rows for envelope in inputs])
    if not rows.num_rows or lane not in lanes:
        return []
    merged = _checked(merge(rows, LANES[lane].columns), lane, _points(inputs))
    digest = sum(envelope.header.totals.digest for envelope in inputs) % 2**64
    version = _versions(envelope.header.policy_version for envelope in inputs)
    return [_Merged(lane, merged, overflowed(rows, merged, LANES[lane].columns), version, digest, reach)]


def _merged_metrics(inputs: list[Envelope], lanes: Collection[str]) -> list[_Merged]:
    """The tables that cluster rows become: one for each reach, and the region's of them all."""
    of_reach = {reach: [each for each in inputs if each.header.reach == reach] for reach in Reach}
    clusters = [
        merged
        for reach, some in of_reach.items()
        if some
        for merged in _merged("metrics_cluster", some, {"metrics_cluster"}, reach)
    ]
    if not clusters or "metrics_region" not in lanes:
        return clusters
    rows = pa.concat_tables([cluster.rows for cluster in clusters])
    region = _checked(to_region(rows), "metrics_region", _points(inputs))
    version = _versions(cluster.policy_version for cluster in clusters)
    digest = sum(cluster.digest for cluster in clusters) % 2**64
    return [
        *clusters,
        _Merged("metrics_region", region, overflowed(rows, region, METRICS_REGION), version, digest),
    ]


def _versions(texts: Iterable[str]) -> str:
    """The policy versions of several envelopes as one text: each once, in order, the first few."""
    named = {version for text in texts for version in text.split(",")} - {""}
    versions = sorted(named - {_MORE})
    more = [_MORE] if _MORE in named or len(versions) > _VERSIONS_MAX else []
    return ",".join([*versions[:_VERSIONS_MAX], *more])


def _points(inputs: list[Envelope]) -> int:
    return sum(envelope.header.totals.points for envelope in inputs)


def _sealed(merged: _Merged, header: Header, producer: str, sequence: int) -> Envelope:
    return seal(
        merged.lane,
        merged.rows,
        tenant=header.tenant,
        region=header.region,
        producer=producer if merged.reach is Reach.GLOBAL else f"{producer}/{merged.reach}",
        sequence=sequence,
        policy_version=merged.policy_version,
        digest=merged.digest,
        reach=merged.reach,
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
            reach=Reach(header.reach),
        )
        parts.append(part)
    return parts
