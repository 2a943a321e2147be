"""The demo's answer as figures: what the screen, the pictures and the exit code are made of. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.proof import Proof
from demo.questions import CloudState


@dataclass(frozen=True)
class Kill:
    """A collector that was killed, and what came after.

    ``ready_seconds``: from SIGKILL until it was ready again; ``replayed``: requests that it found acknowledged in its
    inbox and in no flush yet.
    """

    cloud: str
    at_seconds: float
    ready_seconds: float
    replayed: int


@dataclass(frozen=True)
class KillCost:
    """What a kill cost: ``lost`` is points acknowledged by the cloud that SQL does not have."""

    kill: Kill
    retries: int
    lost: int


@dataclass(frozen=True)
class BrokerKill:
    """The broker, killed, and what came after.

    ``answers_seconds``: from SIGKILL until it answered again; ``caught_up_seconds``: until SQL had all that was
    acknowledged up to then, None if it never did; ``retries``: requests that stations sent again meanwhile.
    """

    at_seconds: float
    answers_seconds: float
    caught_up_seconds: float | None
    retries: int


@dataclass(frozen=True)
class BrokerKillCost:
    """What it cost: ``lost`` is points acknowledged, anywhere, that SQL does not have."""

    kill: BrokerKill
    lost: int


@dataclass(frozen=True)
class KafkaLook:
    """The log, where it is Kafka: addresses, how many topics there are, and the prefix of their names."""

    brokers: Sequence[str]
    prefix: str
    topics: int
    is_ours: bool


@dataclass(frozen=True)
class Hops:
    """Bytes on the way: as senders made them, as sent (gzip), out of the zones and to the globe by lane.

    ``messages``: how many left the zones, and how many the regions.
    """

    otlp: int
    sent: int
    regional: Mapping[str, int]
    globe: Mapping[str, int]
    messages: tuple[int, int] = (0, 0)

    @property
    def from_zones(self) -> int:
        """All that left the zones."""
        return sum(self.regional.values())

    @property
    def to_globe(self) -> int:
        """All that left the regions."""
        return sum(self.globe.values())

    @property
    def region_rows(self) -> int:
        """Of it the rows per region: what dashboards over the fleet read."""
        return self.globe.get("metrics_region", 0)


@dataclass(frozen=True)
class Effort:
    """What the demo took."""

    processes: int
    memory_bytes: int
    cpu_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class Freshness:
    """Seconds from acknowledgement to SQL, over the looks at it; ``drained`` from the last acknowledgement to all."""

    median: float
    worst: float
    drained: float

    @classmethod
    def of(cls, delays_seconds: Sequence[float], drained: float) -> Freshness:
        """From what the watch saw."""
        ordered = sorted(delays_seconds)
        if not ordered:
            return cls(math.nan, math.nan, drained)
        return cls(ordered[len(ordered) // 2], ordered[-1], drained)


@dataclass(frozen=True)
class Incident:
    """The incident as SQL shows it. ``failing`` burn their budget, ``silent`` say nothing; ``caused`` is the truth."""

    cloud: str
    failing: Sequence[Mapping[str, Any]]
    silent: Sequence[Mapping[str, Any]]
    caused: int


@dataclass(frozen=True)
class Next:
    """Where to ask further; addresses are empty when nothing runs any more."""

    sql_url: str
    otlp_url: str
    folder: str


@dataclass(frozen=True)
class Answer:
    """Everything."""

    stations: int
    regions: int
    traffic_seconds: float
    clouds: Sequence[CloudState]
    incident: Incident
    proof: Proof
    hops: Hops
    kills: Sequence[KillCost]
    freshness: Freshness
    effort: Effort
    region_series: int
    station_series: int
    next: Next
    kafka: KafkaLook | None = None
    broker_kills: Sequence[BrokerKillCost] = ()

    @property
    def holds(self) -> bool:
        """Whether the proof holds and no kill lost anything."""
        lost = [*(cost.lost for cost in self.kills), *(cost.lost for cost in self.broker_kills)]
        return self.proof.holds and not any(lost)
