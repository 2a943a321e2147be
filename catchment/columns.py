"""The columns of every lane: the one schema from which Arrow, DDL, column comments and docs derive.

A lane's rows are *mergeable partials*: key columns, and value columns that each name how two values with equal keys
become one. Every way is associative and commutative, so rows may come in any order, late, split or repeated per flush.

Columns that every row has but no lane lists: ``tenant`` and ``region``. They are the envelope's (one tenant and one
region per envelope) and become columns in the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from types import MappingProxyType

import pyarrow as pa


class Merge(Enum):
    """How the values of rows with equal keys become one."""

    KEY = "key"  # not a value: part of the key
    SUM = "sum"  # exact for integers and decimals; digests wrap mod 2^64
    MIN = "min"  # null is neutral
    MAX = "max"  # null is neutral
    LATEST = "latest"  # max over the tuple of all columns of the same group, in schema order; null is neutral
    HISTOGRAM = "histogram"  # maps of interval → count, added by key
    REGISTERS = (
        "registers"  # maps of register → rank, the larger by key: a count of distinct things, see algebra/distinct
    )


@dataclass(frozen=True)
class Column:
    """One column of a lane.

    ``clickhouse_type`` is the type of a plain column that holds one value; the store wraps it for aggregation.
    ``group`` names the tuple that a LATEST column belongs to.
    """

    name: str
    arrow_type: pa.DataType
    clickhouse_type: str
    merge: Merge
    comment: str
    nullable: bool = False
    group: str = ""

    @property
    def field(self) -> pa.Field[pa.DataType]:
        """The Arrow field."""
        return pa.field(self.name, self.arrow_type, nullable=self.nullable)


_TEXT = pa.dictionary(pa.int32(), pa.string())
_MAP = pa.map_(pa.int64(), pa.uint64())
_DECIMAL = pa.decimal128(38, 0)


def _key(name: str, arrow_type: pa.DataType, clickhouse_type: str, comment: str) -> Column:
    return Column(name, arrow_type, clickhouse_type, Merge.KEY, comment)


WINDOW_START = _key("window_start_ns", pa.int64(), "DateTime", "start of the window, UTC, inclusive")
WINDOW_SECONDS = _key("window_seconds", pa.uint32(), "UInt32", "length of the window in seconds")
CLUSTER = _key("cluster", _TEXT, "LowCardinality(String)", "the cluster that the row describes")

METRICS_CLUSTER = (
    WINDOW_START,
    WINDOW_SECONDS,
    CLUSTER,
    _key("service", _TEXT, "LowCardinality(String)", "service.name of the sender, with its namespace before a slash"),
    _key("metric", _TEXT, "LowCardinality(String)", "name of the metric"),
    _key("kind", _TEXT, "LowCardinality(String)", "gauge, counter, histogram or summary"),
    _key("unit", _TEXT, "LowCardinality(String)", "unit of the metric (UCUM)"),
    _key("attributes", _TEXT, "String", "attributes kept by policy, canonical JSON"),
    _key("series_id", pa.uint64(), "UInt64", "id of the series: tenant, service, metric, kind, unit, attributes"),
    Column("points", pa.uint64(), "UInt64", Merge.SUM, "accepted data points that went into this row"),
    Column(
        "count",
        pa.uint64(),
        "UInt64",
        Merge.SUM,
        "samples of a gauge, points of a counter, observations of a histogram or summary",
    ),
    Column("sum_int", _DECIMAL, "Int128", Merge.SUM, "exact sum of the integer values or increases"),
    Column("sum_float", pa.float64(), "Float64", Merge.SUM, "sum of the floating point values or increases"),
    Column("min", pa.float64(), "Float64", Merge.MIN, "smallest value", nullable=True),
    Column("max", pa.float64(), "Float64", Merge.MAX, "largest value", nullable=True),
    Column(
        "last_time_ns",
        pa.int64(),
        "Int64",
        Merge.LATEST,
        "time of the latest gauge sample",
        nullable=True,
        group="last",
    ),
    Column(
        "last_value",
        pa.float64(),
        "Float64",
        Merge.LATEST,
        "value of the latest gauge sample",
        nullable=True,
        group="last",
    ),
    Column("integral", pa.float64(), "Float64", Merge.SUM, "gauge: sum of value x seconds held, over all streams"),
    Column("observed_seconds", pa.float64(), "Float64", Merge.SUM, "gauge: seconds for which a value was held"),
    Column("histogram", _MAP, "Map(Int64, UInt64)", Merge.HISTOGRAM, "interval -> count; see catchment/histogram"),
    Column(
        "exemplar_value",
        pa.float64(),
        "Float64",
        Merge.LATEST,
        "value of the largest exemplar",
        nullable=True,
        group="exemplar",
    ),
    Column("exemplar_time_ns", pa.int64(), "Int64", Merge.LATEST, "its time, ns, UTC", nullable=True, group="exemplar"),
    Column(
        "exemplar_trace_id", pa.string(), "String", Merge.LATEST, "its trace id, hex", nullable=True, group="exemplar"
    ),
    Column(
        "exemplar_span_id", pa.string(), "String", Merge.LATEST, "its span id, hex", nullable=True, group="exemplar"
    ),
)

METRICS_REGION = tuple(column for column in METRICS_CLUSTER if column.name != "cluster")

TOTALS = (
    WINDOW_START,
    WINDOW_SECONDS,
    CLUSTER,
    _key("lane", _TEXT, "LowCardinality(String)", "lane that the totals are of"),
    Column("points", pa.uint64(), "UInt64", Merge.SUM, "data points accepted at the edge"),
    Column("rows", pa.uint64(), "UInt64", Merge.SUM, "rows that left the edge"),
    Column("digest", pa.uint64(), "UInt64", Merge.SUM, "sum of the 64-bit hashes of the accepted points, mod 2^64"),
)

DROPS = (
    WINDOW_START,
    WINDOW_SECONDS,
    CLUSTER,
    _key("tier", _TEXT, "LowCardinality(String)", "collector, aggregator or store"),
    _key("lane", _TEXT, "LowCardinality(String)", "lane that lost it"),
    _key("reason", _TEXT, "LowCardinality(String)", "why; see docs/drops.md"),
    _key("unit", _TEXT, "LowCardinality(String)", "what is counted: points, requests, rows, messages"),
    Column("count", pa.uint64(), "UInt64", Merge.SUM, "how many"),
)

HEALTH = (
    WINDOW_START,
    WINDOW_SECONDS,
    CLUSTER,
    _key("source", _TEXT, "LowCardinality(String)", "the collector that vouches"),
    Column("heartbeat_ns", pa.int64(), "Int64", Merge.LATEST, "latest sign of life, ns, UTC", group="health"),
    Column("sequence", pa.uint64(), "UInt64", Merge.LATEST, "flush sequence of the collector", group="health"),
    Column("labels", pa.string(), "String", Merge.LATEST, "labels of the cluster, canonical JSON", group="health"),
    Column("version", pa.string(), "String", Merge.LATEST, "program version of the collector", group="health"),
    Column("policy_version", pa.string(), "String", Merge.LATEST, "policy in force", group="health"),
)

CARDINALITY = (
    WINDOW_START,
    WINDOW_SECONDS,
    CLUSTER,
    _key("metric", _TEXT, "LowCardinality(String)", "name of the metric"),
    _key("attribute", _TEXT, "LowCardinality(String)", "an attribute kept by policy; empty for the series themselves"),
    Column("streams", pa.uint64(), "UInt64", Merge.SUM, "streams with the attribute that began in the window"),
    Column("folded", pa.uint64(), "UInt64", Merge.SUM, "of these, folded into otel.metric.overflow"),
    Column(
        "registers",
        _MAP,
        "Map(Int64, UInt64)",
        Merge.REGISTERS,
        "HyperLogLog of the attribute's values (of the series): register -> rank; see catchmentDistinct",
    ),
)


@dataclass(frozen=True)
class Lane:
    """One schema and its version. ``version`` rises with any change of the columns; readers take every older one."""

    name: str
    version: int
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows."""
        return pa.schema([column.field for column in self.columns])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Names of the key columns, in order."""
        return tuple(column.name for column in self.columns if column.merge is Merge.KEY)


# What crosses a tier: collectors write all but `metrics_region`, which aggregators add.
# A lane's name is also its global table's.
LANES = MappingProxyType(
    {
        lane.name: lane
        for lane in (
            Lane("metrics_cluster", 1, METRICS_CLUSTER),
            Lane("metrics_region", 1, METRICS_REGION),
            Lane("totals", 1, TOTALS),
            Lane("drops", 1, DROPS),
            Lane("health", 1, HEALTH),
            Lane("cardinality", 1, CARDINALITY),
        )
    }
)

EDGE_LANES = ("metrics_cluster", "totals", "drops", "health", "cardinality")
GLOBAL_LANES = ("metrics_cluster", "metrics_region", "totals", "drops", "health", "cardinality")


def regional_topic(prefix: str, region: str, lane: str) -> str:
    """The topic that collectors of a region write a lane to."""
    return f"{prefix}.{region}.{lane}"


def global_topic(prefix: str, lane: str) -> str:
    """The topic that regions write a global table's rows to."""
    return f"{prefix}.global.{lane}"


def store_topic(prefix: str, region: str, lane: str) -> str:
    """The topic that a region's own store loads a table from."""
    return f"{prefix}.{region}.store.{lane}"


def dead_letter_topic(prefix: str, region: str) -> str:
    """The topic that holds what a region could not read."""
    return f"{prefix}.{region}.dead-letter"
