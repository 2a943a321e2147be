"""A keep-alive HTTP/1.1 connection that posts OTLP bodies: as little as a sender needs, so that 3,000 stations fit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

_ANSWER_BYTES_MAX: Final = 1 << 20
RETRYABLE: Final = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True)
class Answer:
    """What the server said. ``retry_after_seconds`` is 0 where it gave no hint."""

    status: int
    body: bytes
    retry_after_seconds: float


class Connection:
    """One connection to ``host:port``, opened when it is first needed and again after it broke."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, token: str, body: bytes, timeout_seconds: float) -> Answer:
        """Post a gzipped protobuf body.

        Raises:
            OSError, EOFError, TimeoutError, ValueError: no whole answer; whether the server has the body is unknown.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._post(path, token, body)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; does not block."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _post(self, path: str, token: str, body: bytes) -> Answer:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/x-protobuf\r\nContent-Encoding: gzip\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await self._writer.drain()
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ", 2)[1])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        answer = await self._read_body(self._reader, headers)
        if headers.get("connection", "").lower() == "close" or (
            "content-length" not in headers and "transfer-encoding" not in headers
        ):
            self.close()
        hint = headers.get("retry-after", "0")
        return Answer(status, answer, float(hint) if hint.isdigit() else 0.0)

    async def _read_body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int((await reader.readline()).split(b";")[0], 16):
                parts.append(await reader.readexactly(_bounded(size)))
                await reader.readline()
            await reader.readline()
            return b"".join(parts)
        if "content-length" in headers:
            return await reader.readexactly(_bounded(int(headers["content-length"])))
        return await reader.read(_ANSWER_BYTES_MAX)


def _bounded(size: int) -> int:
    if not 0 <= size <= _ANSWER_BYTES_MAX:
        raise ValueError(f"an answer of {size} bytes")
    return size
