"""OTLP over HTTP: ``POST /v1/metrics`` with protobuf or JSON, and the specification's answers.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp

Rules:

1. 200 means durable: it is sent after `Intake.submit` returned, and only then.
2. An error's body is a google.rpc.Status in the request's content type. 4xx: the same request will never do. 429 (the
   tenant's own rate) and 503 with Retry-After: come back.
3. A body is held once, as received; one that grows beyond the limit is refused while it is read. A sender that does not
   finish its body in time is refused as well.
4. A sender that hangs up while its request is being taken in changes nothing: the request is finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from catchment.errors import CatchmentError, Invalid, Reject, Retry
from collectors.admit import Admit, Unauthenticated
from collectors.content import CONTENT_TYPES, ENCODINGS, JSON, PROTOBUF, TooLarge
from collectors.rates import RateLimited
from collectors.receive.serving import (
    ACCEPTED,
    InFlight,
    Limits,
    Observe,
    Serving,
    bind,
    reason_of,
    retry_after_seconds,
    status_of,
    submit,
    too_many,
    unobserved,
)
from collectors.receive.tls import Certificates, names_of_peer
from collectors.records import Intake, Outcome, Received
from collectors.tenants import Sender

_LOG = logging.getLogger(__name__)
_SIGNALS = {"/v1/metrics": "metrics"}
_KEEP_ALIVE_SECONDS = 75
_STOP_SECONDS_MAX = 20
_CERTIFICATE = "catchment.certificate"
_ACCEPTED = Outcome()
_ACCEPTED_BODY = {PROTOBUF: b"", JSON: b"{}"}


class _Answer(Exception):
    """An answer other than success."""

    def __init__(
        self, http_status: int, error: CatchmentError, *headers: tuple[bytes, bytes], reason: str = ""
    ) -> None:
        super().__init__(error.reason)
        self.reason = reason or reason_of(error)
        self.http_status = http_status
        self.error = error
        self.headers = headers


@dataclass(slots=True)
class _Request:
    """What is known of a request so far."""

    sender: Sender | None = None
    size_bytes: int = 0


class _Disconnected(Exception):
    """The sender hung up before its body was complete."""


class OtlpHttp:
    """The ASGI application.

    Args:
        body_seconds_max: how long a sender may take for its body.
    """

    def __init__(
        self,
        intake: Intake,
        admit: Admit,
        limits: Limits,
        observe: Observe = unobserved,
        *,
        body_seconds_max: float = 30.0,
    ) -> None:
        self._intake = intake
        self._observe = observe
        self._admit = admit
        self._limits = limits
        self._body_seconds_max = body_seconds_max
        self._in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = _headers(scope["headers"])
        content_type = _media_type(headers.get(b"content-type", b""))
        request = _Request()
        try:
            outcome = await self._serve(scope, headers, content_type, receive, request)
        except _Disconnected:
            return
        except _Answer as answer:
            self._observe("http", answer.reason, request.size_bytes, request.sender)
            await _send_error(send, content_type, answer)
            return
        self._observe("http", ACCEPTED, request.size_bytes, request.sender)
        body = _ACCEPTED_BODY[content_type] if outcome == _ACCEPTED else _partial_success(outcome, content_type)
        await _send(send, 200, content_type, body)

    async def _serve(
        self,
        scope: Any,
        headers: dict[bytes, bytes],
        content_type: str,
        receive: ASGIReceiveCallable,
        request: _Request,
    ) -> Outcome:
        signal = _SIGNALS.get(scope["path"])
        if signal is None:
            raise _Answer(404, Invalid(f"no such path; known are {', '.join(_SIGNALS)}"), reason="unknown_path")
        if scope["method"] != "POST":
            raise _Answer(405, Invalid("only POST is served here"), (b"allow", b"POST"), reason="not_post")
        with _answers():
            client = scope.get("client")
            request.sender = sender = self._admit.sender(
                _text(headers.get(b"authorization")),
                client[0] if client else "",
                forwarded=b"x-forwarded-for" in headers or b"forwarded" in headers,
                certificate_names=scope.get("extensions", {}).get(_CERTIFICATE, {}).get("names"),
            )
            self._admit.rates.admit(sender.tenant)
        encoding = headers.get(b"content-encoding", b"").strip().lower().decode("latin-1")
        encoding = "" if encoding == "identity" else encoding
        if content_type not in CONTENT_TYPES:
            error = Invalid(f"content type must be {' or '.join(CONTENT_TYPES)}")
            raise _Answer(415, error, reason="unsupported_content")
        if encoding not in ENCODINGS:
            accepted = ", ".join(ENCODINGS[1:])
            error = Invalid(f"content encoding must be one of {accepted}, or none")
            raise _Answer(415, error, (b"accept-encoding", accepted.encode()), reason="unsupported_content")
        if self._in_flight.count >= self._limits.requests_in_flight_max:
            with _answers():
                raise too_many(self._limits)
        self._in_flight.count += 1
        try:
            try:
                body = await self._read(headers, receive, request)
            finally:
                self._admit.rates.pay(sender.tenant, "bytes", request.size_bytes)
            received = Received(
                signal=signal,
                tenant=sender.tenant,
                cluster=sender.cluster,
                labels=sender.labels,
                content_type=content_type,
                content_encoding=encoding,
                received_ns=time.time_ns(),
                policy_version=self._admit.policy_version,
                body=body,
            )
            with _answers():
                return await submit(self._intake, self._admit.rates, received)
        finally:
            self._in_flight.count -= 1
            self._in_flight.size_bytes -= request.size_bytes

    async def _read(self, headers: dict[bytes, bytes], receive: ASGIReceiveCallable, request: _Request) -> bytes:
        """The body, refused as soon as it is known to be too large."""
        bytes_max = self._limits.request_bytes_max
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > bytes_max:
            raise _too_large(bytes_max)
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(self._body_seconds_max):
                while True:
                    event: Any = await receive()
                    if event["type"] == "http.disconnect":
                        raise _Disconnected
                    piece = event.get("body", b"")
                    request.size_bytes += len(piece)
                    self._in_flight.size_bytes += len(piece)
                    if request.size_bytes > bytes_max:
                        raise _too_large(bytes_max)
                    if self._in_flight.size_bytes > self._limits.intake_queue_bytes_max:
                        with _answers():
                            raise Reject(
                                "too much is being received", retry_after_seconds=self._limits.retry_after_seconds
                            )
                    pieces.append(piece)
                    if not event.get("more_body", False):
                        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except TimeoutError:
            error = Invalid(f"body was not complete after {self._body_seconds_max:g} seconds")
            raise _Answer(408, error, (b"connection", b"close")) from None


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Turn the errors of admission and intake into answers."""
    try:
        yield
    except TooLarge as error:
        raise _Answer(413, error) from error
    except Invalid as error:
        raise _Answer(400, error) from error
    except Unauthenticated as error:
        raise _Answer(401, error, (b"www-authenticate", b"Bearer")) from error
    except (Reject, Retry) as error:
        http_status = 429 if isinstance(error, RateLimited) else 503
        raise _Answer(http_status, error, (b"retry-after", str(retry_after_seconds(error)).encode())) from error
    except CatchmentError as error:
        _LOG.exception("request failed")
        raise _Answer(500, error) from error


