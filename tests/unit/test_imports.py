"""The import rules of the design, walked over the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIERS = ("collectors", "aggregators", "store", "billing", "dashboards", "demo")
# What does I/O, reads the clock or the environment.
IMPURE = frozenset(
    (
        "aiohttp",
        "aiokafka",
        "asyncio",
        "chdb",
        "clickhouse_driver",
        "fcntl",
        "grafana_client",
        "grpc",
        "http.client",
        "http.server",
        "os",
        "signal",
        "socket",
        "sqlite3",
        "subprocess",
        "threading",
        "time",
        "urllib.request",
        "uvicorn",
        "uvloop",
    )
)
# Every module that may touch the world, with what it does there. A folder (ending in a slash) holds shells only.
SHELLS = {
    "catchment/cli/": "the command line: processes, signals, sockets",
    "catchment/config_load.py": "reads the configuration file and the environment",
    "catchment/crash.py": "kills its own process where a fault test asks for it",
    "catchment/files.py": "syncs folders and looks whether files changed",
    "catchment/http_server.py": "accepts the connections of our HTTP listeners",
    "catchment/log/": "the adapters of the Log port: SQLite and Kafka",
    "catchment/sql_client.py": "asks the SQL endpoint over HTTP",
    "catchment/status_http.py": "the status server's socket",
    "catchment/tls.py": "reads certificates again when they change",
    "catchment/watched_file.py": "reads a file again when it changes",
    "collectors/collector.py": "wires the collector: files, sockets, the clock",
    "collectors/flushing.py": "flushes in time",
    "collectors/forward.py": "hands the outbox to the log",
    "collectors/inbox.py": "segments on disk",
    "collectors/inbox_spares.py": "files of trimmed segments",
    "collectors/intake.py": "one task for commits, one for decoding",
    "collectors/state.py": "the SQLite file: outbox, state of streams, position",
    "collectors/ladder.py": "two threads tell it what waits",
    "collectors/recorded.py": "reads the inbox of a folder beside its collector",
    "collectors/receive/": "the sockets of the receivers",
    "collectors/scrape/discovery.py": "reads files of targets, runs what looks for them",
    "collectors/scrape/fetch.py": "asks targets and APIs over HTTP",
    "collectors/scrape/kubernetes.py": "follows the Kubernetes API",
    "collectors/scrape/loop.py": "one task for each target",
    "collectors/scrape/scraper.py": "reads the scrape file when it changes, the clock",
    "aggregators/aggregator.py": "wires the aggregator: the log, the clock",
    "store/engine/": "the adapters of the Engine port",
    "store/ledger.py": "the ledger's SQLite file and the store's lock",
    "store/loader.py": "reads the log and inserts",
    "store/settle.py": "inserts, and writes files of the quarantine",
    "store/migrate.py": "runs DDL under a lock",
    "store/operations.py": "reads files of the quarantine and publishes them",
    "store/sql_http.py": "the SQL endpoint's socket",
    "store/places.py": "who waits for a place at the SQL endpoint",
    "demo/": "a simulation that starts processes and sends over sockets",
}


def _modules() -> list[Path]:
    return sorted(path for package in ("catchment", *TIERS) for path in (ROOT / package).rglob("*.py"))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """(imported module, line), without what only the type checker sees."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno


def _is_impure(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in IMPURE)


def _is_shell(name: str) -> bool:
    return any(name == shell or (shell.endswith("/") and name.startswith(shell)) for shell in SHELLS)


@pytest.mark.parametrize("tier", TIERS)
def test_tiers_never_import_each_other(tier: str) -> None:
    """A tier imports `catchment` and itself, no other tier."""
    others = set(TIERS) - {tier}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (ROOT / tier).rglob("*.py")
        for module, line in _imports(path)
        if module.split(".")[0] in others
    ]
    assert wrong == []


def test_catchment_imports_no_tier_outside_its_composition_root() -> None:
    """Only `catchment/cli/` knows the tiers."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (ROOT / "catchment").rglob("*.py")
        if not path.is_relative_to(ROOT / "catchment" / "cli")
        for module, line in _imports(path)
        if module.split(".")[0] in TIERS or module.startswith("catchment.cli")
    ]
    assert wrong == []


def test_tiers_leave_the_command_line_alone() -> None:
    """No tier imports `catchment.cli`, except the demo, which starts what an operator would start."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for tier in TIERS
        if tier != "demo"
        for path in (ROOT / tier).rglob("*.py")
        for module, line in _imports(path)
        if module.startswith("catchment.cli")
    ]
    assert wrong == []


def test_pure_cores_touch_nothing_outside() -> None:
    """A module that is not listed as a shell imports no I/O, no clock and no environment."""
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in _modules()
        if not _is_shell(path.relative_to(ROOT).as_posix())
        for module, line in _imports(path)
        if _is_impure(module)
    ]
    assert wrong == []


def test_every_shell_exists() -> None:
    """The list of shells holds no leftovers, which would let a later module of that name do what it likes."""
    assert [shell for shell in SHELLS if not (ROOT / shell).exists()] == []


def test_every_module_is_found() -> None:
    """The walk sees the packages: a rule over nothing would always hold."""
    names = {path.relative_to(ROOT).as_posix() for path in _modules()}
    assert {"catchment/envelope.py", "catchment/cli/main.py", "catchment/log/port.py"} <= names
