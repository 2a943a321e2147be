"""What leaves more seldom than each flush: rows whose policy gives them a ``flush`` of their own.

A flush is a cut of all accumulators, so these rows too are made durable by it: as envelopes that stand in the table
``held`` of the state file instead of the outbox, in the same transaction. A later flush merges them and hands them on.

Rules:

1. Rows of one period leave together, with the control totals of just them: what the globe has agrees with itself.
2. They leave with the first flush behind the end of the period in which the oldest of them was held. Periods are
   shifted by a hash of the collector's name, so that a fleet's do not end at the same second.
3. All leave when the collector stops, and before policies change: an envelope is of one policy version.
4. What ``_FLUSHES_MAX`` flushes added is merged. So what is held is as large as one flush of all its series, and some
   smaller ones.
5. An envelope that cannot be read (a newer program may have held it) stays where it is, and stops nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from catchment.envelope import Envelope, decode, encode
from catchment.errors import Invalid, TooNew
from catchment.identity import hash_parts
from collectors.coarsen import merged
from collectors.lane_rows import LaneRows
from collectors.state_records import HeldPart, HeldRow

_FLUSHES_MAX = 16


@dataclass
class Parted:
    """What a flush does: lanes that leave, envelopes to hold from now on, the ids of those held no more.

    ``unreadable`` says of which held ones it could do nothing.
    """

    leaving: list[LaneRows] = field(default_factory=list)
    held: list[HeldRow] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class Holder:
    """Decides for one collector what leaves and what is held.

    Args:
        name: of the collector's cluster.
        sealed: rows → an envelope, of no sequence.
        read: the envelopes of some ids.
    """

    def __init__(
        self, name: str, sealed: Callable[[LaneRows], Envelope], read: Callable[[Sequence[int]], list[bytes]]
    ) -> None:
        self._name = name
        self._sealed = sealed
        self._read = read

    def part(self, lanes: list[LaneRows], waiting: Sequence[HeldPart], now_ns: int, *, release: bool) -> Parted:
        """Part what a flush drained.

        Args:
            lanes: as drained.
            waiting: what is held.
            now_ns: the time of the flush.
            release: all is to leave.
        """
        parted = Parted()
        fresh: dict[float, list[LaneRows]] = defaultdict(list)
        for lane in lanes:
            (fresh[lane.flush_seconds] if lane.flush_seconds else parted.leaving).append(lane)
        before: dict[float, list[HeldPart]] = defaultdict(list)
        for part in waiting:
            before[part.seconds].append(part)
        for seconds in sorted({*fresh, *before}):
            parts, new = before[seconds], fresh[seconds]
            if release and not parts:
                parted.leaving += new
            elif parts and (release or self._is_over(parts, seconds, now_ns)):
                parted.leaving += self._merged(parts, new, parted)
            elif len({part.since_ns for part in parts}) >= _FLUSHES_MAX:
                since_ns = min(part.since_ns for part in parts)
                parted.held += [self._to_hold(lane, seconds, since_ns) for lane in self._merged(parts, new, parted)]
            else:
                parted.held += [self._to_hold(lane, seconds, now_ns) for lane in new]
        return parted

    def _is_over(self, parts: Sequence[HeldPart], seconds: float, now_ns: int) -> bool:
        period_ns = int(seconds * 1e9)
        shift_ns = hash_parts("hold", self._name) % period_ns
        since_ns = min(part.since_ns for part in parts)
        return (since_ns + shift_ns) // period_ns != (now_ns + shift_ns) // period_ns

    def _merged(self, parts: Sequence[HeldPart], new: Sequence[LaneRows], parted: Parted) -> list[LaneRows]:
        """Held and new rows together; the envelopes that were read are noted as gone."""
        envelopes = []
        for part in parts:
            (value,) = self._read([part.id])
            try:
                envelopes.append(decode(value))
                parted.gone.append(part.id)
            except (Invalid, TooNew) as error:
                parted.unreadable.append(f"held envelope {part.id} stays where it is: {error}")
        # Of no width: no window becomes wider.
        lanes = merged([*envelopes, *map(self._sealed, new)], 1)
        return [replace(lane, flush_seconds=0.0) for lane in lanes]

    def _to_hold(self, lane: LaneRows, seconds: float, since_ns: int) -> HeldRow:
        return HeldRow(seconds, since_ns, encode(self._sealed(lane)))
