"""Where a command asks, and how it proves itself and whom it trusts: the options that commands share for that."""

from __future__ import annotations

import functools
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from catchment.cli.exits import UsageFault
from catchment.cli.options import config_option, read_config
from catchment.config_tls import ListenTls
from catchment.sql_client import SqlClient

_SECONDS_MAX = 300.0
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@dataclass(frozen=True)
class TlsFiles:
    """What a client was given: authorities to trust, its own certificate and key."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self, url: str, own: ListenTls | None = None) -> ssl.SSLContext | None:
        """For a connection to ``url``; None without TLS. ``own``: the listener's files, if it is ours.

        Raises:
            UsageFault: the files cannot be used.
        """
        if not url.startswith("https:"):
            return None
        ca = self.ca or (own.cert if own is not None else None)
        try:
            context = ssl.create_default_context(cafile=ca)
            # The listener's own certificate is an authority for itself, whoever signed it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as error:
            raise UsageFault(f"--ca, --cert or --key cannot be used: {error}") from error
        return context


@dataclass(frozen=True)
class Endpoint:
    """A status server as the options name it; ``url`` None is the configuration's."""

    url: str | None
    files: TlsFiles


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--ca``, ``--cert``, ``--key``: given to the command as ``files``, a `TlsFiles`."""

    @functools.wraps(command)
    def with_files(*, ca: Path | None, cert: Path | None, key: Path | None, **others: Any) -> Any:
        return command(files=TlsFiles(ca, cert, key), **others)

    for name, says in (
        ("--key", "PEM file of its key."),
        ("--cert", "PEM file of our certificate, where the listener asks for one (client_ca)."),
        ("--ca", "PEM file of the authorities to trust; with a configuration the listener's own certificate."),
    ):
        with_files = click.option(name, type=_FILE, help=says)(with_files)
    return with_files


def status_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--url`` and those of TLS: given to the command as ``endpoint``."""

    @functools.wraps(command)
    def with_endpoint(*, url: str | None, files: TlsFiles, **others: Any) -> Any:
        return command(endpoint=Endpoint(url, files), **others)

    says = "Address of the status server; from the configuration unless given."
    return click.option("--url", help=says)(tls_options(with_endpoint))


def sql_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where SQL is asked and by whom: given to the command as ``client``, a `SqlClient`."""

    @functools.wraps(command)
    def with_client(
        *,
        url: str | None,
        user: str | None,
        token_file: Path | None,
        config_file: Path | None,
        files: TlsFiles,
        **others: Any,
    ) -> Any:
        own = None
        if not url:
            config = read_config(config_file)
            own = config.sql.tls
            url = f"{own.scheme}://{config.listen.sql}"
        client = SqlClient(
            url,
            user=user or os.environ.get("CATCHMENT_SQL_USER", ""),
            password=token_file.read_text("utf-8").strip() if token_file else "",
            timeout_seconds=_SECONDS_MAX,
            tls=files.context(url, own),
        )
        return command(client=client, **others)

    decorated = tls_options(with_client)
    for option in (
        config_option(),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path, exists=True),
            help="File with the user's password, or with a token, which needs no user.",
        ),
        click.option("--user", help="User, or the environment's CATCHMENT_SQL_USER."),
        click.option("--url", help="Address of the SQL endpoint; from the configuration unless given."),
    ):
        decorated = option(decorated)
    return decorated
