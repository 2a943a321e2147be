"""One role as a process: signals, status server, reload, and exit when the supervisor is gone.

A reload reads the file again. When what the role uses has changed, the role is stopped gracefully and started with the
new configuration in the same process: a restart goes on where it was. What a role can take up without (a collector its
policies) it does; what cannot be taken just then, since the disk is full, is tried again. A policies file is looked at
every second: when it changes, that is a reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catchment import logs
from catchment.cli.exits import ENVIRONMENT
from catchment.cli.ports import check_free
from catchment.config import Config, Profile
from catchment.config_tls import ListenTls
from catchment.errors import Bug, ConfigFaults, Retry
from catchment.files import version_of
from catchment.status_http import Action, Probes, StatusServer
from catchment.telemetry import OwnMetric, Telemetry
from catchment.tls import ServerCertificates
from catchment.tracing import Tracing
from catchment.units import Address, about_duration

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 5.0


@dataclass
class RoleContext:
    """What a role gets from its process.

    ``stop`` is set when it is to stop. A role is not ready before it sets ``watch``, which gives the reasons why not.
    ``stalled`` says why what the role has does not flow on, ready or not: while the log is away a collector takes
    requests, and a store answers queries.
    ``adopt`` puts another view of the configuration in force without a restart, if it can: True if that was all.
    What it puts into ``actions`` can be asked for by POST on the status server; ``record`` is called before metrics are
    served, to bring them up to date.
    """

    telemetry: Telemetry
    tracing: Tracing
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    watch: Callable[[], Sequence[str]] | None = None
    stalled: Callable[[], Sequence[str]] | None = None
    adopt: Callable[[Any], Awaitable[bool]] | None = None
    actions: dict[str, Action] = field(default_factory=dict)
    record: Callable[[], None] | None = None
    _seen: dict[tuple[OwnMetric, tuple[str, ...], str], float] = field(default_factory=dict)

    def rise(self, metric: OwnMetric, total: float, *labels: str, source: str) -> None:
        """Bring a counter to what ``source`` has counted itself; sources with equal labels add up."""
        key = (metric, labels, source)
        self.telemetry.count(metric, total - self._seen.get(key, 0.0), *labels)
        self._seen[key] = total


@dataclass(frozen=True)
class Role:
    """A role: its part of the configuration, the addresses that it listens on, and what it does until told to stop."""

    name: str
    profile: Profile
    view: Callable[[Config], Any]
    listens: Callable[[Config], Mapping[str, Address]]
    run: Callable[[Config, RoleContext], Awaitable[None]]


class RoleProcess:
    """Runs one role until it is told to stop.

    Args:
        role: what to run.
        name: of this process, in logs.
        load: reads the configuration; raises `ConfigFaults`.
        status: where to serve status; port 0 takes a free one.
        state_file: told the status port once it is known.
    """

    def __init__(
        self, role: Role, name: str, load: Callable[[], Config], status: Address, state_file: Path | None
    ) -> None:
        self._role = role
        self._name = name
        self._load = load
        self._status = status
        self._state_file = state_file
        self._telemetry = Telemetry()
        self._context: RoleContext | None = None
        self._actions: dict[str, Action] = {}
        self._next: Config | None = None
        self._config = load()
        self._policies_seen = version_of_policies(self._config)
        self._again_at: float | None = None
        self._stopping = False
        self._stalled_since: float | None = None

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; a second one exits at once."""
        logs.configure(self._name, self._config.telemetry.log_level)
        self._handle_signals()
        listens = dict(self._role.listens(self._config))
        check_free(listens if self._status.port == 0 else {**listens, "listen.status": self._status})
        # What a supervisor asks, it asks over loopback: TLS is for the address that the configuration names.
        own = self._config.status.tls if self._state_file is None else ListenTls()
        certificates = ServerCertificates.of(own, log, self._telemetry, "status.tls")
        probes = Probes(self._not_ready, self._metrics, self._reload, self._actions, self._stalled)
        server = StatusServer(probes, None if certificates is None else certificates.context)
        watching = [asyncio.create_task(self._watch())]
        if certificates is not None:
            watching.append(asyncio.create_task(certificates.watch()))
        address = await server.start(self._status.host, self._status.port)
        try:
            self._tell(address)
            while not self._stopping:
                await self._run_once()
        finally:
            for task in watching:
                task.cancel()
            await server.stop()

    async def _run_once(self) -> None:
        config = self._config
        tracing = Tracing.to(self._name, config.telemetry.traces)
        self._actions.clear()
        context = self._context = RoleContext(self._telemetry, tracing, actions=self._actions)
        if self._stopping:
            return
        log.info("starting", extra={"region": config.region})
        try:
            await self._role.run(config, context)
        finally:
            self._context = None
            tracing.close()
        if not context.stop.is_set():
            raise Bug(f"the {self._role.name} ended although nobody told it to")
        if self._next is not None:
            self._config, self._next = self._next, None
        log.info("stopped")

    def _stop(self) -> None:
        if self._stopping:
            # The second signal: the operator does not want to wait. What was acknowledged is on disk.
            os._exit(ENVIRONMENT)
        self._stopping = True
        if self._context is not None:
            self._context.stop.set()

    async def _reload(self) -> Sequence[str]:
        self._again_at = None
        try:
            config = self._load()
        except ConfigFaults as faults:
            self._telemetry.count(OwnMetric.CONFIG_RELOADS, 1, "refused")
            log.error("configuration refused, the old one stays", extra={"faults": faults.faults})
            return faults.faults
        context, view = self._context, self._role.view(config)
        if context is None:
            self._config = config
        elif view != self._role.view(self._next or self._config):
            try:
                adopted = self._next is None and context.adopt is not None and await context.adopt(view)
            except Retry as error:
                self._telemetry.count(OwnMetric.CONFIG_RELOADS, 1, "refused")
                log.warning("configuration not taken, the old one stays for now", extra={"error": str(error)})
                self._again_at = time.monotonic() + _AGAIN_SECONDS
                return [f"cannot be taken now: {error}; it is tried again every {about_duration(_AGAIN_SECONDS)}"]
            if adopted:
                self._config = config
            else:
                self._next = config
                context.stop.set()
        self._telemetry.count(OwnMetric.CONFIG_RELOADS, 1, "done")
        return []

    async def _not_ready(self) -> list[str]:
        if self._stopping:
            return ["stopping"]
        if self._context is None or self._context.watch is None:
            return ["starting"]
        return list(self._context.watch())

    async def _watch(self) -> None:
        """Look whether all flows, so that its age is known when somebody asks, and at the policies file."""
        while True:
            self._stalled_seconds()
            looked = version_of_policies(self._next or self._config)
            is_due = self._again_at is not None and time.monotonic() >= self._again_at
            if looked != self._policies_seen or is_due:
                self._policies_seen = looked
                await self._reload()
            await asyncio.sleep(_LOOK_SECONDS)

    def _stalled_seconds(self) -> float:
        now = time.monotonic()
        if not self._stalls():
            self._stalled_since = None
            return 0.0
        self._stalled_since = self._stalled_since or now
        return max(now - self._stalled_since, 0.001)

    async def _stalled(self) -> list[str]:
        age_seconds, reasons = self._stalled_seconds(), await self._not_ready()
        return [f"for {about_duration(age_seconds)}: {said}" for said in self._stalls() if said not in reasons]

    def _stalls(self) -> Sequence[str]:
        context = self._context
        return context.stalled() if context is not None and context.stalled is not None else ()

    async def _metrics(self) -> bytes:
        if self._context is not None and self._context.record is not None:
            self._context.record()
        self._telemetry.set(OwnMetric.STALLED_SECONDS, self._stalled_seconds())
        self._telemetry.set(OwnMetric.READY, 0 if await self._not_ready() else 1)
        self._measure_disk()
        return self._telemetry.exposition()

    def _measure_disk(self) -> None:
        # A role that keeps nothing need not have the folder, and a sick disk must not silence all other metrics.
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self._config.data_dir)
            # Without what is reserved for root, which is of no use to us.
            self._telemetry.set(OwnMetric.DISK_FREE_RATIO, disk.free / (disk.used + disk.free))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        reloads: set[asyncio.Task[Sequence[str]]] = set()

        def reload() -> None:
            task = loop.create_task(self._reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        # The supervisor starts us with it blocked: one that came before now is handled here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def _tell(self, address: Address) -> None:
        if self._state_file is not None:
            partial = self._state_file.with_name(self._state_file.name + ".partial")
            partial.write_text(json.dumps({"pid": os.getpid(), "status_port": address.port}), "utf-8")
            partial.replace(self._state_file)


def version_of_policies(config: Config) -> tuple[int, int, int] | None:
    """What changes when the policies file does; None without one."""
    return version_of(config.policies.file) if config.policies.file is not None else None


def exit_with_parent() -> None:
    """Exit at once when stdin closes: the supervisor holds its other end, and is gone then, however it went."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ENVIRONMENT)

    threading.Thread(target=wait, name="parent", daemon=True).start()
