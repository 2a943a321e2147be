"""``catchment tenant``: the entries of the tenants file. Collectors take a change up within two seconds."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from catchment.cli.exits import EnvironmentFault, UsageFault
from catchment.cli.options import config_option, json_option, pairs_of, read_config
from catchment.entries import entries_of
from catchment.errors import Invalid
from catchment.files import sync_folder
from collectors.tenants import Tenants
from collectors.tenants_edit import Entry, added, removed, text_of

_TOKEN_BYTES = 32


@click.group()
def tenant() -> None:
    """Add, rotate or remove the credentials of a tenant's cluster in the tenants file."""


def _file_option(command: Callable[..., None]) -> Callable[..., None]:
    option = click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="The tenants file itself.")
    return config_option()(option(command))


@tenant.command()
@click.argument("tenant_name", metavar="TENANT")
@click.argument("cluster")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be given again.")
@click.option("--certificate", help="A name in the sender's certificate, instead of a token.")
@_file_option
@json_option
def add(
    tenant_name: str,
    cluster: str,
    labels: tuple[str, ...],
    certificate: str | None,
    file: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> None:
    """Let a new cluster of TENANT send; prints its token, which is kept nowhere."""
    given = pairs_of(labels, "--label")
    with _editing(_path(file, config_file)) as (path, text, write):
        if _of(text, path, tenant_name, cluster):
            raise UsageFault(
                f"{tenant_name}/{cluster} has an entry already; for a second token: catchment tenant rotate"
            )
        token, credential = _new_token() if certificate is None else ("", {"certificate": certificate})
        entry = credential | {"tenant": tenant_name, "cluster": cluster} | ({"labels": given} if given else {})
        write(added(text, path.suffix, entry))
    _tell(token, f"{tenant_name}/{cluster} may send", as_json)


@tenant.command()
@click.argument("tenant_name", metavar="TENANT")
@click.argument("cluster")
@_file_option
@json_option
def rotate(tenant_name: str, cluster: str, file: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Give a cluster one more token and print it; the old ones go with `catchment tenant remove --old`."""
    with _editing(_path(file, config_file)) as (path, text, write):
        entries = _of(text, path, tenant_name, cluster)
        if not entries:
            raise UsageFault(f"{tenant_name}/{cluster} has no entry; for a new cluster: catchment tenant add")
        token, credential = _new_token()
        *_, newest = entries.values()
        same = {key: value for key, value in newest.items() if key not in ("token_sha256", "certificate")}
        write(added(text, path.suffix, credential | same))
    _tell(token, f"{tenant_name}/{cluster} has a new token beside {len(entries)} before it", as_json)


@tenant.command()
@click.argument("tenant_name", metavar="TENANT")
@click.argument("cluster")
@click.option("--old", is_flag=True, help="Only what stands before the cluster's newest entry.")
@_file_option
def remove(tenant_name: str, cluster: str, old: bool, file: Path | None, config_file: Path | None) -> None:
    """Shut a cluster of TENANT out, or only its old credentials. What it sent stays."""
    with _editing(_path(file, config_file)) as (path, text, write):
        mine = list(_of(text, path, tenant_name, cluster))
        if not mine:
            raise UsageFault(f"{tenant_name}/{cluster} has no entry in {path}")
        out = mine[:-1] if old else mine
        write(removed(text, path.suffix, out))
    click.echo(f"{tenant_name}/{cluster}: {len(out)} removed, {len(mine) - len(out)} left")


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[tuple[Path, str, Callable[[str], None]]]:
    """The file's text and how to replace it, one command at a time; a file with faults is not touched.

    Raises:
        ConfigFaults: the file has faults.
        UsageFault: what was asked for cannot be written.
        EnvironmentFault: the file or its folder cannot be read or written.
    """
    path = path.resolve()
    try:
        with path.with_name(f".{path.name}.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                # Root's lock must not keep out whoever owns the file.
                with contextlib.suppress(PermissionError):
                    os.fchown(lock.fileno(), path.stat().st_uid, path.stat().st_gid)
                Tenants.load(path)
                text = text_of(path.read_bytes())
            else:
                text = "[]\n" if path.suffix == ".json" else ""
            yield path, text, lambda new: _replace(path, new.encode())
    except Invalid as error:
        raise UsageFault(f"{path}: {error.reason}") from error
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be changed: {error.strerror or error}") from error


def _replace(path: Path, new: bytes) -> None:
    """Put a file with the old one's owner, group and mode in its place: collectors read it as before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(new)
        file.flush()
        if path.exists():
            old = path.stat()
            os.fchown(file.fileno(), old.st_uid, old.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def _path(file: Path | None, config_file: Path | None) -> Path:
    if file is not None:
        return file
    # The first entry makes the file, which the configuration may name already.
    path = read_config(config_file, made_here="tenants").tenants if config_file is not None else None
    if path is None:
        raise UsageFault("which file? give --file, or --config of a configuration with tenants:")
    return path


def _of(text: str, path: Path, tenant_name: str, cluster: str) -> dict[int, Entry]:
    """A cluster's entries, by their number in the file."""
    entries = enumerate(entries_of(text.encode(), path.suffix))
    return {number: entry for number, entry in entries if (entry["tenant"], entry["cluster"]) == (tenant_name, cluster)}


def _new_token() -> tuple[str, dict[str, str]]:
    token = secrets.token_hex(_TOKEN_BYTES)
    return token, {"token_sha256": hashlib.sha256(token.encode()).hexdigest()}


def _tell(token: str, says: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"token": token} if token else {}))
        return
    # The token alone on stdout, so that it can be piped to where it is kept.
    click.echo(says, err=True)
    if token:
        click.echo(token)
