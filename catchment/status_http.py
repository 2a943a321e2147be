"""The status server: how an operator, a probe and a scraper look at a process.

===================  =====================================================================================
``GET /livez``       200 while the event loop runs
``GET /readyz``      200 when ready, with a line for what is stalled all the same; 503 with one reason a line
``GET /healthz``     the same as JSON, for people and programs:
                     ``{"ready": …, "reasons": […], "stalled": […], "version": …}``
``GET /metrics``     Prometheus text
``POST /-/reload``   200 when the new configuration is in force; 400 with one fault a line, the old one stays.
``POST /-/NAME``     an action of the process, with a JSON object as its body: 200 and what was done, 400 and why not,
                     503 where asking again may help
===================  =====================================================================================

What is posted must come from this machine and not from a web page: 403 else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from catchment.errors import Fenced, Invalid, Retry
from catchment.http_server import HttpServer
from catchment.units import Address
from catchment.version import PROGRAM

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

Action = Callable[[Mapping[str, str]], Awaitable[str]]

_ACTION_BYTES_MAX = 64 * 1024
# Probes, scrapers and people.
_CONNECTIONS_MAX = 64
_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"


async def _nothing() -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Probes:
    """What the server asks the process.

    ``not_ready`` gives the reasons, none when ready; ``reload`` the faults, none when done. ``actions`` are looked up
    by name at each request; each takes the body's texts, says what it did, and raises `Invalid` when it cannot, `Retry`
    or `Fenced` when it cannot now. ``stalled``: for how long and why what the process has does not flow on.
    """

    not_ready: Callable[[], Awaitable[Sequence[str]]]
    metrics: Callable[[], Awaitable[bytes]]
    reload: Callable[[], Awaitable[Sequence[str]]]
    actions: Mapping[str, Action] = field(default_factory=dict)
    stalled: Callable[[], Awaitable[Sequence[str]]] = _nothing


class StatusApp:
    """The ASGI application."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, content_type, body = await self._answer(scope, receive)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, str, bytes]:
        method, path = scope["method"], scope["path"]
        if path.startswith("/-/"):
            return await self._post(scope, receive) if method == "POST" else (405, _TEXT, b"use POST\n")
        if method not in ("GET", "HEAD"):
            return 405, _TEXT, b"use GET\n"
        if path == "/livez":
            return 200, _TEXT, b"ok\n"
        if path == "/metrics":
            return 200, _METRICS, await self._probes.metrics()
        if path == "/readyz":
            reasons = await self._probes.not_ready()
            if reasons:
                return 503, _TEXT, _lines(reasons)
            return 200, _TEXT, _lines(["ok", *(f"stalled {said}" for said in await self._probes.stalled())])
        if path == "/healthz":
            reasons = list(await self._probes.not_ready())
            stalled = list(await self._probes.stalled())
            body = {"ready": not reasons, "reasons": reasons, "stalled": stalled, "version": PROGRAM}
            return (503 if reasons else 200), "application/json", json.dumps(body).encode() + b"\n"
        return 404, _TEXT, b"not found; there is /livez /readyz /healthz /metrics and POST /-/reload\n"

    async def _post(self, scope: Scope, receive: Receive) -> tuple[int, str, bytes]:
        if not _is_local(scope):
            return 403, _TEXT, b"only from this machine\n"
        name = scope["path"].removeprefix("/-/")
        if name == "reload":
            faults = await self._probes.reload()
            return (400 if faults else 200), _TEXT, _lines(faults or ["reloaded"])
        action = self._probes.actions.get(name)
        if action is None:
            return 404, _TEXT, b"no such action here\n"
        try:
            return 200, _TEXT, _lines([await action(await _texts(receive))])
        except Invalid as error:
            return 400, _TEXT, _lines([str(error)])
        except (Retry, Fenced) as error:
            return 503, _TEXT, _lines([f"{error}; ask again"])


def _is_local(scope: Scope) -> bool:
    # A browser says where a request comes from; a page that was lured here must not be obeyed.
    client = scope.get("client")
    from_page = any(name in (b"origin", b"sec-fetch-site") for name, _ in scope["headers"])
    return client is not None and ipaddress.ip_address(client[0]).is_loopback and not from_page


async def _texts(receive: Receive) -> Mapping[str, str]:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > _ACTION_BYTES_MAX:
            raise Invalid(f"the body is over {_ACTION_BYTES_MAX} bytes")
        if not message.get("more_body"):
            break
    try:
        texts = json.loads(body or b"{}")
    except ValueError as error:
        raise Invalid(f"the body is not JSON: {error}") from error
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise Invalid("the body is not a JSON object of texts")
    return texts


class StatusServer:
    """Serves `Probes` in the running event loop; over TLS if it is given a context."""

    def __init__(self, probes: Probes, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            StatusApp(probes),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            # The peer's address decides who may post: no header may replace it.
            proxy_headers=False,
            limit_concurrency=64,
            timeout_graceful_shutdown=1,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )
        self._server = HttpServer(config, _CONNECTIONS_MAX)
        self._task: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> Address:
        """Listen; port 0 takes a free one. Returns the address.

        Raises:
            OSError: the address is taken or not this machine's.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="status")
        return Address(host, listener.getsockname()[1])

    async def stop(self) -> None:
        """Stop listening; returns within about a second."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task


def _lines(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()
