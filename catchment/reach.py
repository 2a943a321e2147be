"""Reach: how far up the rows of single clusters go. Rows of whole regions always go to the globe.

A fleet of 100,000 clusters cannot have every cluster's rows in one place. So policy says of each metric up to where
its cluster rows are kept, and an envelope of cluster rows has one reach. Whatever the reach, all rows go as far as to
their region's aggregator, which makes the region's rows of them: sums do not depend on it.
"""

from __future__ import annotations

from enum import StrEnum


class Reach(StrEnum):
    """The farthest place that keeps a metric's cluster rows."""

    CLUSTER = "cluster"  # none but the cluster itself
    REGION = "region"  # the region's own store, if it has one
    GLOBAL = "global"  # the globe's as well

    def gets_to(self, place: Reach) -> bool:
        """Whether rows of this reach are kept at ``place``."""
        return _FARNESS[self] >= _FARNESS[place]


_FARNESS = {reach: farness for farness, reach in enumerate(Reach)}
