"""Who may use a Kafka log, and what those who may not are told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from catchment.errors import Invalid, Retry
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSasl, KafkaSettings, KafkaTls
from catchment.log.port import Source
from tests.contract.log_contract import numbered, read_all
from tests.kafka.broker import PASSWORD, USER, Broker
from tests.kafka.support import Body, run


def test_tls_and_passwords(kafka_broker: Broker, prefix: str) -> None:
    """SASL over TLS and mutual TLS work end to end; a wrong password, a foreign authority and no certificate do not."""
    certificates = kafka_broker.certificates
    trusted = KafkaTls(certificates.ca)
    sasl = KafkaSasl("SCRAM-SHA-512", USER, PASSWORD)
    secret = KafkaSettings((kafka_broker.sasl,), prefix, trusted, sasl)
    mutual = replace(
        secret,
        brokers=(kafka_broker.mutual,),
        sasl=None,
        tls=KafkaTls(certificates.ca, certificates.client_cert, certificates.client_key),
    )

    async def body(log: KafkaLog) -> None:
        topic = f"{prefix}.t"
        await log.create_topics({topic: 1})
        writer = await log.writer(Source("hop"))
        number = (await writer.committed() or 0) + 1
        await writer.publish(numbered(topic, number), number)
        assert [m.value for m in await read_all(log, topic, 0)] == [str(n + 1).encode() for n in range(number)]

    run(secret, body)
    run(mutual, body)
    wrong = [
        (replace(secret, sasl=replace(sasl, password="wrong")), "Authentication failed"),
        (replace(secret, tls=KafkaTls()), "certificate verify failed"),
        (replace(mutual, tls=trusted), "certificate required|[Cc]onnection"),
        (replace(mutual, tls=None), "[Cc]onnection"),
    ]
    for settings, reason in wrong:
        _refused(replace(settings, request_seconds=1.5), body, reason)
    with pytest.raises(Invalid, match=r"a file of kafka\.tls cannot be used"):
        run(replace(secret, tls=KafkaTls(Path("absent.pem"))), body)


def _refused(settings: KafkaSettings, body: Body, reason: str) -> None:
    """It is, for that reason; in so short a time a slow broker may not come to say it, but it never lets in."""
    for _ in range(5):
        with pytest.raises(Retry) as refused:
            run(settings, body)
        if re.search(reason, str(refused.value)):
            return
    raise refused.value
