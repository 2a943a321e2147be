"""What a Kafka log is told: addresses, security, names, sizes and times; and what aiokafka's clients get of it.

Names, all below one prefix, so that prefixed ACLs cover them:

- ``<prefix>.positions``: a topic of one partition that is never written. The positions of sources outside Kafka are
  committed offsets of its partition 0; its topic id is where the log's id comes from.
- ``<prefix>.<hop>`` or ``<prefix>.<hop>.<topic>.<partition>``: one name per source, both its transactional id and its
  consumer group.
- ``<prefix>.topic-id.<topic>``: a consumer group whose committed metadata says which topic of that name is ours.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catchment.errors import Invalid
from catchment.log.port import Source

# What a batch of one message may need beside the message: headers of batch and record, and what zstd adds to a value
# that is compressed already (less than 1/128).
_OVERHEAD_BYTES = 64 << 10
_OVERHEAD_DIVISOR = 128


@dataclass(frozen=True)
class KafkaTls:
    """TLS to the brokers.

    ``ca``: certificates that are trusted; the system's if None. ``cert`` and ``key``: our own, for mutual TLS.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class KafkaSasl:
    """Who we are to the brokers."""

    mechanism: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class KafkaSettings:
    """Settings of a Kafka log.

    ``message_bytes_max``: one message with key and headers; a larger one is `Invalid`.
    ``replication_factor``, ``retention_seconds``: of topics that we create; 0 keeps messages for ever.
    ``transaction_seconds``: after this the broker ends a transaction whose writer is gone. Until then readers of its
    partitions wait. A publish takes nine tenths of it at most.
    ``request_seconds``: how long one request may take, and how long one is repeated while a broker is away.
    ``start_seconds``: how long becoming a source's writer may take; a restarting broker needs about ten.
    ``metadata_seconds``: after this at the latest it is noticed that a topic has more partitions.
    ``stop_seconds``: how long letting go of a producer may take.
    ``session_seconds``: after this long without a sign of life a member's partitions are given to the others; brokers
    have bounds for it (``group.min.session.timeout.ms``, 6 s by default).
    """

    brokers: tuple[str, ...]
    prefix: str = "catchment"
    tls: KafkaTls | None = None
    sasl: KafkaSasl | None = None
    replication_factor: int = 1
    retention_seconds: float = 7 * 86_400.0
    kept_for_ever: tuple[str, ...] = (".dead-letter",)
    message_bytes_max: int = 64 << 20
    transaction_seconds: float = 20.0
    request_seconds: float = 8.0
    start_seconds: float = 30.0
    metadata_seconds: float = 60.0
    stop_seconds: float = 2.0
    session_seconds: float = 10.0

    @property
    def positions_topic(self) -> str:
        """The topic that is never written."""
        return f"{self.prefix}.positions"

    @property
    def batch_bytes_max(self) -> int:
        """What topics and brokers must take as one batch, ``max.message.bytes``."""
        return self.message_bytes_max + self.message_bytes_max // _OVERHEAD_DIVISOR + _OVERHEAD_BYTES

    @property
    def publish_seconds(self) -> float:
        """How long one publish may take: it must have ended, for us, before the broker ends it."""
        return 0.9 * self.transaction_seconds

    def name_of(self, source: Source) -> str:
        """The transactional id and consumer group of a source."""
        if not source.topic:
            return f"{self.prefix}.{source.hop}"
        return f"{self.prefix}.{source.hop}.{source.topic}.{source.partition}"

    def place_of(self, source: Source) -> tuple[str, int]:
        """The topic and partition whose committed offset is a source's position."""
        return (source.topic, source.partition) if source.topic else (self.positions_topic, 0)

    def members_group(self, group: str) -> str:
        """The group whose members share partitions out."""
        return f"{self.prefix}.{group}.members"

    def topic_group(self, topic: str) -> str:
        """The group that remembers a topic's id."""
        return f"{self.prefix}.topic-id.{topic}"

    def topic_configs(self, topic: str) -> dict[str, str]:
        """The configuration that a topic is created with."""
        is_kept = not self.retention_seconds or topic.endswith(self.kept_for_ever) or topic == self.positions_topic
        return {
            "cleanup.policy": "delete",
            "max.message.bytes": str(self.batch_bytes_max),
            "min.insync.replicas": str(max(1, self.replication_factor - 1)),
            "retention.bytes": "-1",
            "retention.ms": "-1" if is_kept else str(int(self.retention_seconds * 1_000)),
        }


def client_arguments(settings: KafkaSettings) -> dict[str, Any]:
    """What every client of aiokafka is made with.

    Raises:
        Invalid: a file of ``tls`` cannot be used.
    """
    protocol = ("SASL_" if settings.sasl else "") + ("SSL" if settings.tls else "PLAINTEXT")
    arguments: dict[str, Any] = {
        "bootstrap_servers": list(settings.brokers),
        "security_protocol": protocol,
        "request_timeout_ms": int(settings.request_seconds * 1_000),
        "retry_backoff_ms": 20,
        "metadata_max_age_ms": int(settings.metadata_seconds * 1_000),
    }
    if settings.tls is not None:
        arguments["ssl_context"] = _context(settings.tls)
    if settings.sasl is not None:
        arguments |= {
            "sasl_mechanism": settings.sasl.mechanism,
            "sasl_plain_username": settings.sasl.username,
            "sasl_plain_password": settings.sasl.password,
        }
    return arguments


def _context(tls: KafkaTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"a file of kafka.tls cannot be used: {error}", ca=tls.ca, cert=tls.cert, key=tls.key) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
