"""The part of the configuration that says how to reach a log on Kafka."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catchment.setting import setting


@dataclass(frozen=True)
class KafkaTls:
    """TLS to the brokers. The files are read again for every new connection of a writer."""

    enabled: bool = setting(False, "whether to use TLS; also on where a file is given")
    ca: Path | None = setting(None, "PEM file of the authorities to trust; the system's unless given")
    cert: Path | None = setting(None, "PEM file of our own certificate, for mutual TLS")
    key: Path | None = setting(None, "PEM file of its key, not encrypted")

    @property
    def is_on(self) -> bool:
        """Whether to use TLS."""
        return self.enabled or any(file is not None for file in (self.ca, self.cert, self.key))


@dataclass(frozen=True)
class KafkaSasl:
    """Who we are to the brokers."""

    mechanism: str = setting("", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty for none")
    username: str = setting("", "the user")
    password: str = setting("", "the password, such as ${file:/run/secrets/kafka}", secret=True)


@dataclass(frozen=True)
class Kafka:
    """The log on Kafka instead of the embedded one. Names and partitions are those of ``log``."""

    brokers: tuple[str, ...] = setting((), "host:port of some brokers; empty: the embedded log")
    tls: KafkaTls = setting(factory=KafkaTls, text="TLS to the brokers")
    sasl: KafkaSasl = setting(factory=KafkaSasl, text="who we are to the brokers")
    replication_factor: int = setting(
        3,
        "replicas of a topic that does not exist yet; a write needs all of them but one",
        unit="replicas",
        least=1,
        most=15,
    )
    retention_seconds: float = setting(
        7 * 86_400.0,
        "how long a topic that does not exist yet keeps messages, consumed or not; 0s for ever, as dead letters are",
        unit="seconds",
        consequence="a reader further behind has lost data; it says so and stops",
        least=0,
        key="retention",
    )
    transaction_timeout_seconds: float = setting(
        20.0,
        "how long one publish may take; the broker's transaction.max.timeout.ms must not be below it",
        unit="seconds",
        consequence="the publish is done anew; readers wait for so long for a writer that died",
        least=2,
        most=900,
        key="transaction_timeout",
    )
    session_timeout_seconds: float = setting(
        10.0,
        "how long an aggregator may give no sign of life; brokers have bounds, group.min.session.timeout.ms is 6 s",
        unit="seconds",
        consequence="its partitions are taken over by the other aggregators of its region",
        least=1,
        most=300,
        key="session_timeout",
    )
