"""Signs of life: in which windows a cluster was heard of, which is what its heartbeats say.

Rules:

1. A request is a sign of life of its cluster when it is received, and a collector one of its own while it runs. The
   latest in each window counts, since a window without one is silent.
2. Points are one in their own window too, however late they come: what was cut off and caught up was not away. But no
   further back than ``late_seconds``, since a sender's wrong clock would make its cluster one that was expected for
   years; and never ahead of now.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from catchment.windows import NANOSECONDS
from collectors.partials import pairs_of

Integers = npt.NDArray[np.integer[Any]]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Heard:
    """A sign of life of a cluster."""

    labels: str
    heartbeat_ns: int
    policy_version: str


# By place and start of the window.
HeardIn = dict[tuple[int, int], Heard]


class SignsOfLife:
    """What was heard since the last flush; places are slots of the catalog."""

    def __init__(self, *, window_seconds: int, late_seconds: int) -> None:
        self._window_seconds = window_seconds
        self._window_ns = window_seconds * NANOSECONDS
        self._late_ns = late_seconds * NANOSECONDS
        self._heard: HeardIn = {}
        self._pointed: set[tuple[int, int]] = set()

    def hear(self, place: int, heard: Heard) -> None:
        """Take note of a sign of life."""
        key = place, heard.heartbeat_ns - heard.heartbeat_ns % self._window_ns
        known = self._heard.get(key)
        if known is None or known.heartbeat_ns < heard.heartbeat_ns:
            self._heard[key] = heard

    def points(self, places: Integers, windows_ns: Int64s) -> None:
        """Take note of accepted points: the place and the start of the window of each."""
        if not len(places):
            return
        of_place, of_window_ns, _ = pairs_of(places.astype(np.int64), windows_ns, self._window_seconds)
        self._pointed.update(zip(of_place.tolist(), of_window_ns.tolist(), strict=True))

    def drain(self, now_ns: int) -> HeardIn:
        """Hand out everything heard."""
        latest: dict[int, Heard] = {}
        for (place, _), heard in self._heard.items():
            known = latest.get(place)
            if known is None or known.heartbeat_ns < heard.heartbeat_ns:
                latest[place] = heard
        for place, window_ns in self._pointed - self._heard.keys():
            end_ns = window_ns + self._window_ns
            if now_ns - self._late_ns <= window_ns and end_ns <= now_ns:
                # Not later than any that was received, so that labels and versions are those of the latest one.
                of = latest.get(place, Heard("{}", 0, ""))
                self._heard[place, window_ns] = Heard(of.labels, end_ns - 1, of.policy_version)
        drained, self._heard = self._heard, {}
        self._pointed.clear()
        return drained

    def put_back(self, drained: HeardIn) -> None:
        """Take back what a failed flush drained."""
        for (place, _), heard in drained.items():
            self.hear(place, heard)
