"""The configuration: one frozen dataclass per process, one place for defaults, unit and consequence of every key.

`Config` is the whole file; every process gets its own view of it (`CollectorConfig`, `AggregatorConfig`,
`StoreConfig`) with no key that it does not use. What one key alone cannot tell is checked by
`catchment.config_faults`; reading a file is `catchment.config_load`'s work.

Relative paths are relative to the working directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from catchment.config_kafka import Kafka
from catchment.config_policies import Policies
from catchment.config_rates import Rate
from catchment.config_scrape import Scrape
from catchment.config_tls import ListenTls
from catchment.limits import Limits
from catchment.reach import Reach
from catchment.setting import setting
from catchment.units import Address


class Profile(Enum):
    """Which process reads the file: defaults and required keys differ."""

    UP = "up"
    COLLECTOR = "collector"
    AGGREGATOR = "aggregator"
    STORE = "loader"


GLOBE = "global"  # the name of the place above all regions

# Where a default depends on the profile. One process for everything can afford fresh; a fleet cannot.
PROFILE_DEFAULTS: Mapping[Profile, Mapping[str, str]] = {
    Profile.UP: {"flush": "5s"},
    Profile.COLLECTOR: {"flush": "60s"},
    Profile.AGGREGATOR: {"flush": "60s"},
    Profile.STORE: {"flush": "60s"},
}


@dataclass(frozen=True)
class Cluster:
    """The cluster that a collector stands in."""

    name: str = setting("local", "name of the cluster; senders with a token have the cluster of their token")
    labels: Mapping[str, str] = setting(
        factory=dict, text="labels that logical clouds select by, such as {zone: a, kind: station}"
    )


@dataclass(frozen=True)
class Listen:
    """Addresses. One that is not loopback demands ``tenants``, ``sql`` readers or users; ``status`` shows no rows."""

    otlp_grpc: Address = setting(Address("127.0.0.1", 4317), "OTLP over gRPC", unit="address")
    otlp_http: Address = setting(
        Address("127.0.0.1", 4318),
        "OTLP over HTTP, /v1/metrics; Prometheus remote write, /api/v1/write",
        unit="address",
    )
    sql: Address = setting(Address("127.0.0.1", 8123), "ClickHouse HTTP interface, read-only", unit="address")
    ui: Address = setting(
        Address("127.0.0.1", 8080), "reserved for the built-in page; nothing listens there yet", unit="address"
    )
    status: Address = setting(
        Address("127.0.0.1", 13133), "/livez /readyz /healthz /metrics and POST /-/reload", unit="address"
    )


@dataclass(frozen=True)
class Retention:
    """How long rows are kept, per class. 0s keeps them for ever: nothing expires unless this says so."""

    metrics_1m: int = setting(0, "rows as resolution keys them", unit="seconds", consequence="older rows are deleted")
    metrics_1h: int = setting(0, "hourly rows", unit="seconds", consequence="older rows are deleted")
    metrics_1d: int = setting(0, "daily rows", unit="seconds", consequence="older rows are deleted")
    totals: int = setting(0, "control totals", unit="seconds", consequence="older rows are deleted")
    drops: int = setting(0, "counts of drops", unit="seconds", consequence="older rows are deleted")
    health: int = setting(0, "heartbeats", unit="seconds", consequence="older rows are deleted")
    cardinality: int = setting(
        0, "which attributes make how many series", unit="seconds", consequence="older rows are deleted"
    )


@dataclass(frozen=True)
class LogSettings:
    """The log between the tiers."""

    topic_prefix: str = setting("catchment", "first part of every topic's name")
    partitions: int = setting(
        1,
        "partitions of a topic that does not exist yet; each has one reader at a time",
        unit="partitions",
        least=1,
        most=10_000,
    )
    bytes_max: int = setting(
        8 * 1024**3,
        "messages kept after they were consumed, so that the store can be loaded anew",
        unit="bytes",
        consequence="the oldest consumed messages are deleted; unconsumed ones never are",
        least=1024**2,
    )
    path: Path | None = setting(
        None, "folder of the embedded log, which processes of one machine share; <data_dir>/log unless given"
    )


@dataclass(frozen=True)
class Aggregator:
    """The roll-up of a region."""

    linger_seconds: float = setting(
        1.0,
        "how long messages are collected before they are merged and published",
        unit="seconds",
        consequence="longer makes fewer rows and later ones",
        least=0,
        most=300,
        key="linger",
    )
    to: str = setting(
        "",
        "where roll-ups go: global, or the name of the place whose aggregator takes them; unless given, a zone's go to "
        "its region and a region's to the globe",
    )
    region_store: bool = setting(
        False,
        "whether they go to the region's own store besides; it holds all rows of the region but those of reach cluster",
    )


@dataclass(frozen=True)
class Store:
    """The tables."""

    scope: Reach = setting(
        Reach.GLOBAL,
        "whose rows: global, or region for the region's own store, which has cluster rows that the globe's does not",
    )


@dataclass(frozen=True)
class Sql:
    """Who may ask."""

    users: Mapping[str, str] = setting(
        factory=dict,
        text="name: SHA-256 of the password in hex, who sees everything; without a user only loopback is served",
    )
    tls: ListenTls = setting(factory=ListenTls, text="TLS of the SQL endpoint")


@dataclass(frozen=True)
class Status:
    """The status server."""

    tls: ListenTls = setting(
        factory=ListenTls, text="TLS of the status server; not of what children of `up` tell it, over loopback"
    )


@dataclass(frozen=True)
class Telemetry:
    """Observing Catchment itself."""

    traces: str = setting("off", "off, or the http:// address of an OTLP receiver for traces of our own work")
    log_level: str = setting("info", "debug, info, warning or error")


@dataclass(frozen=True)
class Config:
    """A whole file."""

    data_dir: Path = setting(
        Path("catchment-data"), "the folder that holds all state; one process, or one `up`, owns it at a time"
    )
    region: str = setting("local", "the region, [a-z0-9-]{1,40}")
    zone: str = setting(
        "",
        "a place between cluster and region, named as a region is: its collectors send to its aggregator, which sends "
        "on to the region's; empty for none",
    )
    cluster: Cluster = setting(factory=Cluster, text="the collector's own cluster")
    resolution_seconds: int = setting(
        60,
        "the window that keys a row; divides an hour",
        unit="seconds",
        consequence="longer windows make fewer rows",
        least=1,
        most=3600,
        key="resolution",
    )
    flush_seconds: float = setting(
        5.0,
        "how often partials leave the cluster",
        unit="seconds",
        consequence="shorter is fresher and makes more rows",
        least=0.1,
        most=3600,
        key="flush",
    )
    listen: Listen = setting(factory=Listen, text="addresses")
    tenants: Path | None = setting(
        None, "file of tokens and certificates: whose they are (tenant, cluster, labels); read again when it changes"
    )
    readers: Path | None = setting(
        None,
        "file of SQL readers: their passwords and tokens, and whose rows each sees; read again when it changes",
        consequence="nobody reads without credentials, not even from loopback",
    )
    tls: ListenTls = setting(factory=ListenTls, text="TLS of the OTLP receivers")
    rates: tuple[Rate, ...] = setting((), "how much tenants may send")
    scrape: Scrape = setting(factory=Scrape, text="which Prometheus targets the collector scrapes")
    policies: Policies = setting(factory=Policies, text="what is kept of each metric")
    limits: Limits = setting(factory=Limits, text="every limit and what happens when it is reached")
    retention: Retention = setting(factory=Retention, text="how long rows are kept")
    log: LogSettings = setting(factory=LogSettings, text="the log between the tiers")
    kafka: Kafka = setting(factory=Kafka, text="the log on Kafka instead of the embedded one")
    aggregator: Aggregator = setting(factory=Aggregator, text="the roll-up of the region, or of the zone")
    store: Store = setting(factory=Store, text="the tables")
    sql: Sql = setting(factory=Sql, text="who may ask")
    status: Status = setting(factory=Status, text="the status server")
    telemetry: Telemetry = setting(factory=Telemetry, text="observing Catchment itself")

    @property
    def log_dir(self) -> Path:
        """The folder of the embedded log."""
        return self.log.path or self.data_dir / "log"

    @property
    def place(self) -> str:
        """Whose log collectors send to and an aggregator reads: the zone's if there is one, else the region's."""
        return self.zone or self.region

    def for_collector(self) -> CollectorConfig:
        """The collector's view."""
        return CollectorConfig(
            folder=self.data_dir / "collector",
            log_dir=self.log_dir,
            region=self.region,
            place=self.place,
            cluster=self.cluster,
            resolution_seconds=self.resolution_seconds,
            flush_seconds=self.flush_seconds,
            otlp_grpc=self.listen.otlp_grpc,
            otlp_http=self.listen.otlp_http,
            tenants=self.tenants,
            tls=self.tls,
            rates=self.rates,
            scrape=self.scrape,
            policies=self.policies,
            limits=self.limits,
            log=self.log,
            kafka=self.kafka,
        )

    def for_aggregator(self) -> AggregatorConfig:
        """The aggregator's view."""
        return AggregatorConfig(
            log_dir=self.log_dir,
            region=self.region,
            place=self.place,
            to=self.aggregator.to or (self.region if self.zone else GLOBE),
            region_store=self.aggregator.region_store,
            linger_seconds=self.aggregator.linger_seconds,
            limits=self.limits,
            log=self.log,
            kafka=self.kafka,
        )

    def for_store(self) -> StoreConfig:
        """The store's view."""
        return StoreConfig(
            folder=self.data_dir / "store",
            log_dir=self.log_dir,
            region=self.region if self.store.scope is Reach.REGION else None,
            listen_sql=self.listen.sql,
            sql=self.sql,
            readers=self.readers,
            retention=self.retention,
            limits=self.limits,
            log=self.log,
            kafka=self.kafka,
        )


@dataclass(frozen=True)
class CollectorConfig:
    """What a collector is told; the meaning of each field is `Config`'s."""

    folder: Path
    log_dir: Path
    region: str
    place: str
    cluster: Cluster
    resolution_seconds: int
    flush_seconds: float
    otlp_grpc: Address
    otlp_http: Address
    tenants: Path | None
    tls: ListenTls
    rates: tuple[Rate, ...]
    scrape: Scrape
    policies: Policies
    limits: Limits
    log: LogSettings
    kafka: Kafka


@dataclass(frozen=True)
class AggregatorConfig:
    """What an aggregator is told; the meaning of each field is `Config`'s."""

    log_dir: Path
    region: str
    place: str
    to: str
    region_store: bool
    linger_seconds: float
    limits: Limits
    log: LogSettings
    kafka: Kafka


@dataclass(frozen=True)
class StoreConfig:
    """What the store is told; the meaning of each field is `Config`'s. ``region`` is None for the globe's store."""

    folder: Path
    log_dir: Path
    region: str | None
    listen_sql: Address
    sql: Sql
    readers: Path | None
    retention: Retention
    limits: Limits
    log: LogSettings
    kafka: Kafka
