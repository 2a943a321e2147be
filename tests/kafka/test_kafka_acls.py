"""A user that may do nothing is told what to grant, step by step; what docs/operate.md lists is enough."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiokafka.protocol.admin import CreateAclsRequest

from catchment.errors import Retry
from catchment.log.kafka import KafkaLog
from catchment.log.kafka_settings import KafkaSasl, KafkaSettings, KafkaTls
from catchment.log.port import Source
from tests.contract.log_contract import numbered, read_all
from tests.kafka.broker import PASSWORD, USER, Broker
from tests.kafka.support import administer

PREFIX = "acl"
TOPIC, POSITIONS = f"{PREFIX}.jp.metrics", f"{PREFIX}.positions"
# Kafka's numbers.
_RESOURCES = {"topic": 2, "group": 3, "cluster": 4, "transactional id": 5}
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
_LITERAL, _PREFIXED, _ALLOW = 3, 4, 3


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker on which the user of SASL may do nothing, and whoever comes without is the operator."""
    broker = Broker(tmp_path)
    with (tmp_path / "server.properties").open("a") as properties:
        properties.write("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n")
        properties.write("super.users=User:ANONYMOUS\n")
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


async def grant(broker: Broker, resource: str, name: str, *operations: str) -> None:
    """What ``kafka-acls --add`` does; a name that ends in a dot is a prefix."""
    pattern = _PREFIXED if name.endswith(".") else _LITERAL
    settings = KafkaSettings((broker.plain,))
    for operation in operations:
        request = CreateAclsRequest(
            *(_RESOURCES[resource], name, pattern, f"User:{USER}", "*", _OPERATIONS[operation], _ALLOW)
        )
        await administer(settings, lambda admin, request=request: admin._client.send(1, request))  # type: ignore[misc]


async def refused(work: Callable[[], Awaitable[None]], reason: str, before: str) -> None:
    """It is, for this reason; or done, if that is "".

    The reason ``before`` may come for a while yet: a broker heeds what is granted a little after it has answered.
    """
    deadline = time.monotonic() + 30
    while True:
        try:
            await asyncio.wait_for(work(), 60)
        except Retry as error:
            if reason and re.search(reason, str(error)):
                return
            if not (before and re.search(before, str(error))) or time.monotonic() > deadline:
                raise
        else:
            assert not reason, f"done, and not refused: {reason}"
            return
        await asyncio.sleep(0.1)


def test_each_denial_says_what_to_grant(broker: Broker) -> None:
    """Every refusal is Retry, names operation and resource, and ends once that is granted, without a restart."""
    tls, sasl = KafkaTls(broker.certificates.ca), KafkaSasl("SCRAM-SHA-512", USER, PASSWORD)
    settings = KafkaSettings((broker.sasl,), PREFIX, tls, sasl)

    async def body() -> None:
        log = KafkaLog(settings)
        source = Source("hop", TOPIC, 0)

        async def create() -> None:
            await log.create_topics({TOPIC: 1})

        async def write() -> None:
            writer = await log.writer(source)
            try:
                await writer.publish(numbered(TOPIC, 1), 1)
            finally:
                await writer.close()

        async def read() -> None:
            assert [message.value for message in await read_all(log, TOPIC, 0)] == [b"1"]

        async def member() -> None:
            membership = await log.join("rollup", [TOPIC])
            assert await membership.changed() == {(TOPIC, 0)}
            await membership.close()

        steps = [
            (create, rf"Describe on the topic.*{POSITIONS}", "topic", f"{PREFIX}.", ("Describe", "DescribeConfigs")),
            (create, rf"Create on the topic.*{POSITIONS}", "topic", f"{PREFIX}.", ("Create",)),
            (create, rf"Read on the group.*{PREFIX}\.topic-id\.{TOPIC}", "group", f"{PREFIX}.", ("Read", "Describe")),
            (create, rf"Read on the topic.*{POSITIONS}", "topic", POSITIONS, ("Read",)),
            (create, "", "", "", ()),
            (write, "Write on the transactional id", "transactional id", f"{PREFIX}.", ("Write", "Describe")),
            (write, rf"Write .* on the topic.*{TOPIC}", "topic", f"{PREFIX}.", ("Write",)),
            (write, rf"Read .*on the topic.*{TOPIC}", "topic", f"{PREFIX}.", ("Read",)),
            (write, "", "", "", ()),
            (read, "", "", "", ()),
            (member, "", "", "", ()),
        ]
        before = ""
        for work, reason, resource, name, operations in steps:
            await refused(work, reason, before)
            await grant(broker, resource, name, *operations)
            before = reason
        assert await log.faults() == []
        await log.close()

    asyncio.run(body())
