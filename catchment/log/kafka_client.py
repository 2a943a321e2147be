"""One connection to a Kafka cluster that a process's readers and questions share, and our names for Kafka's errors.

Rules:

1. Everything has an end: a request takes ``request_seconds``, and passing trouble (a broker restarts, a leader moves)
   is waited out by repeating for as long again; then it is `Retry`.
2. Nothing here needs a broker in order to be made. The first call connects; when no known broker answers any more, the
   next call begins with the configured addresses again, since all of them may have moved. How often is said in
   `kafka_patience`.
3. What only reads or is idempotent goes through here. Whatever publishes has a producer of its own (`kafka_writer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError

from catchment.errors import CatchmentError, Invalid, Retry
from catchment.log.kafka_patience import Patience, patient
from catchment.log.kafka_protocol import UNSTABLE_OFFSET_COMMIT, StableOffsetRequest
from catchment.log.kafka_settings import KafkaSettings, client_arguments

T = TypeVar("T")

_PAUSE_SECONDS = 0.05
# Retriable, although aiokafka does not say so of these.
_PASSING = (
    errors.GroupCoordinatorNotAvailableError,
    errors.GroupLoadInProgressError,
    errors.BrokerNotAvailableError,
    errors.ReplicaNotAvailableError,
    errors.StaleLeaderEpochCodeError,
)
# What to grant, by the error of who has it not.
_DENIED = {
    errors.TopicAuthorizationFailedError: "{needs} on the topic",
    errors.GroupAuthorizationFailedError: "Read on the group",
    errors.TransactionalIdAuthorizationFailed: "Write on the transactional id",
    errors.ClusterAuthorizationFailedError: "{needs} on the topic, or on the cluster",
}


class UnstableOffsetError(KafkaError):  # type: ignore[misc]  # aiokafka has no types
    """A transaction that may move the committed offset has not ended yet."""

    retriable = True


class Client:
    """The shared connection."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self.patience = Patience()
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._is_found = False

    @property
    def settings(self) -> KafkaSettings:
        """What it was made with."""
        return self._settings

    async def run(
        self, what: str, work: Callable[[Any], Awaitable[T]], *, needs: str = "Describe", **where: object
    ) -> T:
        """Do ``work`` with the client of aiokafka, repeating it while passing trouble lasts (rule 1).

        Args:
            what: for people: what cannot be done.
            work: must be safe to repeat.
            needs: the operation on its topics that the user must be allowed.
            where: coordinates of an error.

        Raises:
            Retry: it did not work for ``request_seconds``, is not allowed, or this is closed.
            Invalid: Kafka says so of the request itself, or a file of ``tls`` cannot be used.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.request_seconds
        reason: BaseException | None = None
        while True:
            self.check_open()
            try:
                async with asyncio.timeout_at(deadline + self._settings.request_seconds):
                    return await work(await self._connected())
            except (KafkaError, OSError, TimeoutError) as error:
                self.check_open()
                # That time is up says less than what it was spent on.
                reason = error if reason is None or not isinstance(error, TimeoutError) else reason
                if not is_passing(error) or loop.time() > deadline:
                    raise named(reason, what, needs=needs, **where) from error
                if getattr(error, "invalid_metadata", False) or isinstance(error, errors.NodeNotReadyError):
                    await self._refresh()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def coordinator(self, client: Any, group: str) -> int:
        """The node that keeps a group's offsets."""
        return int(await client.coordinator_lookup(CoordinationType.GROUP, group))

    async def committed(self, group: str, topic: str, partition: int) -> tuple[int, str] | None:
        """A group's committed offset and its metadata; waits for transactions that may still move it.

        A plain request may answer with the offset before the transaction that was committed last.
        """

        async def work(client: Any) -> tuple[int, str] | None:
            request = StableOffsetRequest(group, topic, partition)
            node = await self.coordinator(client, group)
            response = await client.send(node, request, group=ConnectionGroup.COORDINATION)
            check(response.error_code)
            for _, partitions in ((item[0], item[1]) for item in response.topics):
                _, offset, _, metadata, code, _ = partitions[0]
                check(code)
                return None if offset < 0 else (offset, metadata or "")
            return None

        return await self.run("the committed position cannot be read", work, group=group)

    def found(self) -> None:
        """To be called once ``<prefix>.positions`` is known to exist."""
        self._is_found = True
        self._narrow(self._client)

    def check_open(self) -> None:
        """Raises `Retry` once this is closed."""
        if self._is_closed:
            raise Retry("the log is closed", brokers=",".join(self._settings.brokers))

    async def close(self) -> None:
        """Close all connections; whoever waits for an answer gets `Retry`."""
        self._is_closed = True
        self._drop()
        if self._closing:
            await asyncio.wait(self._closing, timeout=self._settings.stop_seconds)

    async def _connected(self) -> Any:
        async with self._connecting:
            self.check_open()
            if self._client is None:
                # Anew each time: certificates may have been replaced.
                arguments = await asyncio.to_thread(client_arguments, self._settings)
                client = patient(AIOKafkaClient(client_id="catchment", **arguments), self.patience)
                try:
                    async with asyncio.timeout(self._settings.request_seconds):
                        await client.bootstrap()
                    self._narrow(client)
                except errors.KafkaConnectionError as error:
                    await client.close()
                    raise errors.KafkaConnectionError(await _why(client)) from error
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client

    def _narrow(self, client: Any) -> None:
        # aiokafka asks for every topic of the cluster again and again unless it is given one; one that does not exist
        # might be created by asking for it.
        if client is not None and self._is_found:
            client.set_topics([self._settings.positions_topic])

    async def _refresh(self) -> None:
        client = self._client
        if client is None:
            return
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                is_updated = await client.force_metadata_update()
        except TimeoutError:
            is_updated = False
        if not is_updated and client is self._client:
            self._drop()

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            task = asyncio.create_task(_close(client, self._settings.stop_seconds))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close(client: Any, seconds: float) -> None:
    # RuntimeError: what the event loop says of a connection that the broker has closed already.
    with suppress(KafkaError, OSError, TimeoutError, RuntimeError):
        async with asyncio.timeout(seconds):
            await client.close()


