"""OTLP over gRPC: ``MetricsService/Export`` with the message left as bytes.

Source: https://opentelemetry.io/docs/specs/otlp/#otlpgrpc

Rules:

1. OK means durable: it is sent after `Intake.submit` returned, and only then.
2. Errors carry a google.rpc.Status in ``grpc-status-details-bin``: RetryInfo with UNAVAILABLE (come back), BadRequest
   with INVALID_ARGUMENT (never again).
3. Who sends is known before the message is read, or one that nobody knows could fill the memory with what it has not
   finished. A message that is not complete in time is pushed back.
4. A client that cancels while its request is being taken in changes nothing: the request is finished, counted as in
   flight until then, and paid for.
5. Connections beyond `Limits.connections_max` are closed as they come: each is a file, and without files nothing works.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import urllib.parse
from typing import Any, NoReturn

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from catchment.errors import CatchmentError, Invalid, Reject
from collectors.admit import Admit, is_forwarded
from collectors.content import PROTOBUF
from collectors.receive.serving import (
    ACCEPTED,
    BODY_SECONDS_MAX,
    Limits,
    Observe,
    Serving,
    bind,
    cannot_listen,
    reason_of,
    split_address,
    status_of,
    submit,
    too_many,
    unobserved,
)
from collectors.receive.shares import Shares
from collectors.receive.tls import Certificates, names_of_call
from collectors.records import Intake, Outcome, Received
from collectors.tenants import Sender

_LOG = logging.getLogger(__name__)
_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"
_STOP_SECONDS_MAX = 20
_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_PEER = re.compile(r"ipv[46]:\[?([^\]]*?)\]?(?::\d+)?")


class _NoMessage(Invalid):
    """The client has gone, its message is too large, which gRPC has told it, or it sent none: not known which."""


class OtlpGrpc:
    """The handler of the service.

    Args:
        message_seconds_max: how long a sender may take for its message.
    """

    def __init__(
        self,
        intake: Intake,
        admit: Admit,
        limits: Limits,
        observe: Observe = unobserved,
        *,
        message_seconds_max: float = BODY_SECONDS_MAX,
    ) -> None:
        self._intake = intake
        self._observe = observe
        self._admit = admit
        self._limits = limits
        self._message_seconds_max = message_seconds_max
        self._in_flight = Shares(limits.requests_in_flight_max)
        self._tasks: set[asyncio.Task[Outcome]] = set()

    async def export(self, messages: Any, context: Any) -> bytes:
        """Serve one call; the answer is an ExportMetricsServiceResponse.

        It is served as a stream of one message (equal on the wire), since others are read before the handler is asked.
        """
        del messages  # read from the context, which costs less
        sender: Sender | None = None
        request = b""
        try:
            sender = self._sender(context)
            self._admit.rates.admit(sender.tenant)
            request = await self._read(context, sender)
            self._admit.rates.pay(sender.tenant, "bytes", len(request))
            outcome = await self._submit(request, sender)
        except _NoMessage as error:
            await _abort(context, error)
        except CatchmentError as error:
            self._observe("grpc", reason_of(error), len(request), sender)
            if status_of(error).code == grpc.StatusCode.INTERNAL.value[0]:
                _LOG.exception("request failed")
            await _abort(context, error)
        if not outcome.points_rejected and not outcome.message:
            return b""
        response = ExportMetricsServiceResponse()
        response.partial_success.rejected_data_points = outcome.points_rejected
        response.partial_success.error_message = outcome.message
        return bytes(response.SerializeToString())

    def _sender(self, context: Any) -> Sender:
        metadata: dict[str, str] = {}
        for key, value in context.invocation_metadata() or ():
            # Of two, neither is overlooked, as over HTTP.
            metadata[key] = f"{metadata[key]}, {value}" if key in metadata else value
        return self._admit.sender(
            metadata.get("authorization"),
            peer_address(context.peer()),
            forwarded=is_forwarded(metadata),
            certificate_names=names_of_call(context.auth_context()),
        )

    async def _read(self, context: Any, sender: Sender) -> bytes:
        """The message, with a place taken for the request; who gets none gives it back."""
        if not self._in_flight.take(sender.tenant):
            raise too_many(self._limits)
        message = None
        try:
            async with asyncio.timeout(self._message_seconds_max):
                message = await context.read()
        except TimeoutError:
            said = f"message was not complete after {self._message_seconds_max:g} seconds"
            raise Reject(said, retry_after_seconds=self._limits.retry_after_seconds) from None
        finally:
            if not isinstance(message, bytes):
                self._in_flight.give(sender.tenant)
        if not isinstance(message, bytes):
            raise _NoMessage("no message")
        return message

    async def _submit(self, request: bytes, sender: Sender) -> Outcome:
        received = Received(
            signal="metrics",
            tenant=sender.tenant,
            cluster=sender.cluster,
            labels=sender.labels,
            content_type=PROTOBUF,
            content_encoding="",
            received_ns=time.time_ns(),
            policy_version=self._admit.policy_version,
            body=request,
        )
        task = asyncio.create_task(self._take_in(received, sender))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _take_in(self, received: Received, sender: Sender) -> Outcome:
        try:
            outcome = await submit(self._intake, self._admit.rates, received)
        finally:
            self._in_flight.give(sender.tenant)
        self._observe("grpc", ACCEPTED, len(received.body), sender)
        return outcome


def peer_address(peer: str) -> str:
    """The IP address in gRPC's name of a peer (``ipv4:127.0.0.1:5``, ``ipv6:%5B::1%5D:5``); "" if it has none."""
    found = _PEER.fullmatch(urllib.parse.unquote(peer))
    return found[1] if found else ""


async def _abort(context: Any, error: CatchmentError) -> NoReturn:
    status = status_of(error)
    await context.abort(_CODES[status.code], status.message, ((_DETAILS, status.SerializeToString()),))
    raise AssertionError("abort returns never")


async def serve_grpc(
    intake: Intake,
    admit: Admit,
    address: str,
    limits: Limits,
    stop: asyncio.Event,
    observe: Observe = unobserved,
    certificates: Certificates | None = None,
) -> Serving:
    """Serve OTLP/gRPC until ``stop`` is set; then finish what is in hand and close.

    Args:
        address: ``host:port``; port 0 takes a free one, see `Serving.port`.
        certificates: for TLS; None serves without.

    Raises:
        CatchmentError: the address cannot be listened on.
    """
    host, port = split_address(address)
    # gRPC logs a taken port at length and raises without a reason: a plain socket asks first.
    bind(address, "OTLP/gRPC").close()
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.request_bytes_max),
            ("grpc.so_reuseport", 0),
            ("grpc.max_allowed_incoming_connections", limits.connections_max),
        ),
        # Beyond this, calls are refused before they are read; up to it, with a hint when to come back.
        maximum_concurrent_rpcs=2 * limits.requests_in_flight_max,
    )
    handler = OtlpGrpc(intake, admit, limits, observe)
    # Without (de)serialisers a message stays bytes.
    methods = {"Export": grpc.stream_unary_rpc_method_handler(handler.export)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    try:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if certificates is None:
            bound = server.add_insecure_port(where)
        else:
            bound = server.add_secure_port(where, certificates.grpc_credentials())
    except RuntimeError as error:
        raise cannot_listen(address, "OTLP/gRPC", OSError(0, str(error))) from error
    await server.start()

    async def run() -> None:
        await stop.wait()
        await server.stop(_STOP_SECONDS_MAX)

    return Serving(bound, asyncio.create_task(run()))
