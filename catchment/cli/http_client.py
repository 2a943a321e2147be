"""A blocking HTTP client for one request, over the standard library."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from catchment.cli.exits import EnvironmentFault, UsageFault

_SECONDS_MAX = 300.0


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace").strip()


def request(
    url: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send a POST with ``body``, or a GET without; any HTTP status is an answer. ``tls``: the system's unless given.

    Raises:
        UsageFault: not an HTTP address.
        EnvironmentFault: nobody answers there.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageFault(f"{url!r} is not an address such as http://127.0.0.1:8123")
    asked = urllib.request.Request(url, data=body, headers=dict(headers or {}))  # noqa: S310 - the scheme is checked above
    try:
        with urllib.request.urlopen(asked, timeout=_SECONDS_MAX, context=tls) as response:  # noqa: S310 - likewise
            return Answer(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise EnvironmentFault(
            f"no answer from {url.split('?')[0]}: {reason}; is `catchment up` running there?"
        ) from error
