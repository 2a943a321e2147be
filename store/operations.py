"""What only a person can decide about the store: a halted partition, and messages in quarantine.

Rules:

1. Nothing is guessed: each operation names the one message that it is about, says who and why, and is refused unless
   that message is halted or in quarantine now. The ledger notes it for ever (`store.ledger`, rule 5).
2. *Resume as loaded* steps over the message; *resume again* forgets that its insert was begun, so that the loader
   begins anew with the same token. The first loses its rows if they were not there, the second doubles them if they
   were there and the token is forgotten. *Resume behind what is lost* goes on with the first message that the log
   still holds, and is refused unless the log has lost the one that is due.
3. *Replay* publishes a quarantined message at the end of its partition, where it gets an offset and so a token of its
   own: it is loaded as any other, or quarantined again under its new name. *Discard* closes it. It stays counted in
   `pipeline_drops`, and its file stays.
4. A replay is published exactly once: the decision is in the ledger first, and its number is the position that the
   publish consumes (source ``requeue-<ledger id>``), so that after a crash the log tells whether it was published. What
   was left unfinished is finished before anything else is replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from catchment.envelope import decode_header
from catchment.errors import Corrupt, Invalid, Retry, TooNew
from catchment.log.port import Log, OutMessage, Source, Writer
from store.decisions import Action, Decision
from store.ledger import Ledger, Quarantined
from store.position import Position

_RESUMES = {"loaded": Action.RESUME_LOADED, "again": Action.RESUME_AGAIN, "lost": Action.RESUME_LOST}
_TEXT_CHARACTERS_MAX = 1_000


@dataclass(frozen=True)
class InQuarantine:
    """A quarantined message and what was decided about it."""

    message: Quarantined
    path: Path
    decision: Decision | None


class Operations:
    """The operations on one store, in the process of its loader; one at a time.

    Args:
        log: the global log.
        ledger: the store's ledger.
        quarantine_folder: the loader's.
        clock: now in ns, UTC.
    """

    def __init__(self, log: Log, ledger: Ledger, *, quarantine_folder: Path, clock: Callable[[], int]) -> None:
        self._log, self._ledger, self._folder, self._clock = log, ledger, quarantine_folder, clock
        self._one = asyncio.Lock()

    async def resume(self, topic: str, partition: int, offset: int, *, how: str, who: str, why: str) -> Decision:
        """Let a halted partition go on; ``how`` is "loaded", "again" or "lost" (rule 2).

        ``offset``: the message that may or may not be loaded; for "lost" the first one that the log holds.

        Raises:
            Invalid: it is not halted at that offset, or an argument is not what it should be; nothing changed.
            Retry: the ledger cannot be written now; nothing changed.
        """
        if how not in _RESUMES:
            raise Invalid(f"{how!r} is neither 'loaded' nor 'again' nor 'lost'")
        position = Position(self._log.log_id, topic, partition, offset)
        if how == "lost":
            await self._check_lost(position)
        return await self._decide(_RESUMES[how], position, who, why)

    async def _check_lost(self, position: Position) -> None:
        """All from what is due to the one before ``position`` must be gone, and ``position`` not."""
        due = self._ledger.next_offset(position.log_id, position.topic, position.partition)
        if await self._holds(position, due):
            raise Invalid("the log has lost nothing that is due", token=position.token, due=due)
        if await self._holds(position, max(position.offset - 1, due)) or not await self._holds(
            position, position.offset
        ):
            raise Invalid("not the first offset that the log holds; /readyz names it", token=position.token)

    async def _holds(self, position: Position, offset: int) -> bool:
        try:
            await self._log.poll(
                position.topic, position.partition, offset, messages_max=1, bytes_max=1, wait_seconds=0.0
            )
        except Corrupt:
            return False
        return True

    def listed(self) -> list[InQuarantine]:
        """Everything in quarantine, oldest first, decided or not."""
        decided = {d.position: d for d in self._ledger.decisions() if d.action in (Action.REPLAY, Action.DISCARD)}
        return [
            InQuarantine(message, self._folder / message.file, decided.get(message.position))
            for message in self._ledger.quarantined()
        ]

    async def discard(self, name: str, *, who: str, why: str) -> Decision:
        """Close a quarantined message (rule 3); raises as `resume` does."""
        return await self._decide(Action.DISCARD, Position.of_token(name), who, why)

    async def replay(self, name: str, *, who: str, why: str) -> Decision:
        """Publish a quarantined message again (rule 3), exactly once (rule 4).

        Raises:
            Invalid: no such message is open, or its file is gone, or the log refuses it.
            Retry: the outcome is unknown, and the decision stands; ask again for the same message.
        """
        position = Position.of_token(name)
        async with self._one:
            writer = await self._log.writer(Source(f"requeue-{self._ledger.ledger_id}"))
            try:
                decision = await self._finish_earlier(writer, position)
                if decision is not None:
                    return decision
                decision = self._noted(Action.REPLAY, position, who, why)
                if decision.number <= (await writer.committed() or 0):
                    self._ledger.withdraw(decision.number)
                    raise Invalid("the ledger is older than the log: is it a copy?", decision=decision.number)
                await self._publish(writer, decision)
                return replace(decision, finished=True)
            finally:
                await writer.close()

    async def _finish_earlier(self, writer: Writer, wanted: Position) -> Decision | None:
        """Carry out what was decided and not finished; returns the decision about ``wanted``, if it is one of these."""
        found = None
        for decision in self._ledger.decisions():
            if decision.finished:
                continue
            if (await writer.committed() or 0) < decision.number:
                await self._publish(writer, decision)
            else:
                self._ledger.finish(decision.number)
            if decision.position == wanted:
                found = replace(decision, finished=True)
        return found

    async def _publish(self, writer: Writer, decision: Decision) -> None:
        try:
            await writer.publish([self._message(decision.position)], consumed=decision.number)
        except Invalid:
            # Nothing changed and nothing will: a decision that stood for ever would block all others.
            self._ledger.withdraw(decision.number)
            raise
        self._ledger.finish(decision.number)

    def _message(self, position: Position) -> OutMessage:
        for entry in self.listed():
            if entry.message.position == position:
                break
        else:
            raise Invalid("no message of that name is in quarantine", token=position.token)
        if position.log_id != self._log.log_id:
            raise Invalid("the message is from another log", token=position.token, log_id=self._log.log_id)
        try:
            value = entry.path.read_bytes()
        except FileNotFoundError:
            raise Invalid(f"its file is gone: {entry.path}") from None
        except OSError as error:
            raise Retry(f"cannot read the message: {error}", file=str(entry.path)) from error
        try:
            header = decode_header(value)
            key = f"{header.tenant}/{header.region}"
        except (Invalid, TooNew):
            key = ""
        return OutMessage(position.topic, key, value, {}, position.partition)

    async def _decide(self, action: Action, position: Position, who: str, why: str) -> Decision:
        async with self._one:
            return self._noted(action, position, who, why)

    def _noted(self, action: Action, position: Position, who: str, why: str) -> Decision:
        if not who.strip() or not why.strip() or max(len(who), len(why)) > _TEXT_CHARACTERS_MAX:
            raise Invalid(f"say who decides and why, in at most {_TEXT_CHARACTERS_MAX} characters each")
        finished = action is not Action.REPLAY
        decision = Decision(action, position, who, why, self._clock(), finished)
        return replace(decision, number=self._ledger.decide(decision))
