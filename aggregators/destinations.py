"""Where roll-ups go: up to the next place, to the globe, to the region's own store.

Every destination takes whole tables. Cluster rows go only where their reach gets to; an aggregator that is no region's
sends on what it read, merged, and makes no region rows: its region does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catchment.columns import EDGE_LANES, GLOBAL_LANES, global_topic, regional_topic, store_topic
from catchment.config import GLOBE
from catchment.envelope import Header
from catchment.reach import Reach


@dataclass(frozen=True)
class Destination:
    """One reader of roll-ups: the topic of each lane that it takes, and how far cluster rows must reach to go there."""

    topics: Mapping[str, str]
    reach: Reach

    def topic_of(self, header: Header) -> str | None:
        """Where an envelope goes, or None where it does not."""
        if header.lane == "metrics_cluster" and not Reach(header.reach).gets_to(self.reach):
            return None
        return self.topics.get(header.lane)


def to_globe(prefix: str) -> Destination:
    """The global store."""
    return Destination({lane: global_topic(prefix, lane) for lane in GLOBAL_LANES}, Reach.GLOBAL)


def to_store(prefix: str, region: str) -> Destination:
    """The region's own store."""
    return Destination({lane: store_topic(prefix, region, lane) for lane in GLOBAL_LANES}, Reach.REGION)


def to_place(prefix: str, place: str) -> Destination:
    """The aggregator of a place further up, which needs all there is."""
    return Destination({lane: regional_topic(prefix, place, lane) for lane in EDGE_LANES}, Reach.CLUSTER)


def destinations(prefix: str, region: str, *, to: str, region_store: bool) -> tuple[Destination, ...]:
    """Who gets the roll-ups of an aggregator: the place ``to`` (or `GLOBE`), and the region's store if it has one."""
    upward = to_globe(prefix) if to == GLOBE else to_place(prefix, to)
    return (upward, to_store(prefix, region)) if region_store else (upward,)
