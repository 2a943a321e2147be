"""The SQL endpoint: the ClickHouse HTTP interface in front of an `Engine`, read-only. An ASGI application.

Path of a request: admit (`store.access`) → read (`store.sql_request`) → guard (`store.sql_guard`, `store.sql_tree`) →
settings (`store.sql_settings`) → engine, in a thread (`store.sql_answer`) → frame, compress (`store.sql_wire`) → send.

Limits, each with its consequence:

1. ``queries_max`` run or are being sent at once; ``queue_max`` more wait, for ``queue_seconds_max``; beyond: 503, code
   202. A place is taken before the body is read, so that bodies are bounded, too. A reader of some tenants has at most
   half of both (`store.places`).
2. ``request_bytes_max`` for the URL and for the body, as sent and after decompression: 413, code 170.
3. `QueryLimits` per query: codes 241 (memory), 159 (time), 396 (result size). The engine goes on.
4. A result is held whole, once, and sent in pieces of 1 MiB at the reader's pace, each encoded when it is due. So
   memory is at most ``queries_max`` × (query memory + result). A reader that takes longer than ``send_seconds_max``
   for an answer, or than ``request_seconds_max`` to send its request, is cut off.

5. Connections beyond 512 are closed as they come (`HttpServer`).

A reader that goes away does not stop its query; the time limit does. Errors carry ClickHouse's text, code header and
HTTP status, so that clients classify them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvicorn

from catchment.http_server import HttpServer
from store.access import admit
from store.engine.port import Engine, EngineError
from store.places import TOO_MANY_SIMULTANEOUS_QUERIES, Places
from store.readers import Readers
from store.sql_answer import Answer, Catalogue, answer, read_catalogue
from store.sql_request import read_credentials, read_request, url_parameters
from store.sql_settings import QueryLimits
from store.sql_wire import too_large

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = list[tuple[str, str]]
_T = TypeVar("_T")

_log = logging.getLogger(__name__)

UNKNOWN_EXCEPTION = 1002
_CONNECTIONS_MAX = 512
_DISPLAY_NAME = "catchment"
# What ClickHouse answers per error code (exceptionCodeToHTTPStatus); everything else is 500. 202 alone differs: 503
# tells a client that it may come back.
_STATUS = {194: 401, 170: 413, 48: 501, 159: 408, 209: 503, 439: 503, TOO_MANY_SIMULTANEOUS_QUERIES: 503}
_STATUS |= dict.fromkeys((192, 193, 497, 516), 403)
_STATUS |= dict.fromkeys((6, 25, 26, 27, 36, 38, 41, 44, 53, 62, 72, 117, 167, 168, 321, 376, 427, 675, 676), 400)
_STATUS |= dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 81, 115, 511), 404)


@dataclass(frozen=True)
class SqlEndpointConfig:
    """The endpoint's limits and users.

    Attributes:
        users: name → SHA-256 of the password, in hex; they see everything. Without a user only loopback is served.
        readers: gives the readers in force; None: there is no readers file.
        queries_max: queries that run, or whose answers are being sent, at once.
        queue_max: queries that wait; one more is answered 503.
        queue_seconds_max: how long one waits before it is answered 503.
        request_bytes_max: of a URL, and of a body as sent and decompressed; beyond: 413.
        request_seconds_max: how long a reader may take to send a body; beyond: cut off.
        send_seconds_max: how long a reader may take to read an answer; beyond: cut off.
        limits: of each query.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    readers: Callable[[], Readers] | None = None
    queries_max: int = 8
    queue_max: int = 64
    queue_seconds_max: float = 30
    request_bytes_max: int = 1024**2
    request_seconds_max: float = 15
    send_seconds_max: float = 300
    limits: QueryLimits = field(default_factory=QueryLimits)


def make_app(engine: Engine, *, config: SqlEndpointConfig) -> App:
    """The endpoint as an ASGI application.

    Args:
        engine: read through ``query`` only, from at most ``config.queries_max`` threads; not closed here.
        config: limits and users.
    """
    return _Endpoint(engine, config)


