"""Opening the log that the configuration names: Kafka where ``kafka.brokers`` are given, else the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from catchment.cli.exits import EnvironmentFault
from catchment.config import LogSettings
from catchment.config_kafka import Kafka
from catchment.limits import Limits
from catchment.log.port import Log
from catchment.log.sqlite import SqliteLimits, SqliteLog

if TYPE_CHECKING:
    from catchment.log.kafka import KafkaLog
    from catchment.log.kafka_settings import KafkaSettings

FILE_NAME = "log.db"


class LogView(Protocol):
    """The part of a configuration, or of a role's view of it, that says where the log is."""

    @property
    def log_dir(self) -> Path:
        """The folder of the embedded log."""
        ...

    @property
    def log(self) -> LogSettings:
        """Names and sizes."""
        ...

    @property
    def kafka(self) -> Kafka:
        """The brokers, if any."""
        ...

    @property
    def limits(self) -> Limits:
        """All limits."""
        ...


def open_log(view: LogView, *, must_exist: bool = False) -> Log:
    """Open the log; it is born if it does not exist, unless ``must_exist``. Kafka is connected to by the first call.

    Raises:
        EnvironmentFault: there is none although there must be.
        Retry, Corrupt, Invalid: it cannot be opened; the reason says why.
    """
    if view.kafka.brokers:
        return open_kafka(view, may_create=not must_exist)
    path = view.log_dir / FILE_NAME
    if must_exist and not path.exists():
        raise EnvironmentFault(f"there is no log at {path}; give the --config or --data-dir of a running catchment")
    return SqliteLog.open(path, SqliteLimits(bytes_max=view.log.bytes_max, message_bytes_max=_message_bytes_max(view)))


def open_kafka(view: LogView, *, may_create: bool = True) -> KafkaLog:
    """The log on Kafka."""
    # aiokafka and what it brings take memory that a collector with an embedded log does not have to spare.
    from catchment.log.kafka import KafkaLog

    return KafkaLog(kafka_settings(view), may_create=may_create)


def kafka_settings(view: LogView) -> KafkaSettings:
    """The settings of the adapter."""
    from catchment.log.kafka_settings import KafkaSasl, KafkaSettings, KafkaTls

    kafka = view.kafka
    tls, sasl = kafka.tls, kafka.sasl
    return KafkaSettings(
        brokers=kafka.brokers,
        prefix=view.log.topic_prefix,
        tls=KafkaTls(tls.ca, tls.cert, tls.key) if tls.is_on else None,
        sasl=KafkaSasl(sasl.mechanism, sasl.username, sasl.password) if sasl.mechanism else None,
        replication_factor=kafka.replication_factor,
        retention_seconds=kafka.retention_seconds,
        message_bytes_max=_message_bytes_max(view),
        transaction_seconds=kafka.transaction_timeout_seconds,
        session_seconds=kafka.session_timeout_seconds,
    )


def _message_bytes_max(view: LogView) -> int:
    # Envelopes are split to message_bytes_max by estimate; what is a little over it must still get through.
    return 2 * view.limits.message_bytes_max
