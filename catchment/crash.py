"""Crash points: named places between two steps where a test lets a process die as by kill -9.

Rules:

1. A process passes a point without effect, at the cost of a comparison, unless ``CATCHMENT_CRASH_AT`` names that point
   as it starts: ``flush.committed`` dies at the first pass, ``flush.committed:3`` at the third.
2. It says on stderr where it is and dies by SIGKILL, so that nothing is cleaned up, flushed or answered.
3. Every point is listed here with the steps that it lies between. The fault tests go through the whole list, so a point
   that is listed and not passed, or passed and not listed, fails there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

VARIABLE = "CATCHMENT_CRASH_AT"

# Name → what was done when a process passes it, and what was not. In the order of the data path.
CRASH_POINTS: Mapping[str, str] = {
    "intake.decoded": "requests are decoded and identified; nothing is written",
    "inbox.rotated": "a new segment is there; nothing is in it",
    "inbox.written": "requests are in the segment; not yet fsynced",
    "inbox.synced": "requests are durable; no sender knows",
    "intake.answered": "senders are being answered; nothing is applied",
    "intake.applied": "requests are in the accumulators; no flush has taken them",
    "flush.drained": "the accumulators are empty; nothing of them is on disk",
    "flush.written": "outbox, state and position are written; the transaction is open",
    "flush.committed": "the flush is real; the inbox still holds what it consumed",
    "flush.trimmed": "the inbox is trimmed; the forwarder does not know of the flush",
    "policies.flushed": "all is flushed under the old policies; the new ones are not on disk",
    "policies.changed": "the new policies are on disk and in force; no request was taken under them",
    "limits.flushed": "all is flushed under the old limits; the folder does not know of the new ones",
    "coarsen.read": "waiting envelopes are read and merged in memory; the outbox is as it was",
    "coarsen.written": "merged envelopes stand in the place of the others; the transaction is open",
    "coarsen.replaced": "the replacement is real; the flusher does not know of the sequences it used",
    "forward.read": "envelopes are read from the outbox; the log has none of them",
    "forward.published": "the log has the envelopes and the position; the outbox still has them",
    "forward.trimmed": "the outbox has let go of them; the next are not read",
    "log.appended": "messages and position are written to the log; the transaction is open",
    "log.committed": "the log's transaction is real; whoever published does not know",
    "rollup.polled": "messages are read; nothing is rolled up",
    "rollup.merged": "the roll-up is made; nothing is published",
    "rollup.published": "roll-ups and position are in the log; the next messages are not read",
    "load.polled": "messages are read; the ledger knows nothing of them",
    "load.intended": "the ledger has the intent; the engine has nothing",
    "load.inserted": "the rows are in the engine; the ledger has only the intent",
    "load.done": "the ledger says done; the log has the old position",
    "load.published": "the log has the position; the next messages are not read",
    "quarantine.filed": "a message that cannot be loaded is in its file; neither engine nor ledger know",
    "quarantine.counted": "its drop is in the engine; the ledger does not say that it was set aside",
    "migrate.applied": "a statement of a migration is applied; the migration is not recorded",
}


def _armed(text: str) -> tuple[str, int]:
    name, _, nth = text.partition(":")
    return name, int(nth or "1")


_name, _passes_left = _armed(os.environ.get(VARIABLE, ""))
_guard = threading.Lock()


def crash_point(name: str) -> None:
    """Die here if the environment says so; otherwise do nothing. ``name`` is a key of ``CRASH_POINTS``."""
    if name == _name:
        _pass()


def _pass() -> None:
    global _passes_left
    with _guard:
        _passes_left -= 1
        if _passes_left <= 0:
            os.write(2, f"crash point {_name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
            # The signal may reach another thread first; nothing more may be done in this one.
            threading.Event().wait()
