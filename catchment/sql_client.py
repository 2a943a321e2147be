"""A client of the SQL endpoint: the ClickHouse HTTP interface. The shell behind the query port and `catchment sql`."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from catchment.errors import Retry
from catchment.query import Query, QueryError, Row, parameter_text

# Exact numbers: no quotes around integers (Python's are unbounded), and NaN and infinities rather than null.
_ROW_SETTINGS = {"output_format_json_quote_64bit_integers": "0", "output_format_json_quote_denormals": "1"}


@dataclass(frozen=True)
class SqlClient:
    """A querier over HTTP.

    Args:
        url: of the endpoint, e.g. ``http://127.0.0.1:8123``.
        user: empty without one; then ``password`` is a bearer token.
        password: of the user; empty without authentication.
        database: that unqualified names are looked up in.
        timeout_seconds: for connecting and for each read.
        tls: whom an https address is trusted by; the system's authorities unless given.
    """

    url: str
    user: str = ""
    password: str = ""
    database: str = "catchment"
    timeout_seconds: float = 60.0
    tls: ssl.SSLContext | None = None

    def rows(self, query: Query) -> list[Row]:
        """All rows, each a dict by column name (see `catchment.query.Querier`)."""
        body = self.raw(query, format="JSONEachRow", settings=_ROW_SETTINGS)
        return [json.loads(line) for line in body.splitlines() if line]

    def raw(self, query: Query, *, format: str, settings: Mapping[str, str] | None = None) -> bytes:
        """The answer in any of ClickHouse's formats, unchanged.

        Raises:
            QueryError: refused, with ClickHouse's code and text.
            Retry: the endpoint cannot be reached, or the answer broke off.
        """
        arguments = {
            "database": self.database,
            "default_format": format,
            **(settings or {}),
            **{f"param_{name}": parameter_text(value) for name, value in query.params.items()},
        }
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise QueryError("the URL of the SQL endpoint must begin with http:// or https://", url=self.url)
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self.url.rstrip('/')}/?{urllib.parse.urlencode(arguments)}", data=query.sql.encode(), method="POST"
        )
        if self.user:
            request.add_header("Authorization", "Basic " + b64encode(f"{self.user}:{self.password}".encode()).decode())
        elif self.password:
            request.add_header("Authorization", f"Bearer {self.password}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds, context=self.tls) as answer:  # noqa: S310 - as above
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace").strip()
            code = error.headers.get("X-ClickHouse-Exception-Code") or "0"
            raise QueryError(text or f"HTTP {error.code}", code=int(code), url=self.url) from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise Retry(f"the SQL endpoint cannot be reached: {error}", url=self.url) from error
