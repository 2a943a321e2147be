"""What is wrong with a configuration beyond the type of one key: names, addresses, keys that contradict each other."""

from __future__ import annotations

import dataclasses
import re

from catchment.config import GLOBE, Config, Profile
from catchment.config_kafka import Kafka, KafkaTls
from catchment.config_tls import ListenTls
from catchment.identity import canonical_attributes
from catchment.limits import Limits
from catchment.reach import Reach
from catchment.units import Address

REGION = re.compile(r"[a-z0-9-]{1,40}")
CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_TENANT_CHARACTERS_MAX = 128
_SHA256 = re.compile(r"[0-9a-f]{64}")
# As much as an entry of the tenants file may have.
_LABELS_BYTES_MAX = 32 * 1024
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_TOPIC_PREFIX = re.compile(r"[a-z0-9-]{1,40}")


def faults_of(config: Config) -> list[tuple[str, str]]:
    """All faults that need more than one key's type to see: (key, what is wrong and what would be right)."""
    faults: list[tuple[str, str]] = []

    def check(good: bool, key: str, says: str) -> None:
        if not good:
            faults.append((key, says))

    check(
        bool(REGION.fullmatch(config.region)),
        "region",
        f"{config.region!r} is not a region's name; expected 1 to 40 of a-z, 0-9 and -",
    )
    check(config.region != GLOBE, "region", "'global' is reserved for the topics of the global tier")
    check(
        bool(CLUSTER_NAME.fullmatch(config.cluster.name)),
        "cluster.name",
        f"{config.cluster.name!r} is not a cluster's name; expected up to 253 of A-Z, a-z, 0-9, dot, _ and -",
    )
    labels_bytes = len(canonical_attributes(dict(config.cluster.labels)).encode())
    check(
        labels_bytes <= _LABELS_BYTES_MAX,
        "cluster.labels",
        f"{labels_bytes} bytes as JSON, which go with every request to disk; expected at most {_LABELS_BYTES_MAX}",
    )
    check(
        3600 % config.resolution_seconds == 0,
        "resolution",
        f"{config.resolution_seconds} s does not divide an hour; expected such as 10s, 60s, 5m",
    )
    check(
        bool(_TOPIC_PREFIX.fullmatch(config.log.topic_prefix)),
        "log.topic_prefix",
        f"{config.log.topic_prefix!r} is not a prefix; expected 1 to 40 of a-z, 0-9 and -",
    )
    for user, digest in config.sql.users.items():
        check(
            bool(_SHA256.fullmatch(digest)),
            f"sql.users.{user}",
            "expected the 64 hexadecimal digits of a SHA-256: printf %s PASSWORD | sha256sum",
        )
    check(
        not (config.kafka.brokers and config.log.path),
        "log.path",
        "kafka.brokers are given, so there is no embedded log; remove one of them",
    )
    check(
        bool(CLUSTER_NAME.fullmatch(config.scrape.tenant)) and len(config.scrape.tenant) <= _TENANT_CHARACTERS_MAX,
        "scrape.tenant",
        f"{config.scrape.tenant!r} is not a tenant's name; expected up to 128 of A-Z, a-z, 0-9, dot, _ and -",
    )
    faults.extend(_place_faults(config))
    for key, tls in (("tls", config.tls), ("sql.tls", config.sql.tls), ("status.tls", config.status.tls)):
        faults.extend(_tls_faults(key, tls))
    faults.extend(_kafka_faults(config.kafka))
    faults.extend(_address_faults(config))
    faults.extend(_limit_faults(config.limits))
    traces = config.telemetry.traces
    check(
        traces == "off" or traces.startswith(("http://", "https://")),
        "telemetry.traces",
        f"{traces!r} is neither off nor an address such as http://127.0.0.1:4318",
    )
    check(
        config.telemetry.log_level in ("debug", "info", "warning", "error"),
        "telemetry.log_level",
        f"{config.telemetry.log_level!r} is no level; expected debug, info, warning or error",
    )
    return faults


def place_faults_of(config: Config, profile: Profile) -> list[tuple[str, str]]:
    """Faults of one process that is all tiers: what its aggregator writes its store must read."""
    if profile is not Profile.UP:
        return []
    faults = []
    if config.zone or config.aggregator.to not in ("", GLOBE):
        key = "zone" if config.zone else "aggregator.to"
        faults.append(
            (key, "`up` has one aggregator, which sends to the globe; run the tiers as processes of their own")
        )
    if config.store.scope is Reach.REGION and not config.aggregator.region_store:
        faults.append(("store.scope", "the aggregator sends nothing there; set aggregator.region_store: true"))
    return faults


