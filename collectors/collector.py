"""The collector: receivers → intake → edge → flush → forwarder, wired for one folder.

On disk, below the folder: ``inbox/`` (requests, see `collectors.inbox`) and ``state.db`` (everything else, see
`collectors.state`). One process owns it, by the inbox's lock.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from catchment.config import CollectorConfig
from catchment.config_policies import Policies
from catchment.crash import crash_point
from catchment.errors import Retry
from catchment.identity import canonical_attributes
from catchment.limits import Limits
from catchment.log.port import Log
from catchment.telemetry import OwnMetric, Telemetry
from catchment.tracing import Tracing
from catchment.units import about, about_duration
from collectors import judging_limits, policy_change
from collectors.admit import Admit
from collectors.allocator import fewer_collections, keep_memory, without_pandas
from collectors.flush import Flusher
from collectors.flushing import Flushing
from collectors.forward import Forwarder
from collectors.inbox import Inbox
from collectors.intake import EdgeIntake, Pipeline
from collectors.ladder import Ladder
from collectors.open_files import connections_of, lift_open_files
from collectors.policy import Policy
from collectors.policy_change import PolicyChanges
from collectors.rates import Rates
from collectors.receive.otlp_grpc import serve_grpc
from collectors.receive.otlp_http import serve_http
from collectors.receive.serving import ACCEPTED
from collectors.receive.tls import Certificates
from collectors.restored import restored
from collectors.state import StateFile
from collectors.tenants import Sender, TenantsFile

if TYPE_CHECKING:
    from collectors.scrape.scraper import Scraper

log = logging.getLogger(__name__)

DEFAULT_TENANT = "default"
# How long a stop goes on forwarding; what is left in the outbox is safe there.
_FORWARD_SECONDS = 20


class Context(Protocol):
    """What the process gives a collector; see `catchment.cli.role_process.RoleContext`."""

    telemetry: Telemetry
    tracing: Tracing
    stop: asyncio.Event
    watch: Callable[[], Sequence[str]] | None
    stalled: Callable[[], Sequence[str]] | None
    adopt: Callable[[CollectorConfig], Awaitable[bool]] | None


class Collector:
    """One collector's parts, opened from its folder with everything acknowledged so far applied.

    Its limits are those that the folder was used with before, where they judge points (`opened` changes them).

    ``clock``: now in ns, UTC.
    """

    def __init__(
        self,
        config: CollectorConfig,
        messages: Log,
        telemetry: Telemetry,
        tracing: Tracing,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        now_ns = clock()
        self._clock = clock
        self._telemetry = telemetry
        self._own = Sender(DEFAULT_TENANT, config.cluster.name, canonical_attributes(dict(config.cluster.labels)))
        config.folder.mkdir(parents=True, exist_ok=True)
        self._inbox = Inbox.open(
            config.folder / "inbox",
            segment_bytes=config.limits.inbox_segment_bytes_max,
            bytes_max=config.limits.inbox_bytes_max,
            spare_bytes_max=config.limits.inbox_spare_bytes_max,
        )
        path = config.folder / "state.db"
        self._state = StateFile(path)
        meta = self._state.meta(inbox_id=self._inbox.folder_id, now_ns=now_ns)
        limits = judging_limits.opened(self._state, config.limits)
        self.config = replace(config, limits=limits)
        history = policy_change.opened(self._state, config.policies)
        self.edge, places = restored(
            self._state, meta, Policy(history.in_force), limits, window_seconds=config.resolution_seconds, now_ns=now_ns
        )
        self._pipeline = Pipeline(self.edge, self._inbox, meta.consumed)
        self._flusher = Flusher(self.edge, self._state, meta, region=config.region, name=config.cluster.name)
        self._ladder = Ladder(self._state, limits, self._flusher.coarsen, now_ns)
        self._forward_state = StateFile(path)
        self._forwarder = Forwarder(
            self._forward_state,
            self._ladder,
            messages,
            folder_id=self._inbox.folder_id,
            place=config.place,
            prefix=config.log.topic_prefix,
            partitions=config.log.partitions,
            limits=limits,
            telemetry=telemetry,
        )
        self._policies = PolicyChanges(
            self._state,
            self.edge,
            history,
            lambda ns: self._flusher.flush(self._pipeline.applied, ns, release=True),
        )
        self.flushing = Flushing(
            self.config,
            self._own,
            self._pipeline,
            self._flusher,
            self._ladder,
            self._policies.trimmed,
            telemetry,
            tracing,
            clock,
        )
        self.flushing.flushed = self._forwarder.flushed
        self._intake = EdgeIntake(self._pipeline, limits, self.flushing.pressure)
        self._intake.applied = self.flushing.applied
        self._admit: Admit | None = None
        replayed = self._pipeline.replay(self._policies.replay_under, self.flushing.in_replay)
        self._policies.begin(config.policies, now_ns)
        if config.tenants is None and places and self._own.cluster not in {cluster for _, cluster in places}:
            # The cluster has another name now: its streams are new to us, but what they count was counted already.
            # Its tenants say nothing of that: what is scraped may be another's than what anonymous senders send.
            self.edge.lives.known_since_ns = max(self.edge.lives.known_since_ns, now_ns)
        log.info("inbox replayed", extra={"requests": replayed, "position": self._pipeline.applied})

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until ``stop``; then answer what is in hand, flush once more and forward."""
        self._register()
        config = self.config
        tenants, certificates = self._watched()
        admit = self._admit = Admit(tenants, self._own, self.edge.policy.version, Rates(config.rates, time.monotonic))
        self._intake.unpacked = lambda tenant, more_bytes: admit.rates.pay(tenant, "bytes", more_bytes)
        scraper = self._scraper(admit)
        receivers_stop, forward_stop = asyncio.Event(), asyncio.Event()
        intake = asyncio.create_task(self._intake.run(), name="intake")
        flushing = asyncio.create_task(self.flushing.forever(stop), name="flush")
        forwarding = asyncio.create_task(self._forwarder.run(forward_stop), name="forward")
        tasks = [intake, flushing, forwarding, asyncio.create_task(self.flushing.beat_forever(), name="beat")]
        if tenants is not None:
            tasks.append(asyncio.create_task(tenants.watch(), name="tenants"))
        if certificates is not None:
            tasks.append(asyncio.create_task(certificates.watch(), name="certificates"))
        scraping = [asyncio.create_task(scraper.run(receivers_stop), name="scrape")] if scraper is not None else []
        tasks += scraping
        try:
            connections_max = min(config.limits.connections_max, connections_of(lift_open_files()))
            limits = replace(config.limits, connections_max=connections_max)
            parts = (limits, receivers_stop, self._observe, certificates)
            http = await serve_http(self._intake, admit, str(config.otlp_http), *parts)
            grpc = await serve_grpc(self._intake, admit, str(config.otlp_grpc), *parts)
            ready()
            await _until(stop, [*tasks, http.done, grpc.done])
            receivers_stop.set()
            await asyncio.gather(http.done, grpc.done, *scraping)
            self._intake.close()
            await intake
            await flushing
            await self.flushing.once(release=True)
            forward_stop.set()
            self._forwarder.flushed()
            try:
                await asyncio.wait_for(forwarding, _FORWARD_SECONDS)
            except TimeoutError:
                log.warning("stopping with envelopes that are not forwarded: they go after the next start")
        finally:
            receivers_stop.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _watched(self) -> tuple[TenantsFile | None, Certificates | None]:
        """The files of who may send, which are read again when they change."""
        tenants = None
        if self.config.tenants is not None:
            tenants = TenantsFile(self.config.tenants, log.info, log.warning)
            self._telemetry.read_from(OwnMetric.FILES_REFUSED, lambda: tenants.is_refused, "tenants")
        return tenants, Certificates.of(self.config.tls, log, self._telemetry, "tls")

    def _scraper(self, admit: Admit) -> Scraper | None:
        """What scrapes, if anything is to be."""
        settings = self.config.scrape
        if settings.file is None:
            return None
        # Here, since the HTTP client takes 11 MiB, which most collectors do not need.
        from collectors.scrape.scraper import Scraper

        # A record holds more than the answer: what has ended since the one before.
        limits = self.config.limits
        return Scraper(
            settings.file,
            replace(self._own, tenant=settings.tenant),
            self._intake,
            self._telemetry,
            lambda: admit.policy_version,
            limits.request_bytes_uncompressed_max // 2,
            limits.request_points_max // 2,
        )

    def stalled(self) -> list[str]:
        """Why what was taken does not reach the log, and how much waits; empty while it does."""
        trouble = self._forwarder.trouble
        if not trouble:
            return []
        ladder = self._ladder
        waits = [f"{about(ladder.waits.size_bytes)} wait, {ladder.used_ratio():.0%} of the limit"]
        if ladder.waits.messages:
            waits.append(f"the oldest for {about_duration(ladder.oldest_seconds(self._clock()))}")
        if ladder.waits.merged_seconds:
            waits.append(f"merged up to windows of {about_duration(ladder.waits.merged_seconds)}")
        return [f"{trouble}; {', '.join(waits)}"]

    async def adopt(self, config: CollectorConfig) -> bool:
        """Put what of another configuration can be in force without a restart: its policies.

        Returns:
            Whether that is all that it says.

        Raises:
            Retry: nothing changed.
        """
        if replace(self.config, policies=config.policies) != config or self._admit is None:
            return False
        if config.policies.version != self.edge.policy.version:
            await self._intake.between_batches(lambda: self._change_policies(config.policies))
            self._admit.policy_version = self.edge.policy.version
            self._forwarder.flushed()
        self.config = config
        return True

    def _change_policies(self, policies: Policies) -> None:
        """On the edge's thread."""
        self.flushing.cut()
        crash_point("policies.flushed")
        self._policies.change(policies, self._clock())
        crash_point("policies.changed")

    def change_limits(self, limits: Limits) -> None:
        """Let others be in force from the next opening on: what was acknowledged until now is flushed; before `run`.

        Raises:
            Retry: nothing changed.
        """
        self.edge.settle()
        self.flushing.cut()
        crash_point("limits.flushed")
        self._state.keep_limits(judging_limits.judging(limits))

    def close(self) -> None:
        """Let go of the folder."""
        self._pipeline.close()
        self._state.close()
        self._forward_state.close()
        self._inbox.close()

    def _observe(self, protocol: str, answer: str, size_bytes: int, sender: Sender | None) -> None:
        """Count a request that was answered; on the event loop."""
        self._telemetry.count(OwnMetric.REQUESTS, 1, protocol, answer)
        self._telemetry.count(OwnMetric.REQUEST_BYTES, size_bytes, protocol)
        if answer != ACCEPTED:
            self.flushing.refused(sender, answer)

    def _register(self) -> None:
        telemetry, ladder = self._telemetry, self._ladder
        self._intake.commit_seconds = lambda seconds: telemetry.observe(OwnMetric.INBOX_COMMIT_SECONDS, seconds)
        telemetry.read_from(OwnMetric.INBOX_BYTES, lambda: self._inbox.size_bytes)
        telemetry.read_from(OwnMetric.STREAMS, lambda: len(self.edge.lives))
        telemetry.read_from(OwnMetric.SERIES, lambda: len(self.edge.catalog.series))
        telemetry.read_from(OwnMetric.OUTBOX_MESSAGES, lambda: ladder.waits.messages)
        telemetry.read_from(OwnMetric.OUTBOX_BYTES, lambda: ladder.waits.size_bytes)
        telemetry.read_from(OwnMetric.OUTBOX_USED_RATIO, ladder.used_ratio)
        telemetry.read_from(OwnMetric.OUTBOX_WINDOW_SECONDS, lambda: ladder.waits.merged_seconds)
        telemetry.read_from(OwnMetric.OUTBOX_OLDEST_SECONDS, lambda: ladder.oldest_seconds(self._clock()))
        telemetry.read_from(OwnMetric.PUSHING_BACK_SECONDS, lambda: ladder.pushing_back_seconds(self._clock()))


