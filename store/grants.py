"""The readers file as SQL for a ClickHouse server: users, roles, settings profiles, grants and row policies. Pure.

On a server the engine itself keeps readers apart. This text tells it how, from the file that the endpoint reads too.

Rules:

1. The whole text may be run again after each change of the file. Users, roles and profiles are made once and altered,
   since others refer to them; policies are replaced. Users that left the file stay until somebody drops them.
2. Nobody is granted anything before the policies are there: at no time does a reader see more than it may.
3. Views run with the rights of who asks, so readers are granted the tables behind them, and the policies are on those.
4. Policies are permissive, so they add up. Every reader of some tenants has the role `READER_ROLE`, which has one that
   shows nothing: a reader that was forgotten sees no row rather than all of them.
5. The profile is the embedded endpoint's (`store.reader_scope.LOCKED`). A server cannot tell leakproof queries, so
   conditions are pushed below the views for nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

from store.ddl import VIEWS_DATABASE, tenant_tables
from store.reader_scope import LOCKED, VIEWS, tenant_condition
from store.readers import OPERATOR_ROLE, READER_ROLE, Reader, Readers
from store.sql_settings import QueryLimits


def statements(readers: Readers, limits: QueryLimits) -> list[str]:
    """All statements, in the order in which they are to be run.

    Args:
        readers: of the file.
        limits: of each query; readers may lower them.
    """
    return [*_roles(limits), *_users(readers), *_policies(readers), *_grants(readers)]


def text(readers: Readers, limits: QueryLimits) -> str:
    """The statements as a script."""
    return "".join(f"{statement};\n" for statement in statements(readers, limits))


def _roles(limits: QueryLimits) -> Iterator[str]:
    ceilings = limits.locked()
    values = {**ceilings, "max_execution_time": limits.execution_seconds_default}
    settings = ["readonly = 1"]
    settings += [
        f"{name} = {values[name]:.0f} MIN 1 MAX {ceiling:.0f} CHANGEABLE_IN_READONLY"
        for name, ceiling in ceilings.items()
    ]
    locked = [f"{name} = {value}" for name, value in LOCKED.items()]
    for role, profile in ((OPERATOR_ROLE, settings), (READER_ROLE, [*settings, *locked])):
        yield f"CREATE SETTINGS PROFILE IF NOT EXISTS {role}"
        yield f"ALTER SETTINGS PROFILE {role} SETTINGS {', '.join(profile)}"
        yield f"CREATE ROLE IF NOT EXISTS {role}"
        yield f"ALTER ROLE {role} SETTINGS PROFILE '{role}'"


def _users(readers: Readers) -> Iterator[str]:
    for name in readers.by_name:
        hashes = ", ".join(f"sha256_hash BY '{digest.hex()}'" for digest in dict.fromkeys(readers.secrets[name]))
        for verb in ("CREATE USER IF NOT EXISTS", "ALTER USER"):
            yield f"{verb} {_identifier(name)} IDENTIFIED WITH {hashes}"


def _policies(readers: Readers) -> Iterator[str]:
    for table in tenant_tables():
        yield _policy("catchment_nothing", table, "0", READER_ROLE)
        yield _policy("catchment_everything", table, "1", OPERATOR_ROLE)
        for name, reader in readers.by_name.items():
            if reader.tenants is not None:
                yield _policy(f"reader_{name}", table, tenant_condition(reader.tenants), _identifier(name))


def _grants(readers: Readers) -> Iterator[str]:
    for role in (OPERATOR_ROLE, READER_ROLE):
        for table in (*(f"{VIEWS_DATABASE}.{view}" for view in sorted(VIEWS)), *tenant_tables()):
            yield f"GRANT SELECT ON {table} TO {role}"
    for name, reader in readers.by_name.items():
        role, other = _roles_of(reader)
        # It may have been the other before.
        yield f"REVOKE {other} FROM {_identifier(name)}"
        yield f"GRANT {role} TO {_identifier(name)}"


def _roles_of(reader: Reader) -> tuple[str, str]:
    """The role that a reader has, and the one that it has not."""
    return (OPERATOR_ROLE, READER_ROLE) if reader.tenants is None else (READER_ROLE, OPERATOR_ROLE)


def _policy(name: str, table: str, condition: str, whom: str) -> str:
    return (
        f"CREATE ROW POLICY OR REPLACE {_identifier(name)} ON {table} FOR SELECT USING {condition} AS PERMISSIVE "
        f"TO {whom}"
    )


def _identifier(name: str) -> str:
    # Names of readers are letters, digits, dots, underscores and hyphens.
    return f"`{name}`"
