"""`catchment readers grants`: the readers file as SQL that a ClickHouse server's parser takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.ddl import tenant_tables
from store.grants import statements
from store.reader_scope import LOCKED, VIEWS
from store.readers import OPERATOR_ROLE, READER_ROLE, Readers
from store.sql_answer import read_catalogue
from store.sql_settings import QueryLimits
from tests.integration.store_support import Store
from tests.integration.test_supervisor_up import run
from tests.unit.test_tenants import digest

FILE = f"""
- {{name: grafana.x-y, password_sha256: {digest("a")}, tenants: [acme, "s_t-*"]}}
- {{name: grafana.x-y, token_sha256: {digest("b")}, tenants: [acme, "s_t-*"]}}
- {{name: ops, token_sha256: {digest("c")}, all: true}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A migrated store without rows."""
    opened = Store(tmp_path_factory.mktemp("grants"))
    yield opened
    opened.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A readers file."""
    path = tmp_path / "readers.yaml"
    path.write_text(FILE)
    return path


def test_every_statement_parses(store: Store, file: Path) -> None:
    """The engine's own parser takes each, as the kind of statement that it is meant to be."""
    kinds = set()
    for statement in statements(Readers.load(file), QueryLimits()):
        tree = store.engine.query(f"EXPLAIN AST {statement}", format="TabSeparatedRaw").data.decode()
        kinds.add(tree.split("\n")[0].split(" (")[0])
        again = store.engine.query("SELECT formatQuery({q:String})", params={"q": statement}, format="TabSeparatedRaw")
        assert again.data
    assert kinds == {
        "CreateSettingsProfileQuery",
        "CreateRoleQuery",
        "CreateUserQuery",
        "CREATE ROW POLICY or ALTER ROW POLICY query",
        "GrantQuery",
    }


def test_policies_stand_on_every_table_behind_the_views(store: Store, file: Path) -> None:
    """Each table with a tenant has a policy for each reader, one that shows nothing, and one for operators."""
    found = statements(Readers.load(file), QueryLimits())
    filled = {name for name in read_catalogue(store.engine).inventory.with_tenant if not name.startswith("fill_")}
    assert {table.removeprefix("catchment_data.") for table in tenant_tables()} == filled
    for table in tenant_tables():
        policies = [statement for statement in found if f" ON {table} FOR SELECT USING " in statement]
        conditions = {re.split(r" USING | AS PERMISSIVE TO ", policy)[2]: policy for policy in policies}
        assert set(conditions) == {READER_ROLE, OPERATOR_ROLE, "`grafana.x-y`"}
        assert " USING 0 " in conditions[READER_ROLE]
        assert " USING 1 " in conditions[OPERATOR_ROLE]
        assert r" USING tenant IN ('acme') OR tenant LIKE 's\\_t-%' " in conditions["`grafana.x-y`"]


def test_nothing_is_granted_before_the_policies(file: Path) -> None:
    """Grants come last; a reader has the role that shows nothing by itself, and not the operators'."""
    found = statements(Readers.load(file), QueryLimits())
    first = next(number for number, statement in enumerate(found) if statement.startswith("GRANT"))
    assert all(statement.startswith(("GRANT", "REVOKE")) for statement in found[first:])
    assert found[-4:] == [
        f"REVOKE {OPERATOR_ROLE} FROM `grafana.x-y`",
        f"GRANT {READER_ROLE} TO `grafana.x-y`",
        f"REVOKE {READER_ROLE} FROM `ops`",
        f"GRANT {OPERATOR_ROLE} TO `ops`",
    ]
    for view in VIEWS:
        assert f"GRANT SELECT ON catchment.{view} TO {READER_ROLE}" in found
    hashes = f"sha256_hash BY '{digest('a')}', sha256_hash BY '{digest('b')}'"
    assert f"ALTER USER `grafana.x-y` IDENTIFIED WITH {hashes}" in found
    profile = next(statement for statement in found if statement.startswith(f"ALTER SETTINGS PROFILE {READER_ROLE} "))
    assert "SETTINGS readonly = 1, " in profile
    assert all(f"{name} = {value}" in profile for name, value in LOCKED.items())
    assert "max_execution_time = 60 MIN 1 MAX 300 CHANGEABLE_IN_READONLY" in profile


def test_the_command_prints_them(file: Path, tmp_path: Path) -> None:
    """From the file itself or the one that a configuration names; without either it says what is missing."""
    direct = run("readers", "grants", "--file", str(file))
    assert direct.returncode == 0
    assert direct.stdout.splitlines() == [f"{one};" for one in statements(Readers.load(file), QueryLimits())]
    config = tmp_path / "catchment.yaml"
    config.write_text(f"readers: {file}\nlimits: {{query_threads_max: 2}}\n")
    assert "max_threads = 2 MIN 1 MAX 2" in run("readers", "grants", "--config", str(config)).stdout
    assert run("readers", "check", "--config", str(config)).stdout == "grafana.x-y: acme, s_t-*\nops: all tenants\n"
    missing = run("readers", "grants")
    assert missing.returncode == 2
    assert "give --file" in missing.stderr
    file.write_text("- {name: x}\n")
    faulty = run("readers", "check", "--file", str(file))
    assert faulty.returncode == 2
    assert "entry 1: an entry has either password_sha256 or token_sha256" in faulty.stderr