def opened(
    config: CollectorConfig,
    messages: Log,
    telemetry: Telemetry,
    tracing: Tracing,
    clock: Callable[[], int] = time.time_ns,
) -> Collector:
    """The collector of a folder, under the limits that are configured.

    Raises:
        CatchmentError: the folder cannot be used.
    """
    collector = Collector(config, messages, telemetry, tracing, clock)
    if collector.config.limits == config.limits:
        return collector
    try:
        collector.change_limits(config.limits)
    except Retry as error:
        log.warning("some limits stay as they were until a start that can flush", extra={"error": str(error)})
        return collector
    except BaseException:
        collector.close()
        raise
    collector.close()
    # Its parts know each other; two at once would take twice the memory.
    del collector
    gc.collect()
    return Collector(config, messages, telemetry, tracing, clock)


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for ``stop``; if a task ends before, raise why."""
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopping.cancel()


async def run(config: CollectorConfig, messages: Log, context: Context) -> None:
    """Run a collector until ``context.stop``.

    Raises:
        CatchmentError: the folder, a port or the log cannot be used.
    """
    without_pandas()
    keep_memory()
    collector = await asyncio.to_thread(opened, config, messages, context.telemetry, context.tracing)

    fewer_collections()

    def ready() -> None:
        context.watch = collector.flushing.troubles
        context.stalled = collector.stalled
        context.adopt = collector.adopt

    try:
        await collector.run(context.stop, ready)
    finally:
        collector.close()
