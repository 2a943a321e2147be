"""An HTTP server inside another program's loop, whose connections have a limit.

Rules:

1. A connection beyond the limit is closed as it comes, before its TLS handshake: each is a file, and without files
   nothing works. One whose handshake has not ended counts, and has little time for it.
2. Signals are left to the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Collection, Iterator, Sequence

import uvicorn

_LOG = logging.getLogger(__name__)
_HANDSHAKE_SECONDS_MAX = 20.0
_NO_FILES_SECONDS = 0.5


class HttpServer(uvicorn.Server):
    """Serves until ``should_exit``; ``listening`` is set once it does.

    Args:
        config: of uvicorn.
        connections_max: how many there may be at once.
    """

    def __init__(self, config: uvicorn.Config, connections_max: int) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._connections_max = connections_max
        self._connecting: dict[asyncio.Task[None], asyncio.Protocol] = {}

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        # Given none, it takes none by itself: it would without a limit.
        await super().startup(sockets=[])
        accepting = [asyncio.create_task(self._accept(listener), name="accept") for listener in sockets or ()]
        self.servers = [_Accepting(accepting, self._connecting)]  # type: ignore[list-item]  # what is asked of one
        self.listening.set()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Of the sender who has gone already, or of want of files, which others may give back.
                _LOG.warning("a connection cannot be accepted", extra={"error": str(error)})
                await asyncio.sleep(_NO_FILES_SECONDS)
                continue
            if self._is_full():
                connection.close()
                continue
            protocol = self._protocol()
            task = asyncio.create_task(self._connect(connection, protocol))
            self._connecting[task] = protocol
            task.add_done_callback(self._connecting.pop)

    def _is_full(self) -> bool:
        up = self.server_state.connections
        if len(up) + len(self._connecting) < self._connections_max:
            return False
        # Those that have just come up are in both.
        return len(up) + sum(each not in up for each in self._connecting.values()) >= self._connections_max

    async def _connect(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        tls = self.config.ssl
        seconds_max = None if tls is None else _HANDSHAKE_SECONDS_MAX
        # A handshake that fails, or a certificate that cannot be read, is the client's affair.
        with contextlib.suppress(OSError, ValueError):
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol, connection, ssl=tls, ssl_handshake_timeout=seconds_max
            )

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn has it
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


class _Accepting:
    """What uvicorn stops: the tasks that accept, and those of connections that are not yet up."""

    def __init__(self, accepting: Sequence[asyncio.Task[None]], connecting: Collection[asyncio.Task[None]]) -> None:
        self._accepting = accepting
        self._connecting = connecting

    def close(self) -> None:
        for task in (*self._accepting, *self._connecting):
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._accepting, *self._connecting, return_exceptions=True)
