"""The intake: many requests at once through decode, fsync and answer, in the order of the inbox.

    submit → queue ─ stage (one decode) ─ append (one fdatasync) ─ answer ─ apply

Rules:
1. A sender is answered after its request is fsynced; a request that cannot be decoded is refused before and never
   written.
2. Requests that arrive while a batch is on its way form the next batch: one decode and one fsync for all of them. A
   batch costs milliseconds however small it is. So one that is large (``_BATCH_WORTH_BYTES``) is decoded while the one
   before it is fsynced; a smaller one waits until that is answered and applied, and then at most ``gather_ms_max`` for
   as many requests as the last batch had, whose senders are about to come back. A lone sender waits for nobody.
3. Work on the edge (stage, apply, flush) runs on one thread, in order; the fsync on another.
4. A request is taken under the policies that are in force when it is staged, and its record names them. They change
   between two batches, when nothing is staged that is not applied (`between_batches`).
5. What waits is bounded by ``intake_queue_bytes_max``; beyond it senders are told to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from catchment.crash import crash_point
from catchment.errors import Bug, CatchmentError, Invalid, Reject
from catchment.limits import Limits
from collectors.content import TooLarge, decompress, to_protobuf, translated
from collectors.edge import Edge
from collectors.inbox import Inbox
from collectors.records import Outcome, Received
from collectors.staged import Staged

log = logging.getLogger(__name__)

T = TypeVar("T")

# Enough for one decode to be worth its overhead, little enough for an answer to come soon.
_BATCH_BYTES = 4 << 20
_BATCH_REQUESTS = 512
_BATCH_WORTH_BYTES = 4 << 20
# Plain bytes that one batch begins with, and that one request may have without its points being counted first: a
# hostile one of this size takes 250 MB decoded, an honest one of 10,000 points is smaller.
_UNCOUNTED_BYTES_MAX = 5 << 19
# About what deflate makes of zeros at most.
_RATIO_OF_BROKEN = 1_000
# More than any limit of a request.
_REPLAYED_BYTES_MAX = 1 << 30


@dataclass(slots=True)
class _Waiting:
    received: Received
    answer: asyncio.Future[Outcome]
    unpacked_bytes: int = 0


@dataclass(slots=True)
class _Batch:
    """A staged batch: what is written, and who waits for it."""

    waiting: list[_Waiting]
    outcomes: list[Outcome]
    staged: Staged


class Pipeline:
    """The one thread that works on the edge, and the inbox position of what it has applied."""

    def __init__(self, edge: Edge, inbox: Inbox, consumed: int) -> None:
        self.edge = edge
        self.inbox = inbox
        self.applied = consumed
        self._executor = ThreadPoolExecutor(1, "edge")

    async def run(self, work: Callable[[], T]) -> T:
        """Do something on the edge's thread, after all that was asked for before."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def apply(self, staged: Staged, requests: Sequence[Received], position: int) -> None:
        """Apply durable requests that end at ``position``; on the edge's thread."""
        self.edge.apply(staged, requests)
        self.applied = position

    def replay(self, under: Callable[[str, int], None], after_batch: Callable[[int], None]) -> int:
        """Apply what the inbox holds behind the consumed position; at start, on the caller's thread.

        Args:
            under: puts the policies of a version in force, at the time (ns, UTC) when the next request was received.
            after_batch: told after each batch when the last of its requests was received, in ns.

        Returns:
            How many requests were applied.
        """
        self.edge.replay(begins=True)
        count = size = 0
        end = self.applied
        requests: list[Received] = []
        payloads: list[bytes] = []
        version = self.edge.policy.version
        for position, received in self.inbox.replay(self.applied):
            if received.policy_version != version:
                count += self._replay_batch(requests, payloads, end)
                requests, payloads, size = [], [], 0
                version = received.policy_version
                under(version, received.received_ns)
            end = position
            try:
                # Taken under the limits of then, which may have been wider.
                payloads.append(to_protobuf(received, _REPLAYED_BYTES_MAX))
            except Invalid:
                self._count_unreadable(received)
                continue
            requests.append(received)
            size += len(payloads[-1])
            if size >= _BATCH_BYTES or len(requests) >= _BATCH_REQUESTS:
                count += self._replay_batch(requests, payloads, end)
                after_batch(received.received_ns)
                requests, payloads, size = [], [], 0
        count += self._replay_batch(requests, payloads, end)
        self.edge.replay(begins=False)
        return count

    def close(self) -> None:
        """Wait for what is running and end the thread."""
        self._executor.shutdown()

    def _replay_batch(self, requests: list[Received], payloads: list[bytes], end: int) -> int:
        if not requests:
            self.applied = end
            return 0
        outcomes, staged = self.edge.stage(requests, payloads)
        good = []
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, Outcome):
                good.append(request)
            else:
                self._count_unreadable(request)
        self.apply(staged, good, end)
        return len(good)

    def _count_unreadable(self, request: Received) -> None:
        """It was decoded before it was written, so this program has become stricter than the one that answered."""
        place = self.edge.catalog.place(request.tenant, request.cluster)
        self.edge.tally.add(place, "unreadable_in_replay", "requests", 1)