async def serve(
    app: App,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    on_listening: Callable[[int], None] | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serve until ``stop`` is set; then let running queries end (at most 10 seconds) and return.

    Signals are left to the caller.

    Args:
        app: of `make_app`.
        host: an address or name.
        port: 0 for any that is free.
        stop: set by the caller.
        on_listening: told the port once connections are accepted.
        tls: of the listener; None serves without.

    Raises:
        OSError: the address cannot be bound.
    """
    address = (await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
    sock = socket.create_server(address[4][:2], family=address[0], backlog=512)
    config = uvicorn.Config(
        app,
        http="httptools",
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        # The peer's address decides who may read: no header may replace it.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    server = HttpServer(config, _CONNECTIONS_MAX)
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        if on_listening is not None:
            on_listening(int(sock.getsockname()[1]))
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        stopping.cancel()
        sock.close()


class _Endpoint:
    """The application: routes, places, errors."""

    def __init__(self, engine: Engine, config: SqlEndpointConfig) -> None:
        self._engine = engine
        self._config = config
        self._threads = ThreadPoolExecutor(config.queries_max, thread_name_prefix="sql")
        self._places = Places(config.queries_max, config.queue_max, config.queue_seconds_max)
        self._catalogue: Catalogue | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        reply = _Reply(send, head_only=scope["method"] == "HEAD", seconds_max=self._config.send_seconds_max)
        try:
            await self._route(scope, headers, receive, reply)
        except EngineError as error:
            await reply.error(error, self._version())
        except ConnectionResetError:
            # The reader went away: there is nobody to tell.
            return
        except TimeoutError:
            _log.warning("a SQL reader was too slow and is cut off")
            raise
        except Exception as error:
            if reply.started:
                raise
            _log.exception("a SQL request failed unexpectedly")
            text = f"{type(error).__name__}: see the log of the store."
            await reply.error(EngineError(UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", text), self._version())

    def _version(self) -> str:
        return self._catalogue.version if self._catalogue else ""

    async def _route(self, scope: Message, headers: dict[str, str], receive: Receive, reply: _Reply) -> None:
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            await reply.text(501, f"Unsupported method {method}\n")
        elif path in ("/ping", "/replicas_status"):
            await reply.text(200, "Ok.\n")
        elif path != "/":
            await reply.text(404, f"There is no handle {path}\n\nUse / or /ping for health checks.\n")
        elif method != "POST" and b"query=" not in scope["query_string"]:
            await reply.text(200, "Ok.\n")
        else:
            await self._query(scope, headers, receive, reply)

    async def _query(self, scope: Message, headers: dict[str, str], receive: Receive, reply: _Reply) -> None:
        config = self._config
        if len(scope["query_string"]) > config.request_bytes_max:
            raise too_large(config.request_bytes_max)
        try:
            parameters = url_parameters(scope["query_string"])
        except ValueError as error:
            raise EngineError(36, "BAD_ARGUMENTS", f"The URL cannot be read: {error}.") from None
        query_id = parameters.get("query_id") or headers.get("x-clickhouse-query-id") or str(uuid.uuid4())
        reply.headers = [("X-ClickHouse-Query-Id", _header_value(query_id))]
        peer = scope["client"][0] if scope.get("client") else ""
        readers = config.readers() if config.readers is not None else None
        reader = admit(read_credentials(headers, parameters), peer, headers.get("host", ""), config.users, readers)
        async with self._places.place(reader):
            body = await self._body(receive)
            catalogue = await self._known()
            request = read_request(parameters, headers, body, bytes_max=config.request_bytes_max)
            ask = functools.partial(answer, self._engine, request, config.limits, catalogue, reader.tenants)
            done = await self._in_thread(ask)
            reply.headers.append(("X-ClickHouse-Timezone", catalogue.timezone))
            await self._send(reply, done)

    async def _send(self, reply: _Reply, done: Answer) -> None:
        """Send an answer piece by piece; what costs CPU is done in the thread pool."""
        first = await self._in_thread(lambda: next(done.parts, b""))
        second = await self._in_thread(lambda: next(done.parts, None))
        if second is None:
            await reply.whole(200, done.headers, first)
            return
        await reply.start(200, done.headers)
        piece: bytes | memoryview | None = first
        following: bytes | memoryview | None = second
        while piece is not None:
            await reply.piece(piece)
            piece, following = following, None
            if piece is not None:
                following = await self._in_thread(lambda: next(done.parts, None))
        await reply.end()

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        async with asyncio.timeout(self._config.request_seconds_max):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError("the reader went away before its request was whole")
                body += message.get("body", b"")
                if len(body) > self._config.request_bytes_max:
                    raise too_large(self._config.request_bytes_max)
                if not message.get("more_body"):
                    return bytes(body)

    async def _known(self) -> Catalogue:
        if self._catalogue is None:
            self._catalogue = await self._in_thread(functools.partial(read_catalogue, self._engine))
        return self._catalogue

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class _Reply:
    """The answer of one request on its way out."""

    def __init__(self, send: Send, *, head_only: bool, seconds_max: float) -> None:
        self._send_message = send
        self._head_only = head_only
        self._seconds_max = seconds_max
        self._deadline = 0.0
        self.started = False
        self.headers: Headers = []

    async def text(self, status: int, text: str) -> None:
        await self.whole(status, [("Content-Type", "text/html; charset=UTF-8")], text.encode())

    async def error(self, error: EngineError, version: str) -> None:
        """ClickHouse's error text, code and status."""
        message = re.sub(r"^(?:Code: \d+\. DB::Exception: )+", "", error.message).strip()
        message = re.sub(rf"\.?(?: \(version [^()]*\)\.?| \({error.name}\)\.?)*$", "", message)
        suffix = f" (version {version})" if version else ""
        body = f"Code: {error.code}. DB::Exception: {message}. ({error.name}){suffix}\n"
        headers: Headers = [
            ("Content-Type", "text/plain; charset=UTF-8"),
            ("X-ClickHouse-Exception-Code", str(error.code)),
        ]
        status = _STATUS.get(error.code, 500)
        if status == 401:
            headers.append(("WWW-Authenticate", 'Basic realm="ClickHouse server HTTP API"'))
        if status == 503:
            headers.append(("Retry-After", "1"))
        await self.whole(status, headers, body.encode())

    async def whole(self, status: int, headers: Headers, body: bytes | memoryview) -> None:
        await self.start(status, [*headers, ("Content-Length", str(len(body)))])
        if not self._head_only:
            await self.piece(body)
        await self.end()

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self._deadline = asyncio.get_running_loop().time() + self._seconds_max
        common = [("X-ClickHouse-Server-Display-Name", _DISPLAY_NAME), *self.headers]
        if not any(name == "X-ClickHouse-Query-Id" for name, _ in self.headers):
            common.append(("X-ClickHouse-Query-Id", str(uuid.uuid4())))
        pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in [*headers, *common]]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def piece(self, body: bytes | memoryview) -> None:
        if not self._head_only:
            await self._send({"type": "http.response.body", "body": bytes(body), "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, message: Message) -> None:
        async with asyncio.timeout_at(self._deadline):
            await self._send_message(message)


def _header_value(text: str) -> str:
    """A client's own text as a header value: printable ASCII of a bounded length."""
    return "".join(character for character in text[:200] if " " <= character <= "~")
