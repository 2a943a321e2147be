"""The name of a message in a log: what ledger, tokens and people call it."""

from __future__ import annotations

from dataclasses import dataclass

from catchment.errors import Invalid


@dataclass(frozen=True)
class Position:
    """A message's name for ever."""

    log_id: str
    topic: str
    partition: int
    offset: int

    @property
    def token(self) -> str:
        """The deduplication token of its insert."""
        return f"{self.log_id}/{self.topic}/{self.partition}/{self.offset}"

    @staticmethod
    def of_token(token: str) -> Position:
        """The message that a token names.

        Raises:
            Invalid: it is not LOG/TOPIC/PARTITION/OFFSET.
        """
        try:
            log_id, topic, partition, offset = token.split("/")
            return Position(log_id, topic, int(partition), int(offset))
        except ValueError:
            raise Invalid(f"{token!r} is not LOG/TOPIC/PARTITION/OFFSET") from None