async def _why(client: Any) -> str:
    """Why brokers cannot be connected to, for two of the addresses: aiokafka only logs it."""
    reasons = []
    for host, port, _ in client.hosts[:2]:
        try:
            connection = await create_conn(
                *(host, port),
                request_timeout_ms=client._request_timeout_ms,
                ssl_context=client._ssl_context,
                security_protocol=client._security_protocol,
                sasl_mechanism=client._sasl_mechanism,
                sasl_plain_username=client._sasl_plain_username,
                sasl_plain_password=client._sasl_plain_password,
            )
            await connection.close()
            reasons.append(f"{host}:{port}: came up just now")
        except (KafkaError, OSError, TimeoutError) as error:
            reasons.append(f"{host}:{port}: {error or type(error).__name__}")
    return "; ".join(reasons)


def check(code: int) -> None:
    """Raises Kafka's error of a response."""
    if code == UNSTABLE_OFFSET_COMMIT:
        raise UnstableOffsetError
    if code:
        raise errors.for_code(code)(f"code {code}")


def is_passing(error: BaseException) -> bool:
    """Whether the same request may work a little later."""
    return isinstance(error, (OSError, TimeoutError, *_PASSING)) or bool(getattr(error, "retriable", False))


def named(error: BaseException, what: str, *, needs: str = "Describe", **where: object) -> CatchmentError:
    """Kafka's error as what the caller must do, with a reason that a person can act on.

    What is not allowed is `Retry`: it is another's to grant, and that may happen at any time.
    """
    said = str(error) or type(error).__name__
    for kind, resource in _DENIED.items():
        if isinstance(error, kind):
            which = "" if not error.args or str(error.args[0]).startswith("code ") else f" {error.args[0]}"
            grant = resource.format(needs=needs)
            return Retry(
                f"{what}: not allowed; grant our user {grant}{which}, see the ACLs in docs/operate.md", **where
            )
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError | errors.InvalidTopicError):
        return Invalid(f"{what}: {said}", **where)
    return Retry(f"{what}: {said}", **where)
