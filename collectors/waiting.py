"""What waits in the outbox, and what is put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """An envelope that waits for the log, without its bytes; ``merged_seconds`` is 0 if it is as it was flushed."""

    sequence: int
    lane: str
    created_ns: int
    size_bytes: int
    merged_seconds: int


@dataclass(frozen=True)
class Replacement:
    """Envelopes ``values`` (lane, key, bytes) in the place of those of ``sequences``; None keeps these.

    ``created_ns`` and ``seconds`` are those of the merged flush, ``sequence`` the last envelope sequence used.
    """

    sequences: Sequence[int]
    values: Sequence[tuple[str, str, bytes]] | None
    created_ns: int
    seconds: int
    sequence: int
