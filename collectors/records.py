"""What receivers hand to the collector, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Received:
    """One request as received, with all that was resolved then.

    Replay uses only this, never today's clock or files.
    """

    signal: str
    """What it carries: ``metrics`` (later ``logs``, ``traces`` …)."""
    tenant: str
    cluster: str
    labels: str
    """The cluster's labels, canonical JSON."""
    content_type: str
    """One of `collectors.content`: it says at replay, too, what the body is."""
    content_encoding: str
    """``""``, ``gzip``, ``zstd``, ``deflate`` or ``snappy``."""
    received_ns: int
    """When its last byte came, ns, UTC."""
    policy_version: str
    body: bytes
    """The bytes as received, still compressed."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was taken of a remote write request."""

    samples: int = 0
    histograms: int = 0
    exemplars: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to one acknowledged request: how many of its points were refused for good, and why.

    ``points`` are those that it held; no part of the answer. ``written`` is for remote write only.
    """

    points_rejected: int = 0
    message: str = ""
    points: int = field(default=0, compare=False)
    written: Written = field(default=Written(), compare=False)


class Intake(Protocol):
    """Where receivers put requests."""

    async def submit(self, received: Received) -> Outcome:
        """Make the request durable and take it into account; returns only then.

        Raises:
            Invalid: the payload is wrong and stays wrong (400, INVALID_ARGUMENT).
            Reject: backpressure: come back after ``retry_after_seconds`` (503 or 429, UNAVAILABLE).
            CatchmentError: trouble of our own (500, INTERNAL).
        """
        ...