class EdgeIntake:
    """The `collectors.records.Intake` of a collector.

    Args:
        pipeline: the edge's thread.
        limits: bounds of what waits.
        pressure: a reason to refuse everything for now ("" for none), such as a full outbox.
    """

    def __init__(self, pipeline: Pipeline, limits: Limits, pressure: Callable[[], str]) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._pressure = pressure
        self._queue: deque[_Waiting] = deque()
        self._queue_bytes = 0
        self._arrived = asyncio.Event()
        self._closed = False
        self._staged: asyncio.Queue[_Batch | None] = asyncio.Queue(maxsize=1)
        self._requests_before = 0
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._staging = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, "inbox")
        self.commit_seconds: Callable[[float], None] = lambda seconds: None
        self.applied: Callable[[], None] = lambda: None
        # Told of whom and by how many bytes a body was larger than what was received.
        self.unpacked: Callable[[str, int], None] = lambda tenant, more_bytes: None

    async def submit(self, received: Received) -> Outcome:
        """See `collectors.records.Intake`."""
        if self._closed:
            raise Reject("stopping", retry_after_seconds=self._limits.retry_after_seconds)
        reason = self._pressure()
        if reason:
            raise Reject(reason, retry_after_seconds=self._limits.retry_after_seconds)
        size = len(received.body)
        if self._queue_bytes + size > self._limits.intake_queue_bytes_max:
            raise Reject("too much is waiting", retry_after_seconds=self._limits.retry_after_seconds)
        waiting = _Waiting(received, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._queue_bytes += size
        self._arrived.set()
        try:
            return await waiting.answer
        finally:
            self._queue_bytes -= size
            if waiting.unpacked_bytes > size:
                self.unpacked(received.tenant, waiting.unpacked_bytes - size)
            # The future holds the error, and the error this frame: a circle around the body.
            del waiting

    async def run(self) -> None:
        """Work until `close`; ends when everything submitted was answered and applied."""
        writing = asyncio.create_task(self._write_batches(), name="inbox")
        try:
            await _first_failure(self._stage_batches(), writing)
        except BaseException as error:
            self._closed = True
            self._fail_all(error)
            raise
        finally:
            writing.cancel()
            self._writer.shutdown()

    async def between_batches(self, work: Callable[[], T]) -> T:
        """Do something on the edge's thread while nothing is staged that is not applied; the next batch waits."""
        async with self._staging:
            await self._none_under_way.wait()
            return await self._pipeline.run(work)

    def close(self) -> None:
        """Take no more; what was submitted is still finished."""
        self._closed = True
        self._arrived.set()

    def _fail_all(self, error: BaseException) -> None:
        while self._queue:
            answer = self._queue.popleft().answer
            if not answer.done():
                answer.set_exception(Bug(f"the intake broke: {error}"))

    async def _stage_batches(self) -> None:
        while True:
            await self._arrived.wait()
            if not self._queue:
                if self._closed:
                    await self._staged.put(None)
                    return
                self._arrived.clear()
                continue
            await self._gather()
            async with self._staging:
                waiting = self._take()
                self._requests_before = len(waiting)
                batch, later = await self._pipeline.run(lambda waiting=waiting: self._unpack(waiting))  # type: ignore[misc]
                self._queue.extendleft(reversed(later))
                if batch.waiting:
                    self._none_under_way.clear()
                    await self._staged.put(batch)

    async def _gather(self) -> None:
        """Let a small batch grow (rule 2)."""
        if self._is_worth_it():
            return
        await self._none_under_way.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.gather_ms_max / 1_000):
                while len(self._queue) < self._requests_before and not self._closed:
                    self._arrived.clear()
                    await self._arrived.wait()
        # It says that the queue is not empty: what is not taken now must not wait for another to arrive.
        self._arrived.set()

    def _is_worth_it(self) -> bool:
        return sum(len(one.received.body) for one in self._queue) >= _BATCH_WORTH_BYTES

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        while self._queue and len(taken) < _BATCH_REQUESTS and size < _BATCH_BYTES:
            waiting = self._queue.popleft()
            if waiting.answer.cancelled():
                continue  # the sender has gone before anything was written: it will come again
            taken.append(waiting)
            size += len(waiting.received.body)
        return taken

    def _unpack(self, waiting: list[_Waiting]) -> tuple[_Batch, list[_Waiting]]:
        """Unpack and stage a batch; on the edge's thread.

        Returns:
            The batch, and those left for the next one: small bodies may unpack to much.
        """
        good: list[_Waiting] = []
        payloads: list[bytes] = []
        size = 0
        version = self._pipeline.edge.policy.version
        for i, one in enumerate(waiting):
            if one.received.policy_version != version:
                one.received = replace(one.received, policy_version=version)
            if size > _UNCOUNTED_BYTES_MAX:
                return self._stage(good, payloads), waiting[i:]
            try:
                payload = translated(one.received, self._plain(one))
                if len(payload) > _UNCOUNTED_BYTES_MAX and self._points(one, payload) > self._limits.request_points_max:
                    raise TooLarge(f"more than {self._limits.request_points_max} points in one request")
                payloads.append(payload)
                good.append(one)
                size += len(payload)
            except Invalid as error:
                self._refuse(one, error)
        return self._stage(good, payloads), []

    def _plain(self, one: _Waiting) -> bytes:
        """The body decompressed, with a note of its size: of one that is broken, what it may have cost."""
        received, bytes_max = one.received, self._limits.request_bytes_uncompressed_max
        if received.content_encoding:
            one.unpacked_bytes = min(bytes_max, _RATIO_OF_BROKEN * len(received.body))
        plain = decompress(received.body, received.content_encoding, bytes_max)
        one.unpacked_bytes = len(plain)
        return plain

    def _points(self, one: _Waiting, payload: bytes) -> int:
        return self._pipeline.edge.count_points(one.received, payload)

    def _stage(self, good: list[_Waiting], payloads: list[bytes]) -> _Batch:
        """Decode a batch and refuse what is bad."""
        if not good:
            return _Batch([], [], Staged())
        try:
            outcomes, staged = self._pipeline.edge.stage([one.received for one in good], payloads)
        except Exception:
            if len(good) > 1:
                # A fault of ours that one request brings out must not hurt the others: each goes alone.
                return self._stage_each(good, payloads)
            log.exception("a request cannot be staged")
            self._refuse(good[0], CatchmentError("this request cannot be processed"))
            return _Batch([], [], Staged())
        written, answers = [], []
        for one, outcome in zip(good, outcomes, strict=True):
            if isinstance(outcome, Invalid):
                self._refuse(one, outcome)
            else:
                written.append(one)
                answers.append(outcome)
        if not written:
            self._pipeline.edge.discard(staged)
        return _Batch(written, answers, staged)

    def _stage_each(self, waiting: list[_Waiting], payloads: list[bytes]) -> _Batch:
        """Stage requests one at a time, and join what is good."""
        joined = _Batch([], [], Staged())
        for one, payload in zip(waiting, payloads, strict=True):
            batch = self._stage([one], [payload])
            self._pipeline.edge.discard(batch.staged)
            joined.waiting += batch.waiting
            joined.outcomes += batch.outcomes
            joined.staged.take_in(batch.staged)
        if joined.waiting:
            self._pipeline.edge.hand_out(joined.staged)
        return joined

    def _refuse(self, one: _Waiting, error: CatchmentError) -> None:
        one.answer.get_loop().call_soon_threadsafe(_answer, one.answer, _bare(error))

    async def _write_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while (batch := await self._staged.get()) is not None:
            crash_point("intake.decoded")
            requests = [one.received for one in batch.waiting]
            try:
                began = loop.time()
                ends = await loop.run_in_executor(self._writer, self._pipeline.inbox.append, requests)
            except CatchmentError as error:
                await self._pipeline.run(lambda staged=batch.staged: self._pipeline.edge.discard(staged))  # type: ignore[misc]
                for one in batch.waiting:
                    _answer(one.answer, error)
                self._rest()
                continue
            self.commit_seconds(loop.time() - began)
            for one, outcome in zip(batch.waiting, batch.outcomes, strict=True):
                _answer(one.answer, outcome)
            crash_point("intake.answered")
            await self._pipeline.run(
                lambda staged=batch.staged, requests=requests, end=ends[-1]: self._pipeline.apply(staged, requests, end)  # type: ignore[misc]
            )
            self.applied()
            crash_point("intake.applied")
            self._rest()

    def _rest(self) -> None:
        """A batch is through; the next one, if it is there, is under way already."""
        if self._staged.empty():
            self._none_under_way.set()


def _bare(error: CatchmentError) -> CatchmentError:
    """An error without the frames that it came through.

    They hold unpacked bodies and whoever waits for the error, in a circle that only the garbage collector would end.
    """
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _answer(future: asyncio.Future[Outcome], outcome: Outcome | CatchmentError) -> None:
    if future.done():
        return
    if isinstance(outcome, Outcome):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


async def _first_failure(*work: Awaitable[None]) -> None:
    """Run until all are done or one fails; the failure is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for task in pending:
        task.cancel()
    for task in done:
        task.result()
