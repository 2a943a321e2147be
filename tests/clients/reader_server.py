"""The SQL endpoint over a migrated store with rows of several tenants, and a readers file; in a process of its own.

The rows of `FOREIGN` tenants have ``foreign`` in every text and numbers that nothing else has, so that a trace of them
is found by reading.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from store.clusters import retire
from store.readers import ReadersFile
from store.sql_http import SqlEndpointConfig, make_app, serve
from tests.integration.store_support import T0, Store, envelope_bytes, metric_row

ROOT = Path(__file__).parents[2]
OWN = ("acme", "station-1", "station-2")
FOREIGN = ("aaa-foreign", "acme2-foreign", "stationary-foreign", "zzz-foreign")
READERS = (
    ("own", "own-secret", ["acme", "station-*"]),
    ("operator", "operator-secret", None),
)
_NS = 1_000_000_000


def digest(secret: str) -> str:
    """The SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def readers_text() -> str:
    """The readers file of the server: JSON."""
    entries: list[dict[str, Any]] = []
    for name, secret, tenants in READERS:
        rights: dict[str, Any] = {"all": True} if tenants is None else {"tenants": tenants}
        entries.append({"name": name, "password_sha256": digest(secret), **rights})
        entries.append({"name": name, "token_sha256": digest(f"token of {name}"), **rights})
    return json.dumps(entries)


@dataclass(frozen=True)
class ReaderServer:
    """A running endpoint."""

    port: int
    process: subprocess.Popen[str]
    folder: Path

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, query: str, reader: str = "own", **parameters: str) -> httpx.Response:
        """What it answers to a reader's posted query."""
        headers = {"X-ClickHouse-User": reader, "X-ClickHouse-Key": f"{reader}-secret"}
        return httpx.post(self.url, params=parameters, content=query.encode(), headers=headers, timeout=60)


@contextmanager
def running(folder: Path, tenants: Sequence[str]) -> Iterator[ReaderServer]:
    """A server of a store with rows of ``tenants``, stopped at the end."""
    command = [sys.executable, "-m", "tests.clients.reader_server", str(folder), *tenants]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("port "), f"the server did not start: {line!r}"
        yield ReaderServer(int(line.split()[1]), process, folder)
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def fill(store: Store, tenants: Sequence[str]) -> None:
    """Load every lane's rows of ``tenants``, and merge them into one part a table, so that granules are shared.

    Clusters c2 are retired; tenants of `FOREIGN` have more rows, which are not merged.
    """
    for tenant in tenants:
        for lane, rows in lanes_of(tenant).items():
            store.publish(lane, envelope_bytes(lane, rows, tenant=tenant, region=f"region-{tenant}"))
    store.load()
    for tenant in tenants:
        place = {"tenant": tenant, "region": f"region-{tenant}", "cluster": f"{tenant}-c2"}
        retire(store.engine, **place, from_ns=(T0 + 300) * _NS, now_ns=T0 * _NS)
    tables = store.engine.query(
        "SELECT name FROM system.tables WHERE database = 'catchment_data' AND engine LIKE '%MergeTree'"
    )
    for table in tables.data.decode().split():
        store.engine.execute(f"OPTIMIZE TABLE catchment_data.{table} FINAL")
    for tenant in (tenant for tenant in tenants if tenant in FOREIGN):
        # Many more rows, in parts of their own: whoever estimates sizes of tables sees them.
        store.engine.execute(
            "INSERT INTO catchment_data.metrics_cluster SELECT row.* REPLACE (concat(row.cluster, '-late') AS cluster, "
            "row.window_start + 60 * number AS window_start, toInt64(number) AS series_id) FROM "
            f"(SELECT * FROM catchment_data.metrics_cluster WHERE tenant = '{tenant}' LIMIT 1) AS row "
            "CROSS JOIN numbers(1, 1000) AS late"
        )


def lanes_of(tenant: str) -> dict[str, list[dict[str, Any]]]:
    """A tenant's rows, by lane."""
    is_foreign = tenant in FOREIGN
    base, word = (777_000_000, "foreign") if is_foreign else (len(tenant), "own")
    ats = [T0, T0 + 60, T0 + 3600, *([T0 + 7 * 86400] if is_foreign else [])]
    clusters = [f"{tenant}-c1", f"{tenant}-c2"]
    attributes: dict[str, object] = {"who": word, "n": base}
    values: dict[str, Any] = {"sum_int": base, "histogram": [(0, base)], "min": float(base), "max": float(base)}
    cluster_rows = [
        metric_row(tenant=tenant, cluster=cluster, metric=f"{word}.requests", at=at, attributes=attributes, **values)
        for cluster in clusters
        for at in ats
    ]
    region_rows = [
        metric_row(tenant=tenant, cluster=None, metric=f"{word}.requests", at=at, attributes=attributes, **values)
        for at in ats
    ]
    place = {"window_start_ns": T0 * _NS, "cluster": clusters[0]}
    health = [
        {
            "window_start_ns": at * _NS,
            "cluster": cluster,
            "source": f"collector-{tenant}",
            "heartbeat_ns": (at + 30) * _NS,
            "sequence": base,
            "labels": json.dumps({"who": word}),
            "version": f"{word}-1",
            "policy_version": f"{word}-p",
        }
        for cluster in clusters
        for at in ats
    ]
    cardinality = [
        {"window_start_ns": T0 * _NS, "cluster": clusters[0], "metric": f"{word}.requests", "attribute": attribute}
        | {"streams": base, "folded": base, "registers": [(register, 1 + base % 50) for register in range(base % 60)]}
        for attribute in ("", f"{word}_attribute")
    ]
    drop = {"tier": "collector", "lane": "metrics_cluster", "reason": f"{word}_reason", "unit": "points"}
    return {
        "metrics_cluster": cluster_rows,
        "metrics_region": region_rows,
        "totals": [{**place, "lane": "metrics_cluster", "points": base, "rows": base, "digest": base}],
        "drops": [{**place, **drop, "count": base}],
        "health": health,
        "cardinality": cardinality,
    }


async def _main(store: Store) -> None:
    file = store.folder / "readers.json"
    file.write_text(readers_text())
    readers = ReadersFile(file, lambda line: print(line, file=sys.stderr))
    watching = asyncio.create_task(readers.watch(0.1))
    app = make_app(store.engine, config=SqlEndpointConfig(readers=lambda: readers.current))
    await serve(app, "127.0.0.1", 0, asyncio.Event(), on_listening=lambda port: print("port", port, flush=True))
    watching.cancel()


if __name__ == "__main__":
    filled = Store(Path(sys.argv[1]))
    fill(filled, sys.argv[2:])
    asyncio.run(_main(filled))
