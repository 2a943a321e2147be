"""Asking one server over HTTP: a target for its metrics, or an API for its objects. A shell.

Rules:

1. An answer other than 200, one that is too large, too late or cut off is a `ScrapeFailed`, which says so in a line.
2. Files of secrets are read for each request, files of TLS again when they change, so that both may be rotated.
3. What an answer may hold is bounded while it is read, after decompression.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from catchment.errors import Retry
from catchment.files import version_of
from collectors.scrape.job import Http, Tls

_PIECE_BYTES = 1 << 16
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}


class ScrapeFailed(Retry):
    """A server did not give what it was asked for; it is asked again at its next turn."""


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    body: bytes
    content_type: str


class Client:
    """Asks servers that share settings, over connections that are kept."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None
        self._read: list[tuple[int, int, int] | None] = []

    async def get(self, url: str, *, headers: Mapping[str, str], timeout_seconds: float, bytes_max: int) -> Answer:
        """The answer to a GET.

        Raises:
            ScrapeFailed: there is none.
        """
        try:
            async with asyncio.timeout(timeout_seconds), self._request(url, headers) as response:
                if response.status != 200:
                    raise ScrapeFailed(f"the server answered {response.status} {response.reason or ''}".rstrip())
                body = bytearray()
                async for piece in response.content.iter_chunked(_PIECE_BYTES):
                    body += piece
                    if len(body) > bytes_max:
                        raise ScrapeFailed(f"the answer is larger than {bytes_max} bytes")
                return Answer(bytes(body), response.headers.get("content-type", ""))
        except TimeoutError:
            raise ScrapeFailed(f"no whole answer within {timeout_seconds:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ScrapeFailed(f"{type(error).__name__}: {error}") from error

    def stream(self, url: str, headers: Mapping[str, str]) -> Any:
        """A GET whose answer is read while it goes on, as an async context; its errors are aiohttp's."""
        return self._request(url, headers)

    def _request(self, url: str, headers: Mapping[str, str]) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session.get(
            url,
            headers={**headers, **self._authorization()},
            ssl=self._tls() if url.startswith("https:") else True,
            server_hostname=self._http.tls.server_name or None if url.startswith("https:") else None,
            allow_redirects=self._http.follow_redirects,
        )

    def _authorization(self) -> dict[str, str]:
        http = self._http
        if http.username:
            secret = _secret(http.password, http.password_file)
            return {"Authorization": "Basic " + base64.b64encode(f"{http.username}:{secret}".encode()).decode()}
        if http.authorization_type:
            return {"Authorization": f"{http.authorization_type} {_secret(http.credentials, http.credentials_file)}"}
        return {}

    def _tls(self) -> ssl.SSLContext:
        tls = self._http.tls
        looked = [version_of(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file is not None]
        if self._context is None or looked != self._read:
            self._context, self._read = _context(tls), looked
        return self._context

    async def close(self) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _secret(text: str, file: Path | None) -> str:
    if file is None:
        return text
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ScrapeFailed(f"{file} cannot be read: {error}") from error


def _context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.min_version:
            context.minimum_version = _VERSIONS[tls.min_version]
        if tls.insecure_skip_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if tls.cert_file is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ScrapeFailed(f"files of tls_config cannot be used: {error}") from error
    return context
