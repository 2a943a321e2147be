"""Targets for scraping, and a scraper whose records go into an edge, all in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from aiohttp import web

from catchment.errors import Invalid, Reject
from catchment.telemetry import Telemetry
from collectors.records import Outcome, Received
from collectors.scrape.fetch import Answer, Client
from collectors.scrape.record import Record
from collectors.scrape.scraper import Scraper
from collectors.tenants import Sender
from tests.clients.text_server import TEXT
from tests.edge_harness import EdgeHarness, Row
from tests.otlp import T0_NS


@dataclass
class Target:
    """A server that answers a text or bytes, and remembers what it was asked; use `serving`."""

    text: str | bytes = "# TYPE level gauge\nlevel 1\n"
    content_type: str = TEXT
    status: int = 200
    wait_seconds: float = 0.0
    asked: list[web.Request] = field(default_factory=list)
    address: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        """What it is told to answer."""
        self.asked.append(request)
        await asyncio.sleep(self.wait_seconds)
        body = self.text if isinstance(self.text, bytes) else self.text.encode()
        response = web.Response(body=body, status=self.status, headers={"content-type": self.content_type})
        response.enable_compression()
        return response


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Answer every GET on a free port; its address."""
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    assert site._server is not None
    try:
        yield f"127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def serving(target: Target | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
    """A target on a free port."""
    target = target or Target()
    async with listening(target.answer, tls) as target.address:
        yield target


@dataclass
class EdgeIntake:
    """An intake that applies each record at once; ``refusals`` are raised first, one a record."""

    edge: EdgeHarness
    records: list[Record] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    refusals: list[Exception] = field(default_factory=list)

    async def submit(self, received: Received) -> Outcome:
        """Apply a record."""
        if self.refusals:
            raise self.refusals.pop(0)
        self.records.append(Record.of(received.body))
        self.received.append(received)
        outcomes, staged = self.edge.edge.stage([received], [received.body])
        self.edge.edge.apply(staged, [received])
        (outcome,) = outcomes
        if isinstance(outcome, Invalid):
            raise outcome
        return outcome

    def rows(self) -> list[Row]:
        """Rows of all that came since the last call."""
        return self.edge.flush((time.time_ns() - T0_NS) / 1e9 + 3600)


@dataclass
class Scraping:
    """A running scraper."""

    scraper: Scraper
    intake: EdgeIntake
    telemetry: Telemetry

    async def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        """Wait for something; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)

    async def scrapes(self, more: int) -> None:
        """Wait for some more records."""
        wanted = len(self.intake.records) + more
        await self.until(lambda: len(self.intake.records) >= wanted)


@contextlib.asynccontextmanager
async def scraping(
    file: Path,
    edge: EdgeHarness | None = None,
    *refusals: Reject,
    body_bytes_max: int = 1 << 20,
    wait_seconds_min: float = 30.0,
) -> AsyncIterator[Scraping]:
    """A scraper of a file, stopped gracefully in the end.

    It waits at least ``wait_seconds_min`` for an answer, whatever its timeout, which it says to the target all the
    same: both are in one loop, and a target is not down because this machine does something else. 0 leaves timeouts be.
    """
    intake = EdgeIntake(edge or EdgeHarness(known_since=(time.time_ns() - T0_NS) / 1e9), refusals=list(refusals))
    telemetry = Telemetry()
    sender = Sender("acme", "tokyo-1", '{"zone":"a"}')
    scraper = Scraper(file, sender, intake, telemetry, lambda: "policy-1", body_bytes_max, 100_000)
    stop = asyncio.Event()
    get = Client.get

    async def get_patiently(client: Client, url: str, *, timeout_seconds: float, **arguments: Any) -> Answer:
        return await get(client, url, timeout_seconds=max(timeout_seconds, wait_seconds_min), **arguments)

    with mock.patch.object(Client, "get", get_patiently):
        running = asyncio.create_task(scraper.run(stop))
        try:
            yield Scraping(scraper, intake, telemetry)
        finally:
            stop.set()
            await running
