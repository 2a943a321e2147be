"""A small HTTP/1.1 client for status servers on this machine, in the running event loop."""

from __future__ import annotations

import asyncio

_ANSWER_BYTES_MAX = 16 * 1024 * 1024


async def request(
    host: str, port: int, path: str, *, method: str = "GET", timeout_seconds: float = 2.0
) -> tuple[int, bytes]:
    """One request on a connection of its own; returns status and body.

    Raises:
        OSError: no answer in time, or not HTTP.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(host, port, limit=_ANSWER_BYTES_MAX)
            try:
                head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                writer.write(head.encode("ascii"))
                answer = await reader.read(_ANSWER_BYTES_MAX)
                while chunk := await reader.read(_ANSWER_BYTES_MAX - len(answer)):
                    answer += chunk
            finally:
                writer.close()
    except TimeoutError:
        raise OSError(f"no answer from {host}:{port} within {timeout_seconds:g} s") from None
    head_bytes, _, body = answer.partition(b"\r\n\r\n")
    parts = head_bytes.split(None, 2)
    if len(parts) < 2 or not parts[1].isdigit():
        raise OSError(f"{host}:{port} does not speak HTTP")
    return int(parts[1]), body
