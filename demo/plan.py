"""What the demo is to do, and when: its plan, with the windows and delays that fit the stations' pace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from demo.fleet import STATIONS, clouds
from demo.plant import Pace
from demo.simulator import Incident as Trouble

TROUBLED: Final = "jp-west-b"
_REQUESTS_PER_SECOND: Final = 300  # what two cores carry with room to spare


@dataclass(frozen=True)
class Plan:
    """What is to happen. Times are seconds since the traffic began.

    ``tamper``: claim a watt-hour that nobody sent, to see the proof fail.
    ``picture``: folder that the pictures of this run are written to.
    ``kafka``: brokers that the log is on, or `log_choice.LOCAL` for one that the demo starts; empty: the embedded log.
    """

    duration_seconds: float
    stations: int = STATIONS
    data_dir: Path | None = None
    keep: bool = False
    tamper: bool = False
    picture: Path | None = None
    kafka: str = ""

    @property
    def period_seconds(self) -> float:
        """How often a station sends."""
        return max(2.0, self.stations / _REQUESTS_PER_SECOND)

    @property
    def pace(self) -> Pace:
        """Windows and delays that fit the stations' pace."""
        period = self.period_seconds
        resolution = next(seconds for seconds in range(1, 3_601) if 3_600 % seconds == 0 and seconds >= 1.5 * period)
        return Pace(resolution, flush_seconds=period / 2, linger_seconds=period / 5)

    @property
    def trouble(self) -> Trouble:
        """The incident: payment fails at a fifth of the stations of a cloud, and one station falls silent."""
        count = next(cloud.stations for cloud in clouds(self.stations) if cloud.name == TROUBLED)
        return Trouble(TROUBLED, begin_seconds=0.3 * self.duration_seconds, dark=count - 1)

    @property
    def kill_seconds(self) -> float:
        """When a collector is killed."""
        return 0.55 * self.duration_seconds

    @property
    def broker_kill_seconds(self) -> float:
        """When the broker is killed, if it is ours."""
        return 0.75 * self.duration_seconds
