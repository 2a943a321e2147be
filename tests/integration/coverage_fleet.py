"""A fleet of whole collectors whose lives are scripted, and the plain model of what coverage has to say of them.

From the intake on all is as in production: inbox, flush, outbox, log, roll-up, loader, tables, views. Only the sockets
and the clock are left out. Times are seconds after `tests.otlp.T0_NS`, windows are minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path

from aggregators.aggregator import Aggregator, AggregatorConfig
from catchment.config import Cluster, Config
from catchment.log.sqlite import SqliteLog
from catchment.telemetry import Telemetry
from catchment.tracing import Tracing
from collectors.collector import Collector
from store.clusters import reinstate, retire
from store.coverage import coverage_views
from tests import otlp
from tests.edge_harness import received
from tests.integration.store_support import Store
from tests.otlp import SECOND_NS, T0_NS, ns

T0 = T0_NS // SECOND_NS
TENANT = "default"
Place = tuple[str, str]
# What happens to a cluster in a minute: nothing works; its sender works and keeps its points; all works; all works but
# what the collector flushes does not leave the site.
DEAD, KEEPS, WORKS, CUT_OFF = "dead", "keeps", "works", "cut off"


class Site:
    """One cluster: a sender and a collector with a folder."""

    def __init__(self, folder: Path, log: SqliteLog, region: str, cluster: str, minute_second: int) -> None:
        self.now = 0.0
        self._log = log
        self._minute_second = minute_second
        config = Config(data_dir=folder / region / cluster, region=region, cluster=Cluster(name=cluster))
        self._config = config.for_collector()
        self._kept: list[int] = []
        self._collector: Collector | None = None
        self._intake: asyncio.Task[None] | None = None

    async def live(self, minute: int, what: str) -> None:
        """One minute of it."""
        self.now = minute * 60.0 + self._minute_second
        if what in (DEAD, KEEPS):
            await self.kill()
            self._kept += [minute] if what == KEEPS else []
            return
        if self._collector is None:
            telemetry, tracing = Telemetry(), Tracing("collector")
            self._collector = Collector(self._config, self._log, telemetry, tracing, lambda: ns(self.now))
            self._intake = asyncio.create_task(self._collector._intake.run())
        kept, self._kept = self._kept, []
        for late in kept:
            point = otlp.number(late * 60 + 30, 5.0)
            request = received(otlp.body(otlp.gauge("level", point)), self.now, TENANT, self._config.cluster.name)
            await self._collector._intake.submit(request)
        await self._collector.flushing.once()
        if what == WORKS:
            stop = asyncio.Event()
            stop.set()
            await self._collector._forwarder.run(stop)

    async def kill(self) -> None:
        """Let it die as it is: what it has not flushed is in its inbox only."""
        if self._collector is not None and self._intake is not None:
            self._intake.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._intake
            self._collector.close()
            self._collector = self._intake = None


class Model:
    """What is known of each cluster, window by window."""

    def __init__(self) -> None:
        self.here: dict[Place, set[int]] = {}
        self._on_its_way: dict[Place, set[int]] = {}
        self._kept: dict[Place, set[int]] = {}
        self._decisions: dict[Place, list[tuple[float, bool]]] = {}

    def live(self, place: Place, minute: int, what: str) -> None:
        """One minute of a cluster."""
        kept, on_its_way = self._kept.setdefault(place, set()), self._on_its_way.setdefault(place, set())
        if what == KEEPS:
            kept.add(minute)
        if what in (WORKS, CUT_OFF):
            on_its_way |= {minute, *kept}
            kept.clear()
        if what == WORKS:
            self.here[place] = self.here.get(place, set()) | on_its_way
            on_its_way.clear()

    def decide(self, place: Place, since: float, *, is_retired: bool) -> None:
        """A decision about a cluster."""
        self._decisions.setdefault(place, []).append((since, is_retired))

    def coverage(self, now: float) -> dict[tuple[str, str, int], bool]:
        """Whether a cluster reported, by place and minute, of those that were expected to."""
        found = {}
        for (region, cluster), here in self.here.items():
            for minute in range(min(here), int(now // 60)):
                if minute in here or not self._is_retired((region, cluster), minute * 60):
                    found[region, cluster, minute] = minute in here
        return found

    def _is_retired(self, place: Place, second: int) -> bool:
        """By the latest decision of those whose time has come."""
        return next((what for since, what in reversed(self._decisions.get(place, ())) if since <= second), False)


class Fleet:
    """Sites, their regions' aggregators and the store, beside the model."""

    def __init__(self, store: Store, folder: Path, places: dict[Place, int], prefix: str) -> None:
        self.store = store
        self.model = Model()
        self._prefix = prefix
        self._log = SqliteLog.open(store.folder / "log.db")
        self.sites = {
            place: Site(folder, self._log, prefix + place[0], place[1], second) for place, second in places.items()
        }

    async def minute(self, minute: int, lives: dict[Place, str]) -> None:
        """One minute of all."""
        for place, site in self.sites.items():
            await site.live(minute, lives[place])
            self.model.live(place, minute, lives[place])

    async def settle(self) -> None:
        """Let all that left the sites arrive in the tables."""
        stop = asyncio.Event()
        stop.set()
        for region in {region for region, _ in self.sites}:
            await Aggregator(self._log, AggregatorConfig(self._prefix + region)).run(stop)
        # Coverage reads no other table.
        loader = self.store.loader(self._log, "health")
        try:
            await loader.drain_once()
        finally:
            loader.close()

    def decide(self, place: Place, at_ns: int, since: float, *, is_retired: bool) -> None:
        """Retire a cluster, or take it back, from a time on."""
        decision = retire if is_retired else reinstate
        names = {"tenant": TENANT, "region": self._prefix + place[0], "cluster": place[1]}
        decision(self.store.engine, **names, from_ns=ns(since), now_ns=at_ns)
        self.model.decide(place, since, is_retired=is_retired)

    def check(self, now: float) -> None:
        """Ask at a time, and compare: by cluster, by region and for the globe."""
        ask_at(self.store, T0 + int(now))
        expected = self.model.coverage(now)
        mine = f"tenant = '{TENANT}' AND startsWith(region, '{self._prefix}')"
        columns = f"(toInt64(toUnixTimestamp(window_start)) - {T0}) / 60 AS minute, window_seconds"
        rows = self.store.rows(
            f"SELECT region, cluster, {columns}, expected, reported FROM coverage_cluster_1m WHERE {mine}"
        )
        assert all(row["expected"] and row["window_seconds"] == 60 for row in rows)
        found = {
            (row["region"].removeprefix(self._prefix), row["cluster"], row["minute"]): row["reported"] for row in rows
        }
        assert len(found) == len(rows)
        assert found == expected, now
        by_region = self.store.rows(f"SELECT region, {columns}, expected, reported FROM coverage_1m WHERE {mine}")
        counts = {
            (row["region"].removeprefix(self._prefix), row["minute"]): (row["expected"], row["reported"])
            for row in by_region
        }
        regions = [(region, minute, is_here) for (region, _, minute), is_here in expected.items()]
        due = Counter((region, minute) for region, minute, _ in regions)
        came = Counter((region, minute) for region, minute, is_here in regions if is_here)
        assert counts == {key: (count, came[key]) for key, count in due.items()}, now
        globe = sum(count for count, _ in counts.values()), sum(count for _, count in counts.values())
        assert globe == (len(expected), sum(expected.values())), now

    async def close(self) -> None:
        """End all."""
        for site in self.sites.values():
            await site.kill()
        await self._log.close()


def ask_at(store: Store, second: int, health_retention_seconds: int = 0) -> None:
    """Let the views of coverage take a unix second for now."""
    for view in coverage_views(health_retention_seconds):
        store.engine.execute(view.sql.replace("now('UTC')", f"toDateTime({second}, 'UTC')"))
