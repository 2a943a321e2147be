"""The HTTP listener: OTLP at ``/v1/metrics`` and Prometheus remote write at ``/api/v1/write``.

Rules:

1. Success means durable: it is sent after `Intake.submit` returned, and only then.
2. An answer's form is its protocol's (`Route`). 4xx: the same request will never do. 429 (the tenant's own rate) and
   503 with Retry-After: come back.
3. A body is held once, as received; one that grows beyond the limit is refused while it is read. A sender that does not
   finish its body in time is refused as well.
4. A sender that hangs up while its request is being taken in changes nothing: the request is finished.
5. Connections beyond `Limits.connections_max` are closed as they come (`HttpServer`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from catchment.errors import Invalid, Reject
from catchment.http_server import HttpServer
from collectors.admit import Admit, is_forwarded
from collectors.receive.http_answers import Refusal, Reply, Route, refusals, too_large
from collectors.receive.otlp_route import OtlpRoute
from collectors.receive.remote_write_route import RemoteWriteRoute
from collectors.receive.serving import (
    ACCEPTED,
    BODY_SECONDS_MAX,
    Limits,
    Observe,
    Serving,
    bind,
    submit,
    too_many,
    unobserved,
)
from collectors.receive.shares import Shares
from collectors.receive.tls import Certificates, names_of_peer
from collectors.records import Intake, Received
from collectors.tenants import Sender

_OTLP = OtlpRoute()
_ROUTES: dict[str, Route] = {"/v1/metrics": _OTLP, "/api/v1/write": RemoteWriteRoute()}
_KEEP_ALIVE_SECONDS = 75
_STOP_SECONDS_MAX = 20
_CERTIFICATE = "catchment.certificate"


@dataclass(slots=True)
class _Request:
    """What is known of a request so far; ``taken_bytes`` is its part of what bodies may have together."""

    sender: Sender | None = None
    size_bytes: int = 0
    taken_bytes: int = 0


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
        body_seconds_max: float = BODY_SECONDS_MAX,
    ) -> None:
        self._intake = intake
        self._observe = observe
        self._admit = admit
        self._limits = limits
        self._body_seconds_max = body_seconds_max
        self._in_flight = Shares(limits.requests_in_flight_max)
        self._bodies_bytes = Shares(limits.intake_queue_bytes_max)

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = _headers(scope["headers"])
        route = _ROUTES.get(scope["path"])
        speaks = route or _OTLP
        request = _Request()
        try:
            reply = await self._serve(route, scope, headers, receive, request)
        except _Disconnected:
            return
        except Refusal as refusal:
            self._observe(speaks.protocol, refusal.reason, request.size_bytes, request.sender)
            await _send(send, speaks.refused(headers, refusal))
            return
        self._observe(speaks.protocol, ACCEPTED, request.size_bytes, request.sender)
        await _send(send, reply)

    async def _serve(
        self,
        route: Route | None,
        scope: Any,
        headers: dict[bytes, bytes],
        receive: ASGIReceiveCallable,
        request: _Request,
    ) -> Reply:
        if route is None:
            raise Refusal(404, Invalid(f"no such path; known are {', '.join(_ROUTES)}"), reason="unknown_path")
        if scope["method"] != "POST":
            raise Refusal(405, Invalid("only POST is served here"), (b"allow", b"POST"), reason="not_post")
        with refusals():
            client = scope.get("client")
            request.sender = sender = self._admit.sender(
                _text(headers.get(b"authorization")),
                client[0] if client else "",
                forwarded=is_forwarded(name.decode("latin-1") for name in headers),
                certificate_names=scope.get("extensions", {}).get(_CERTIFICATE, {}).get("names"),
            )
            self._admit.rates.admit(sender.tenant)
        content_type, encoding = route.content(headers)
        if not self._in_flight.take(sender.tenant):
            with refusals():
                raise too_many(self._limits)
        try:
            try:
                body = await self._read(headers, receive, request, sender)
            finally:
                self._admit.rates.pay(sender.tenant, "bytes", request.size_bytes)
            received = Received(
                signal=route.signal,
                tenant=sender.tenant,
                cluster=sender.cluster,
                labels=sender.labels,
                content_type=content_type,
                content_encoding=encoding,
                received_ns=time.time_ns(),
                policy_version=self._admit.policy_version,
                body=body,
            )
            with refusals():
                outcome = await submit(self._intake, self._admit.rates, received)
            return route.accepted(content_type, outcome)
        finally:
            self._in_flight.give(sender.tenant)
            self._bodies_bytes.give(sender.tenant, request.taken_bytes)

    async def _read(
        self, headers: dict[bytes, bytes], receive: ASGIReceiveCallable, request: _Request, sender: Sender
    ) -> bytes:
        """The body, refused as soon as it is known to be too large."""
        bytes_max = self._limits.request_bytes_max
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > bytes_max:
            raise too_large(bytes_max)
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(self._body_seconds_max):
                while True:
                    event: Any = await receive()
                    if event["type"] == "http.disconnect":
                        raise _Disconnected
                    piece = event.get("body", b"")
                    request.size_bytes += len(piece)
                    if request.size_bytes > bytes_max:
                        raise too_large(bytes_max)
                    if not self._bodies_bytes.take(sender.tenant, len(piece), for_one=request.taken_bytes):
                        with refusals():
                            raise Reject(
                                "too much is being received", retry_after_seconds=self._limits.retry_after_seconds
                            )
                    request.taken_bytes += len(piece)
                    pieces.append(piece)
                    if not event.get("more_body", False):
                        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except TimeoutError:
            error = Invalid(f"body was not complete after {self._body_seconds_max:g} seconds")
            raise Refusal(408, error, (b"connection", b"close")) from None


def _headers(pairs: Any) -> dict[bytes, bytes]:
    """Header values by name; repeated ones are joined as RFC 9110 §5.3 says, so that none is overlooked."""
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "surrogateescape")


async def _send(send: ASGISendCallable, reply: Reply) -> None:
    fixed = [(b"content-length", str(len(reply.body)).encode())] if reply.http_status != 204 else []
    if reply.content_type:
        fixed.insert(0, (b"content-type", reply.content_type.encode()))
    headers = [*fixed, *reply.headers]
    await send({"type": "http.response.start", "status": reply.http_status, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


class _Connection(HttpToolsProtocol):
    """A connection whose requests know the names in its certificate, if it is TLS and has one."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        names = names_of_peer(self.transport.get_extra_info("peercert"))
        if names is not None:
            self.scope["extensions"] = {_CERTIFICATE: {"names": names}}


async def serve_http(
    intake: Intake,
    admit: Admit,
    address: str,
    limits: Limits,
    stop: asyncio.Event,
    observe: Observe = unobserved,
    certificates: Certificates | None = None,
) -> Serving:
    """Serve HTTP until ``stop`` is set; then finish what is in hand and close.

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
    server = HttpServer(config, limits.connections_max)

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
    started = asyncio.create_task(server.listening.wait())
    await asyncio.wait((done, started), return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        started.cancel()
        await done
    return Serving(listener.getsockname()[1] if listener.fileno() >= 0 else 0, done)
