"""The fleet: 3,000 charging stations in 4 regions × 2 zones, that is in 8 logical clouds.

Each station is a cluster with a token of its own; what a collector knows of it is the tenants file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TENANT: Final = "ev-charging"
STATIONS: Final = 3_000


@dataclass(frozen=True)
class Cloud:
    """A logical cloud: the stations of one zone of one region, served by one collector."""

    region: str
    city: str
    zone: str
    stations: int

    @property
    def name(self) -> str:
        """Such as ``jp-east-a``."""
        return f"{self.region}-{self.zone}"


@dataclass(frozen=True)
class Site:
    """One station: a cluster, and the token that speaks for it."""

    cloud: Cloud
    cluster: str
    token: str

    @property
    def labels(self) -> dict[str, str]:
        """What logical clouds select by."""
        return {"city": self.cloud.city, "kind": "station", "zone": self.cloud.zone}


_REGIONS: Final = (("jp-east", "tokyo"), ("jp-west", "osaka"), ("jp-north", "sapporo"), ("jp-south", "fukuoka"))
_ZONES: Final = ("a", "b")


def clouds(stations: int = STATIONS) -> tuple[Cloud, ...]:
    """The 8 clouds, with ``stations`` spread evenly over them; the first ones take what is left over."""
    each, over = divmod(stations, len(_REGIONS) * len(_ZONES))
    places = [(region, city, zone) for region, city in _REGIONS for zone in _ZONES]
    return tuple(Cloud(*place, stations=each + (number < over)) for number, place in enumerate(places))


def sites(cloud: Cloud, seed: int) -> list[Site]:
    """The stations of a cloud. Tokens derive from the seed: they guard a simulation on loopback, nothing else."""
    found = []
    for number in range(1, cloud.stations + 1):
        cluster = f"{cloud.city}-{cloud.zone}-{number:04d}"
        found.append(Site(cloud, cluster, hashlib.sha256(f"{seed}/{cluster}".encode()).hexdigest()))
    return found


def write_tenants(path: Path, fleet: Iterable[Site]) -> None:
    """Write the tenants file of a collector: a list of token_sha256, tenant, cluster and labels.

    JSON, which is YAML too: a list of thousands takes long to read as YAML proper.
    """
    entries = [
        {
            "token_sha256": hashlib.sha256(site.token.encode()).hexdigest(),
            "tenant": TENANT,
            "cluster": site.cluster,
            "labels": site.labels,
        }
        for site in fleet
    ]
    path.write_text(json.dumps(entries, indent=0))
