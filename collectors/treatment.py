"""What policy says of the rows of a series beyond its attributes.

Two streams may leave the same attributes under different rules. Their rows then have one series id and different
treatments, so the catalog keeps them apart; they merge further up, where the key is all that counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from catchment.reach import Reach


@dataclass(frozen=True, slots=True)
class Treatment:
    """How rows leave; None is what the policies, or the collector, say for all.

    Attributes:
        reach: how far cluster rows go.
        resolution_seconds: the width of their windows.
        flush_seconds: how often they leave.
        histogram_scale: the finest scale of exponential histograms.
    """

    reach: Reach | None = None
    resolution_seconds: int | None = None
    flush_seconds: float | None = None
    histogram_scale: int | None = None

    def width_seconds(self, resolution_seconds: int) -> int:
        """The width of windows where the collector has a resolution; what is not a multiple of that is of no use."""
        width = self.resolution_seconds or resolution_seconds
        return width if width % resolution_seconds == 0 else resolution_seconds

    @property
    def text(self) -> str:
        """As it is persisted: JSON of what is not the default, "" where all is."""
        said: dict[str, Any] = {
            field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None
        }
        return json.dumps(said, separators=(",", ":"), sort_keys=True) if said else ""

    @classmethod
    def of(cls, text: str) -> Treatment:
        """What was persisted; what a later program said besides is left out."""
        said = json.loads(text) if text else {}
        known = {field.name: said[field.name] for field in fields(cls) if field.name in said}
        if known.get("reach") is not None:
            known["reach"] = Reach(known["reach"])
        return cls(**known)


PLAIN = Treatment()