def _place_faults(config: Config) -> list[tuple[str, str]]:
    faults = []
    for key, name in (("zone", config.zone), ("aggregator.to", config.aggregator.to)):
        if name and not REGION.fullmatch(name):
            faults.append((key, f"{name!r} is not the name of a place; expected 1 to 40 of a-z, 0-9 and -"))
    if config.zone in (config.region, GLOBE):
        faults.append(("zone", f"{config.zone!r} is not a place of its own below the region; remove it or rename it"))
    if config.aggregator.to == config.place:
        faults.append(("aggregator.to", "that is where its input comes from; name a place further up, or global"))
    if config.zone and config.aggregator.region_store:
        faults.append(("aggregator.region_store", "a zone has no store; set it in the region's file"))
    if config.store.scope is Reach.CLUSTER:
        faults.append(("store.scope", "'cluster' has no store here; expected global or region"))
    return faults


def _kafka_faults(kafka: Kafka) -> list[tuple[str, str]]:
    faults = []
    for index, broker in enumerate(kafka.brokers):
        if not _BROKER.fullmatch(broker):
            faults.append((f"kafka.brokers[{index}]", f"{broker!r} is no address; expected such as kafka-1:9092"))
    if not kafka.brokers and kafka != Kafka():
        faults.append(("kafka", "no brokers are given; set kafka.brokers, or remove kafka"))
    tls, sasl = kafka.tls, kafka.sasl
    faults += _half_pair("kafka.tls", tls)
    if sasl.mechanism and sasl.mechanism not in _SASL_MECHANISMS:
        expected = ", ".join(_SASL_MECHANISMS)
        faults.append(("kafka.sasl.mechanism", f"{sasl.mechanism!r} is not known; expected one of {expected}"))
    if bool(sasl.mechanism) != bool(sasl.username and sasl.password) or (sasl.username and not sasl.mechanism):
        faults.append(("kafka.sasl", "mechanism, username and password belong together; give all or none"))
    if sasl.mechanism == "PLAIN" and not tls.is_on:
        faults.append(("kafka.sasl.mechanism", "PLAIN without TLS sends the password in the clear; set kafka.tls"))
    return faults


def _half_pair(key: str, tls: KafkaTls | ListenTls) -> list[tuple[str, str]]:
    if (tls.cert is None) == (tls.key is None):
        return []
    return [(key, "cert and key belong together; give both or neither")]


def _tls_faults(key: str, tls: ListenTls) -> list[tuple[str, str]]:
    halves = _half_pair(key, tls)
    if halves:
        return halves
    if tls.client_ca is not None and not tls.is_on:
        return [(f"{key}.client_ca", f"asks for certificates over TLS, which is off; set {key}.cert and {key}.key")]
    return []


def _address_faults(config: Config) -> list[tuple[str, str]]:
    faults = []
    taken: dict[Address, str] = {}
    for field in dataclasses.fields(config.listen):
        key, address = f"listen.{field.name}", getattr(config.listen, field.name)
        guard = {"status": "", "sql": "readers"}.get(field.name, "tenants")
        has_readers = config.readers is not None or bool(config.sql.users)
        is_guarded = {"": True, "tenants": config.tenants is not None, "readers": has_readers}[guard]
        if not address.is_loopback and not is_guarded:
            faults.append((key, f"{address} is not loopback, so anybody could use it; set {guard}: or use 127.0.0.1"))
        if address in taken:
            faults.append((key, f"{address} is also {taken[address]}; give each a port of its own"))
        taken.setdefault(address, key)
    return faults


def _limit_faults(limits: Limits) -> list[tuple[str, str]]:
    faults = []
    ordered = (
        ("request_bytes_max", "request_bytes_uncompressed_max"),
        ("request_bytes_uncompressed_max", "intake_queue_bytes_max"),
        ("inbox_segment_bytes_max", "inbox_bytes_max"),
        ("request_bytes_max", "inbox_bytes_max"),
        ("attribute_value_bytes_max", "attributes_bytes_max"),
        ("series_per_metric_max", "series_per_tenant_max"),
        ("message_bytes_max", "outbox_bytes_max"),
        ("query_seconds_default", "query_seconds_max"),
    )
    for small, large in ordered:
        low, high = getattr(limits, small), getattr(limits, large)
        if low > high:
            faults.append((f"limits.{small}", f"{low} is above limits.{large} = {high}; lower it or raise that"))
    return faults
