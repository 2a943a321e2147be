"""The part of the configuration that says how much a tenant may send."""

from __future__ import annotations

from dataclasses import dataclass

from catchment.setting import setting

_CONSEQUENCE = "429 (HTTP) or UNAVAILABLE (gRPC) with when to come back; counted as rate_limited, nothing is dropped"


@dataclass(frozen=True)
class Rate:
    """How much each tenant that a glob names may send to one collector. The first entry that matches decides."""

    tenant: str = setting(text="a glob over tenants, such as acme or trial-*")
    requests_per_second: float = setting(0.0, "requests; 0 for no limit", consequence=_CONSEQUENCE, least=0)
    points_per_second: float = setting(0.0, "points; 0 for no limit", consequence=_CONSEQUENCE, least=0)
    bytes_per_second: int = setting(
        0,
        "bytes of bodies after decompression; 0 for no limit",
        unit="bytes",
        consequence=_CONSEQUENCE,
        least=0,
    )
    burst_seconds: float = setting(
        10.0,
        "how much a tenant that was quiet may send at once, in seconds of its rate",
        unit="seconds",
        least=1,
        most=3600,
        key="burst",
    )
