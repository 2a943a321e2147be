"""The store as a role: engine, migrations, loader and SQL endpoint in one process, which owns the engine's folder."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Sequence

from catchment.cli.open_log import open_log
from catchment.cli.role_process import RoleContext
from catchment.cli.store_actions import cluster_actions, store_actions
from catchment.cli.waiting_partitions import Waiting, retrying, standing
from catchment.columns import GLOBAL_LANES, global_topic, store_topic
from catchment.config import Config, StoreConfig
from catchment.errors import Corrupt, Invalid, Retry
from catchment.limits import Limits
from catchment.log.port import Log
from catchment.log.traced import traced
from catchment.telemetry import OwnMetric
from catchment.tls import ServerCertificates
from store.engine.chdb import ChdbEngine
from store.engine.port import Engine
from store.ledger import Ledger
from store.loader import Loader, State
from store.migrate import DEDUPLICATION_WINDOW_BLOCKS, migrate
from store.operations import Operations
from store.readers import ReadersFile
from store.sql_http import App, Message, Receive, Send, SqlEndpointConfig, make_app, serve
from store.sql_settings import QueryLimits

_log = logging.getLogger(__name__)


async def run_store(config: Config, context: RoleContext) -> None:
    """The global log → loader → engine → SQL endpoint."""
    settings = config.for_store()
    engine = await asyncio.to_thread(ChdbEngine, settings.folder)
    try:
        ledger = Ledger(settings.folder, deduplication_window=DEDUPLICATION_WINDOW_BLOCKS)
        try:
            retention = dataclasses.asdict(settings.retention)
            await asyncio.to_thread(migrate, engine, ledger, now_ns=time.time_ns(), retention_seconds=retention)
            log = traced(open_log(settings), context.tracing)
            try:
                await _serve(settings, context, engine, ledger, log)
            finally:
                await log.close()
        finally:
            ledger.close()
    finally:
        await asyncio.to_thread(engine.close)


async def _serve(settings: StoreConfig, context: RoleContext, engine: Engine, ledger: Ledger, log: Log) -> None:
    topics = _topics(settings)
    quarantine = settings.folder / "quarantine"
    loader = Loader(log, engine, ledger, topics, quarantine_folder=quarantine)
    readers = None
    if settings.readers is not None:
        readers = ReadersFile(settings.readers, _log.info, _log.warning)
        context.telemetry.read_from(OwnMetric.FILES_REFUSED, lambda: readers.is_refused, "readers")
    certificates = ServerCertificates.of(settings.sql.tls, _log, context.telemetry, "sql.tls")
    app = _Counted(make_app(engine, config=_endpoint(settings, readers)), context)
    listening: list[int] = []
    trouble: list[str] = []

    async def load() -> None:
        # Queries are answered while the log is away, or is not as it should be.
        while not context.stop.is_set():
            try:
                await log.create_topics(dict.fromkeys(topics, settings.log.partitions))
                await loader.run(context.stop)
            except (Retry, Corrupt, Invalid) as error:
                trouble[:] = [f"the log {'does not answer' if isinstance(error, Retry) else 'cannot be used'}: {error}"]
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(context.stop.wait(), 1 if isinstance(error, Retry) else 10)

    def waiting() -> list[Waiting]:
        return [
            Waiting(status.topic, status.partition, status.state.value, status.reason)
            for status in loader.status()
            if status.state is not State.RUNNING
        ]

    def stalled() -> Sequence[str]:
        return retrying(waiting()) if loader.status() else trouble

    def reasons() -> Sequence[str]:
        starts = [] if loader.status() or trouble else ["the loader starts"]
        return [*standing(waiting()), *starts, *([] if listening else ["SQL starts"])]

    context.watch, context.stalled = reasons, stalled
    context.record = _Recorder(context, loader, ledger, log).record
    operations = Operations(log, ledger, quarantine_folder=quarantine, clock=time.time_ns)
    context.actions.update({**cluster_actions(engine), **store_actions(operations)})
    address = settings.listen_sql
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load())
            watched = [watched for watched in (readers, certificates) if watched is not None]
            watching = [tasks.create_task(file.watch()) for file in watched]
            tls = certificates.context if certificates is not None else None
            try:
                await serve(app, address.host, address.port, context.stop, on_listening=listening.append, tls=tls)
            finally:
                for task in watching:
                    task.cancel()
    finally:
        loader.close()


def _topics(settings: StoreConfig) -> list[str]:
    """What the store loads: the globe's rows, or those of the region that it is the store of."""
    prefix, region = settings.log.topic_prefix, settings.region
    if region is None:
        return [global_topic(prefix, lane) for lane in GLOBAL_LANES]
    return [store_topic(prefix, region, lane) for lane in GLOBAL_LANES]


def _endpoint(settings: StoreConfig, readers: ReadersFile | None) -> SqlEndpointConfig:
    limits = settings.limits
    return SqlEndpointConfig(
        users=settings.sql.users,
        readers=None if readers is None else lambda: readers.current,
        queries_max=limits.queries_in_flight_max,
        queue_max=limits.queries_waiting_max,
        request_bytes_max=limits.query_bytes_max,
        limits=limits_of(limits),
    )


def limits_of(limits: Limits) -> QueryLimits:
    """The limits of one query."""
    return QueryLimits(
        memory_bytes_max=limits.query_memory_bytes_max,
        execution_seconds_default=limits.query_seconds_default,
        execution_seconds_max=limits.query_seconds_max,
        result_bytes_max=limits.query_result_bytes_max,
        threads_max=limits.query_threads_max,
    )


class _Recorder:
    """Brings our metrics to what loader and ledger know. The ledger's sums are durable, so the counters are too."""

    def __init__(self, context: RoleContext, loader: Loader, ledger: Ledger, log: Log) -> None:
        self._context = context
        self._loader = loader
        self._ledger = ledger
        self._log = log

    def record(self) -> None:
        """Look once."""
        context, held, halted = self._context, 0, 0
        for status in self._loader.status():
            table, partition = status.topic.rpartition(".")[2], str(status.partition)
            context.telemetry.set(OwnMetric.LAG_MESSAGES, status.lag, status.topic, partition)
            loaded = self._ledger.loaded(self._log.log_id, status.topic, status.partition)
            context.rise(OwnMetric.LOADED_ROWS, loaded.rows, table, source=partition)
            context.rise(OwnMetric.LOADED_MESSAGES, loaded.messages, table, source=partition)
            context.rise(OwnMetric.DEAD_LETTERS, loaded.quarantined, source=f"{table}/{partition}")
            held += status.state in (State.HELD, State.HALTED)
            halted += status.state is State.HALTED
        context.telemetry.set(OwnMetric.HELD_MESSAGES, held)
        context.telemetry.set(OwnMetric.HALTED_PARTITIONS, halted)


class _Counted:
    """The SQL endpoint with its answers counted and timed."""

    def __init__(self, app: App, context: RoleContext) -> None:
        self._app = app
        self._telemetry = context.telemetry

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            if scope["type"] == "http":
                self._telemetry.count(OwnMetric.QUERIES, 1, "answered" if status == 200 else f"http_{status}")
                self._telemetry.observe(OwnMetric.QUERY_SECONDS, time.monotonic() - started)
