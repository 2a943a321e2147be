"""What a person can decide about a message that the loader cannot settle alone: a value that the ledger keeps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from store.position import Position


class Action(Enum):
    """What was decided; `store.operations` says what each means."""

    RESUME_LOADED = "resume as loaded"
    RESUME_AGAIN = "resume again"
    RESUME_LOST = "resume behind what is lost"
    REPLAY = "replay"
    DISCARD = "discard"


@dataclass(frozen=True)
class Decision:
    """One decision. ``number`` orders them, 0 before the ledger has it; ``finished`` once it is carried out."""

    action: Action
    position: Position
    who: str
    why: str
    decided_ns: int
    finished: bool = True
    number: int = 0
