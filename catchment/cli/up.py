"""``catchment up``: all tiers on this machine, in one folder, as children of one supervisor."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from catchment import logs
from catchment.cli.exposition import merged
from catchment.cli.folder_lock import FolderLock
from catchment.cli.options import config_option, data_dir_option, read_config
from catchment.cli.ports import check_free
from catchment.cli.role_process import version_of_policies
from catchment.cli.supervisor import Supervisor, role_child
from catchment.config import Config
from catchment.config_load import write
from catchment.errors import ConfigFaults
from catchment.status_http import Probes, StatusServer
from catchment.telemetry import OwnMetric, Telemetry
from catchment.tls import ServerCertificates

log = logging.getLogger(__name__)

# In the order of stopping: what was promised to senders flows down before the next one stops.
_ROLES = ("collector", "aggregator", "store")


@click.command()
@config_option()
@data_dir_option
def up(config_file: Path | None, data_dir: Path | None) -> int:
    """Run all tiers on this machine, in one folder."""

    def read() -> Config:
        config = read_config(config_file, data_dir)
        return dataclasses.replace(config, data_dir=config.data_dir.resolve())

    config = read()
    logs.configure("up", config.telemetry.log_level)
    with FolderLock(config.data_dir, "up"):
        listen = config.listen
        check_free({f"listen.{name}": getattr(listen, name) for name in ("otlp_grpc", "otlp_http", "sql", "status")})
        return asyncio.run(_Up(config, read).run())


class _Up:
    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        self._config = config
        self._read = read
        self._telemetry = Telemetry()
        self._policies_seen = version_of_policies(config)
        self._run_dir = config.data_dir / "run"
        self._file = self._run_dir / "config.yaml"
        children = [role_child(role, role, self._file) for role in _ROLES]
        self._supervisor = Supervisor(children, self._run_dir, self._telemetry)

    async def run(self) -> int:
        write(self._config, self._file)
        certificates = ServerCertificates.of(self._config.status.tls, log, self._telemetry, "status.tls")
        server = StatusServer(
            Probes(self._supervisor.not_ready, self._metrics, self._reload, stalled=self._supervisor.stalled),
            None if certificates is None else certificates.context,
        )
        await server.start(self._config.listen.status.host, self._config.listen.status.port)
        self._handle_signals()
        ready = asyncio.Event()
        tasks = [
            asyncio.create_task(self._greet(ready)),
            asyncio.create_task(self._watch_policies(), name="policies"),
        ]
        if certificates is not None:
            tasks.append(asyncio.create_task(certificates.watch()))
        try:
            return await self._supervisor.run(ready)
        finally:
            for task in tasks:
                task.cancel()
            await server.stop()

    async def _greet(self, ready: asyncio.Event) -> None:
        await ready.wait()
        config, listen = self._config, self._config.listen
        click.echo(
            f"catchment is ready: OTLP/gRPC {listen.otlp_grpc}, "
            f"OTLP/HTTP {config.tls.scheme}://{listen.otlp_http}, SQL {config.sql.tls.scheme}://{listen.sql}, "
            f"status {config.status.tls.scheme}://{listen.status}, data in {config.data_dir}"
        )

    async def _metrics(self) -> bytes:
        children = await self._supervisor.metrics()
        self._telemetry.set(OwnMetric.READY, 0 if await self._supervisor.not_ready() else 1)
        return merged([("up", self._telemetry.exposition()), *children])

    async def _reload(self) -> Sequence[str]:
        return self._reload_now()

    async def _watch_policies(self) -> None:
        """Reload when the policies file changes; children have what it says in their own file."""
        while True:
            await asyncio.sleep(1.0)
            looked = version_of_policies(self._config)
            if looked != self._policies_seen:
                self._policies_seen = looked
                self._reload_now()

    def _reload_now(self) -> Sequence[str]:
        faults: Sequence[str] = []
        try:
            config = self._read()
            faults = _fixed(self._config, config)
        except ConfigFaults as error:
            faults = error.faults
        if faults:
            self._telemetry.count(OwnMetric.CONFIG_RELOADS, 1, "refused")
            log.error("configuration refused, the old one stays", extra={"faults": faults})
            return faults
        self._config = config
        write(config, self._file)
        self._supervisor.reload()
        self._telemetry.count(OwnMetric.CONFIG_RELOADS, 1, "done")
        return []

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._supervisor.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload_now)


def _fixed(old: Config, new: Config) -> list[str]:
    # What this process itself holds cannot change under it.
    faults = []
    if new.data_dir != old.data_dir:
        faults.append(f"data_dir: cannot change from {old.data_dir} while running; restart")
    if new.listen.status != old.listen.status:
        faults.append(f"listen.status: cannot change from {old.listen.status} while running; restart")
    if new.status != old.status:
        faults.append("status: cannot change while running, only what its files say; restart")
    return faults
