"""The tally of what did not make it, or made it with a remark, by place, reason and unit, until the next flush."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from collectors.catalog import Catalog
from collectors.lives import Lives
from collectors.reasons import Reason

Key = tuple[int, str, str]


class Tally:
    """Counts by (place, reason, unit)."""

    def __init__(self, catalog: Catalog, lives: Lives) -> None:
        self._catalog = catalog
        self._lives = lives
        self._counts: Counter[Key] = Counter()

    def points(self, lives: npt.NDArray[np.int32], reason: Reason) -> None:
        """Count one point for each life."""
        if len(lives):
            places = self._catalog.places_of(self._lives.columns.series[lives].astype(np.int64))
            self.places(places, reason)

    def places(self, places: npt.NDArray[np.int32], reason: Reason, unit: str = "points") -> None:
        """Count one for each place."""
        self._each(places, reason.text, unit)

    def rows(self, places: npt.NDArray[np.int32], reason: str) -> None:
        """Count one row for each place."""
        self._each(places, reason, "rows")

    def _each(self, places: npt.NDArray[np.int32], reason: str, unit: str) -> None:
        for place, count in enumerate(np.bincount(places).tolist()):
            self.add(place, reason, unit, count)

    def add(self, place: int, reason: str, unit: str, count: int) -> None:
        """Count ``count`` units at a place."""
        if count:
            self._counts[place, reason, unit] += count

    def drain(self) -> dict[Key, int]:
        """All counts since the last time."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def put_back(self, counts: dict[Key, int]) -> None:
        """Take drained counts back: their flush failed."""
        self._counts.update(counts)
