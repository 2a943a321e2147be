"""What partitions that do not move say, in as many lines as a person reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_NAMED_MAX = 8


@dataclass(frozen=True)
class Waiting:
    """A partition that does not move: its state and why."""

    topic: str
    partition: int
    state: str
    reason: str

    @property
    def name(self) -> str:
        """Topic and partition."""
        return f"{self.topic}/{self.partition}"


RETRYING = "retrying"


def retrying(partitions: Iterable[Waiting]) -> list[str]:
    """Those that are tried again: while the log is away these are all, for one cause, so the first says it for all."""
    found = [one for one in partitions if one.state == RETRYING]
    said = [f"{one.name} is {RETRYING}: {one.reason}" for one in found[:1]]
    others = [one.name for one in found[1:]]
    if others:
        names = ", ".join([*others[:_NAMED_MAX], *(["…"] if len(others) > _NAMED_MAX else [])])
        said.append(f"{len(others)} more are {RETRYING}: {names}")
    return said


def standing(partitions: Iterable[Waiting]) -> list[str]:
    """Those that somebody has to look at: each with its own reason."""
    return [f"{one.name} is {one.state}: {one.reason}" for one in partitions if one.state != RETRYING]
