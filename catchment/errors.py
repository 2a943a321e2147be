"""Errors, named by what the caller must do.

Every error carries its *coordinates*: where the bad thing is (file and key, topic, partition and offset, request), so
that a person can find it and a program can quarantine exactly it and nothing beside it.
"""

from __future__ import annotations


class CatchmentError(Exception):
    """Base of all errors that this project raises on purpose.

    Args:
        reason: one line a person can act on.
        coordinates: where it happened, e.g. ``{"topic": "catchment.jp-east.metrics", "offset": 7}``.
    """

    def __init__(self, reason: str, **coordinates: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.coordinates = coordinates

    def __str__(self) -> str:
        where = ", ".join(f"{key}={value}" for key, value in self.coordinates.items())
        return f"{self.reason} ({where})" if where else self.reason


class Retry(CatchmentError):
    """Passing trouble: try again with backoff; nothing was done, or doing it again is safe."""


class Reject(CatchmentError):
    """Backpressure: tell the sender to come back (503 or 429, UNAVAILABLE).

    ``retry_after_seconds`` is the hint given to the sender.
    """

    def __init__(self, reason: str, *, retry_after_seconds: int = 5, **coordinates: object) -> None:
        super().__init__(reason, **coordinates)
        self.retry_after_seconds = retry_after_seconds


class Invalid(CatchmentError):
    """The input is wrong and stays wrong: answer 400, or dead-letter it with its coordinates."""


class TooNew(CatchmentError):
    """Written by a newer version than this process can read: hold it, be not ready, never dead-letter it."""


class Corrupt(CatchmentError):
    """Stored bytes fail their check: quarantine them, alert, go on."""


class Fenced(CatchmentError):
    """Another process took this unit of work over: leave it, do not retry."""


class Bug(CatchmentError):
    """An invariant of our own does not hold: crash loudly."""


class ConfigFaults(CatchmentError):
    """All faults of a configuration at once, one line each: file, key, value and what would be right."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
