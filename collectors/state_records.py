"""What a collector's state file holds, as values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from collectors.remote_tables import SavedWrites
from collectors.seen import Segment


@dataclass(frozen=True)
class Meta:
    """The one row of ``meta``."""

    inbox_id: str
    known_since_ns: int
    consumed: int
    sequence: int
    seen_horizon_ns: int


@dataclass(frozen=True)
class OutboxRow:
    """An envelope that waits for the log."""

    sequence: int
    lane: str
    key: str
    created_ns: int
    value: bytes


@dataclass(frozen=True)
class SeriesRow:
    """A persisted series."""

    slot: int
    tenant: str
    cluster: str
    service: str
    metric: str
    kind: str
    unit: str
    attributes: str
    series_id: int
    treatment: str = ""
    is_counted: bool = True


@dataclass(frozen=True)
class HeldRow:
    """An envelope that is held: for how long such are, and since when (ns, UTC)."""

    seconds: float
    since_ns: int
    value: bytes


@dataclass(frozen=True)
class HeldPart:
    """A held envelope without its bytes."""

    id: int
    seconds: float
    since_ns: int


@dataclass(frozen=True)
class PolicyRow:
    """Policies that are, or were, in force: ``until_ns`` (UTC), 0 for those that are."""

    version: str
    document: str
    until_ns: int


@dataclass(frozen=True)
class Flush:
    """All that one flush makes durable.

    ``lives`` are taken one after the other, so that a large table is never in memory twice. ``lives_whole`` says that
    they are all there are: earlier segments are deleted; likewise ``series_whole``. ``series_anew``: of those saved
    before no other counts for budgets any more.
    ``acknowledged`` adds to the totals of points and digests by (tenant, lane). ``writes`` is remote write's own.
    ``policies`` are all that are kept; None leaves them as they are. ``held`` is held from now on, ``held_gone``
    (ids) is not any more.
    """

    meta: Meta
    envelopes: Sequence[tuple[str, str, bytes]]
    created_ns: int
    lives: Iterable[pa.Table]
    lives_whole: bool
    series: Sequence[SeriesRow]
    series_whole: bool
    seen: Sequence[Segment]
    seen_forgotten: int
    acknowledged: dict[tuple[str, str], tuple[int, int]]
    writes: SavedWrites
    policies: Sequence[PolicyRow] | None = None
    held: Sequence[HeldRow] = ()
    held_gone: Sequence[int] = ()
    series_anew: bool = False
