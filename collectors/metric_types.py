"""The types of Prometheus' metric families, as remote write 1.0 tells them: in requests of their own, once a minute.

Rules:

1. A type decides the kind of a stream, which is part of its identity. So a type is learnt in the order of the inbox,
   stands for all later requests, and is saved with the flush that its request went into: a replay learns the same.
2. The last one that was declared stands; of several in one request the one with the smallest number.
3. A family that has a series ``_bucket`` with ``le`` is a histogram until something else is declared: Prometheus sends
   samples before it sends types.
4. At most ``families_max`` are kept; those beyond stay unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from collectors.decode.families import MetricType

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Learnt:
    """One type; ``place`` is the catalog's slot."""

    place: int
    family: str
    type: MetricType


class MetricTypes:
    """Types by place and family.

    ``epochs`` rises, by place, whenever a type there changes.
    """

    def __init__(self, families_max: int) -> None:
        self._families_max = families_max
        self._types: dict[int, dict[str, MetricType]] = {}
        self._count = 0
        self._unsaved: dict[tuple[int, str], MetricType] = {}
        self.epochs: Int32s = np.zeros(64, np.int32)

    def __len__(self) -> int:
        return self._count

    def of(self, place: int) -> Mapping[str, MetricType]:
        """All types of a place."""
        return self._types.get(place, {})

    def know(self, places: int) -> None:
        """Make room for places below a number."""
        while len(self.epochs) < places:
            self.epochs = np.concatenate((self.epochs, np.zeros_like(self.epochs)))

    def changes(self, learnt: Learnt, *, declared: bool) -> bool:
        """Whether to learn this would change anything."""
        known = self.of(learnt.place).get(learnt.family)
        if known is None:
            return learnt.type is not MetricType.UNKNOWN
        return declared and learnt.type not in (known, MetricType.UNKNOWN)

    def learn(self, learnt: Learnt, *, declared: bool) -> bool:
        """Learn a type.

        Returns:
            False if there is no room for it.
        """
        if not self.changes(learnt, declared=declared):
            return True
        types = self._types.setdefault(learnt.place, {})
        if learnt.family not in types:
            if self._count >= self._families_max:
                return False
            self._count += 1
        types[learnt.family] = learnt.type
        self._unsaved[learnt.place, learnt.family] = learnt.type
        self.know(learnt.place + 1)
        self.epochs[learnt.place] += 1
        return True

    def unsaved(self) -> list[Learnt]:
        """What was learnt since the last `saved`."""
        return [Learnt(place, family, of_type) for (place, family), of_type in self._unsaved.items()]

    def saved(self) -> None:
        """What `unsaved` gave is durable."""
        self._unsaved = {}

    def restore(self, learnt: Iterable[Learnt]) -> None:
        """Put persisted types back."""
        for one in learnt:
            self.learn(one, declared=True)
        self._unsaved = {}