def _too_large(bytes_max: int) -> _Answer:
    return _Answer(413, TooLarge(f"request is too large: more than {bytes_max} bytes"))


def _headers(pairs: Any) -> dict[bytes, bytes]:
    """Header values by name; repeated ones are joined as RFC 9110 §5.3 says, so that none is overlooked."""
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")


def _media_type(value: bytes) -> str:
    return value.partition(b";")[0].strip().lower().decode("latin-1")


def _partial_success(outcome: Outcome, content_type: str) -> bytes:
    response = ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = outcome.points_rejected
    response.partial_success.error_message = outcome.message
    return _encode(response, content_type)


def _encode(message: Message, content_type: str) -> bytes:
    if content_type == JSON:
        return str(json_format.MessageToJson(message, indent=None)).encode()
    return bytes(message.SerializeToString())


async def _send_error(send: ASGISendCallable, content_type: str, answer: _Answer) -> None:
    status: status_pb2.Status = status_of(answer.error)
    answered = content_type if content_type in CONTENT_TYPES else PROTOBUF
    await _send(send, answer.http_status, answered, _encode(status, answered), *answer.headers)


async def _send(
    send: ASGISendCallable, http_status: int, content_type: str, body: bytes, *headers: tuple[bytes, bytes]
) -> None:
    fixed = ((b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": http_status, "headers": [*fixed, *headers], "trailers": False})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Connection(HttpToolsProtocol):
    """A connection whose requests know the names in its certificate, if it is TLS and has one."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        names = names_of_peer(self.transport.get_extra_info("peercert"))
        if names is not None:
            self.scope["extensions"] = {_CERTIFICATE: {"names": names}}


class _Server(uvicorn.Server):
    """A server inside another program's loop: signals are that program's affair."""

    started_event: asyncio.Event

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        self.started_event.set()


async def serve_http(
    intake: Intake,
    admit: Admit,
    address: str,
    limits: Limits,
    stop: asyncio.Event,
    observe: Observe = unobserved,
    certificates: Certificates | None = None,
) -> Serving:
    """Serve OTLP/HTTP until ``stop`` is set; then finish what is in hand and close.

    Args:
        address: ``host:port``; port 0 takes a free one, see `Serving.port`.
        certificates: for TLS; None serves without.

    Raises:
        CatchmentError: the address cannot be listened on.
    """
    listener = bind(address, "OTLP/HTTP")
    config = uvicorn.Config(
        OtlpHttp(intake, admit, limits, observe),
        http=_Connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        # A peer is who it is: headers of a proxy must not turn a remote sender into a local one.
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS_MAX,
        ssl_context_factory=None if certificates is None else lambda *_: certificates.context,
    )
    server = _Server(config)
    server.started_event = asyncio.Event()

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
        finally:
            stopping.cancel()
            listener.close()

    done = asyncio.create_task(run())
    started = asyncio.create_task(server.started_event.wait())
    await asyncio.wait((done, started), return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        started.cancel()
        await done
    return Serving(listener.getsockname()[1] if listener.fileno() >= 0 else 0, done)
