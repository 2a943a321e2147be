"""TLS on SQL endpoint and status server: with curl, httpx, clickhouse-connect, our own commands and new files."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import clickhouse_connect
import httpx
import pytest
import urllib3

from catchment.config_tls import ListenTls
from catchment.errors import CatchmentError
from catchment.query import Query
from catchment.sql_client import SqlClient
from catchment.status_http import Probes, StatusServer
from catchment.tls import ServerCertificates
from tests.clients.sql_server import Server, running
from tests.integration.test_supervisor_up import COMMAND, NAMES, run, wait_for
from tests.kafka.certificates import FOR_CLIENTS, FOR_SERVERS, Authority, Pair
from tests.unit.test_tenants import digest


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of the first certificates."""
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> ListenTls:
    """Files of a listener."""
    put(authority.issue("server", FOR_SERVERS), tmp_path)
    return ListenTls(tmp_path / "server.pem", tmp_path / "server.key")


@pytest.fixture
def server(files: ListenTls, tmp_path: Path) -> Iterator[Server]:
    """A SQL endpoint over TLS, with a user."""
    tls = {"cert": str(files.cert), "key": str(files.key)}
    with running(tmp_path / "store", tls=tls, users={"ops": digest("secret")}) as started:
        yield started


def put(pair: Pair, folder: Path) -> None:
    """Replace a listener's files, the certificate last."""
    for source, name in ((pair.key, "server.key"), (pair.cert, "server.pem")):
        shutil.copy(source, folder / f"{name}.new")
        (folder / f"{name}.new").replace(folder / name)


def issuer(port: int, *authorities: Authority) -> str:
    """The number of the authority whose certificate a new connection is shown."""
    return "".join(str(number) for number, one in enumerate(authorities) if _is_of(port, one))


def _is_of(port: int, authority: Authority) -> bool:
    context = ssl.create_default_context(cafile=authority.ca)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1"),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False


def test_real_clients_ask_over_https(server: Server, authority: Authority) -> None:
    """curl, httpx, clickhouse-connect and our own client get answers; who does not trust the authority gets none."""
    url = f"https://127.0.0.1:{server.port}/"
    query = "SELECT count() FROM points"
    curl = ["curl", "-sS", "--cacert", str(authority.ca), "-u", "ops:secret", url, "-d", query]
    assert subprocess.run(curl, capture_output=True, text=True, check=True).stdout == "61\n"
    untrusting = subprocess.run([*curl[:2], *curl[4:]], capture_output=True, text=True, check=False)
    assert untrusting.returncode == 60
    context = ssl.create_default_context(cafile=authority.ca)
    with httpx.Client(verify=context, auth=("ops", "secret"), timeout=60) as client:
        assert client.post(url, content=query).text == "61\n"
    pool = urllib3.PoolManager(ca_certs=str(authority.ca))
    connected = clickhouse_connect.get_client(
        host="127.0.0.1", port=server.port, secure=True, pool_mgr=pool, username="ops", password="secret"
    )
    assert connected.query(query).result_rows == [(61,)]
    connected.close()
    pool.clear()
    ours = SqlClient(url, user="ops", password="secret", tls=context)
    assert ours.rows(Query(query)) == [{"count()": 61}]


def test_without_tls_no_answer(server: Server) -> None:
    """A client that speaks no TLS, or an old one, gets no answer."""
    with pytest.raises(httpx.TransportError):
        httpx.post(server.url, content="SELECT 1", timeout=60)
    for version, works in (("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)):
        client = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", version, "-cipher", "ALL:@SECLEVEL=0"]
        shaken = subprocess.run(client, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
        assert (shaken.returncode == 0) is works, version


def test_new_files_are_for_new_connections(
    server: Server, authority: Authority, files: ListenTls, tmp_path: Path
) -> None:
    """A connection that is open goes on over a change of files; files with a fault leave those before in force."""
    other = Authority(tmp_path / "other")
    first, second = authority.issue("server", FOR_SERVERS), other.issue("server", FOR_SERVERS)
    url = f"https://127.0.0.1:{server.port}/"
    context = ssl.create_default_context(cafile=authority.ca)
    with httpx.Client(verify=context, auth=("ops", "secret"), timeout=60) as client:
        assert client.post(url, content="SELECT 1").text == "1\n"
        put(second, tmp_path)
        wait_for(lambda: issuer(server.port, authority, other), "1")
        assert client.post(url, content="SELECT 2").text == "2\n"
    assert files.cert is not None
    files.cert.write_text("no certificate")
    time.sleep(0.5)
    assert issuer(server.port, authority, other) == "1"
    put(first, tmp_path)
    wait_for(lambda: issuer(server.port, authority, other), "0")


def test_a_listener_may_ask_for_certificates(authority: Authority, files: ListenTls, tmp_path: Path) -> None:
    """With client_ca a reader needs a certificate of it besides its password."""
    reader = authority.issue("reader", FOR_CLIENTS)
    forged = Authority(tmp_path / "forger").issue("reader", FOR_CLIENTS)
    tls = {"cert": str(files.cert), "key": str(files.key), "client_ca": str(authority.ca)}
    with running(tmp_path / "store", tls=tls, users={"ops": digest("secret")}) as server:

        def asked(pair: Pair | None) -> int:
            context = ssl.create_default_context(cafile=authority.ca)
            if pair is not None:
                context.load_cert_chain(pair.cert, pair.key)
            try:
                with httpx.Client(verify=context, auth=("ops", "secret"), timeout=60) as client:
                    return client.post(f"https://127.0.0.1:{server.port}/", content="SELECT 1").status_code
            except httpx.TransportError:
                return 0

        assert asked(reader) == 200
        assert asked(None) == asked(forged) == 0


def test_faults_name_the_section(tmp_path: Path, authority: Authority) -> None:
    """What is wrong with a listener's files is said under the keys that name them."""
    pair = authority.issue("server", FOR_SERVERS)
    with pytest.raises(CatchmentError, match=r"status\.tls\.key cannot be read"):
        ServerCertificates(ListenTls(pair.cert, tmp_path / "none"), print, "status.tls")
    with pytest.raises(CatchmentError, match=r"sql\.tls\.cert and sql\.tls\.key cannot be used"):
        ServerCertificates(ListenTls(pair.cert, authority.issue("x", FOR_SERVERS).key), print, "sql.tls")
    config = tmp_path / "catchment.yaml"
    config.write_text("sql: {tls: {cert: a.pem}}\nstatus: {tls: {client_ca: b.pem}}\n")
    said = run("config", "check", str(config)).stderr
    assert "sql.tls: cert and key belong together" in said
    assert "status.tls.client_ca: asks for certificates over TLS, which is off; set status.tls.cert" in said


def test_the_status_server_over_tls(authority: Authority, files: ListenTls) -> None:
    """Probes and scrapers get the same pages over https."""

    async def none() -> list[str]:
        return []

    async def metrics() -> bytes:
        return b"up 1\n"

    async def work() -> None:
        certificates = ServerCertificates(files, print, "status.tls")
        server = StatusServer(Probes(none, metrics, none), certificates.context)
        address = await server.start("127.0.0.1", 0)
        try:
            context = ssl.create_default_context(cafile=authority.ca)
            url = f"https://127.0.0.1:{address.port}"
            async with httpx.AsyncClient(verify=context, base_url=url, timeout=60) as client:
                assert (await client.get("/metrics")).text == "up 1\n"
                assert (await client.get("/readyz")).text == "ok\n"
                assert (await client.post("/-/reload")).text == "reloaded\n"
        finally:
            await server.stop()

    asyncio.run(work())


@pytest.fixture
def config(tmp_path: Path, authority: Authority, files: ListenTls, free_port: Callable[[], int]) -> Path:
    """A configuration with TLS everywhere and readers, of whom one sees some tenants."""
    listen = ", ".join(f"{name}: 127.0.0.1:{free_port()}" for name in NAMES)
    readers = tmp_path / "readers.yaml"
    readers.write_text(
        f"- {{name: ops, token_sha256: {digest('ops token')}, all: true}}\n"
        f"- {{name: acme, password_sha256: {digest('secret')}, tenants: [acme]}}\n"
    )
    (tmp_path / "token").write_text("ops token\n")
    (tmp_path / "password").write_text("secret\n")
    tls = f"{{cert: {files.cert}, key: {files.key}}}"
    file = tmp_path / "catchment.yaml"
    file.write_text(
        f"data_dir: {tmp_path}/data\nregion: jp-east\nflush: 300ms\nlisten: {{{listen}}}\ntls: {tls}\n"
        f"sql: {{tls: {tls}}}\nstatus: {{tls: {tls}}}\nreaders: {readers}\n"
    )
    return file


@pytest.mark.slow
def test_all_of_up_over_tls(config: Path, authority: Authority, tmp_path: Path) -> None:
    """Every command talks to `up`, with what the configuration says or with --ca, as who it says it is."""
    where, token = ["--config", str(config)], ["--token-file", str(tmp_path / "token")]
    with subprocess.Popen([*COMMAND, "up", *where], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            assert "SQL https://127.0.0.1:" in ready
            assert "status https://127.0.0.1:" in ready
            assert run("send", "parcels", "7", *where).returncode == 0
            query = "SELECT sum(sum_int) AS n FROM metrics_cluster_1m WHERE metric = 'parcels'"
            count = ["sql", query, "--format", "csv"]
            wait_for(lambda: run(*count, *token, *where).stdout, '"n"\n7\n')
            url = ready.split("SQL ")[1].split(",")[0]
            trusting = ["--url", url, "--ca", str(authority.ca)]
            assert run(*count, *token, *trusting).stdout == '"n"\n7\n'
            own = ["--user", "acme", "--token-file", str(tmp_path / "password")]
            assert run(*count, *own, *trusting).stdout == '"n"\n0\n'
            assert "certificate verify failed" in run(*count, *token, "--url", url).stderr
            assert "credentials are required" in run(*count, *where).stderr
            assert run("cluster", "list", *token, *where).returncode == 0

            def status(*options: str) -> str:
                said = run("status", "--interval", "0.1", *options)
                return f"{said.returncode} {'store' in said.stdout} {said.stderr}"

            # A child that does not answer within 2 s is not ready.
            wait_for(lambda: status(*where), "0 True ")
            url = ready.split("status ")[1].split(",")[0]
            wait_for(lambda: status("--url", url, "--ca", str(authority.ca)), "0 True ")
            assert run("status", "--interval", "0.1", "--url", url).returncode == 3
            assert run("store", "quarantine", "list", *where).stdout == "0 open\n"
        finally:
            process.terminate()
            assert process.wait(60) == 0


@pytest.mark.slow
def test_a_role_of_its_own_over_tls(config: Path, authority: Authority) -> None:
    """A store that runs alone serves its status over TLS; commands ask it there."""
    where = ["--config", str(config)]
    with subprocess.Popen([*COMMAND, "loader", *where]) as process:
        try:
            wait_for(lambda: str(run("status", "--interval", "0.1", *where).returncode), "0")
            assert run("store", "quarantine", "list", *where).stdout == "0 open\n"
            mistaken = run("store", "quarantine", "list", *where, "--ca", str(config))
            assert mistaken.returncode == 2
            assert "--ca, --cert or --key cannot be used" in mistaken.stderr
        finally:
            process.terminate()
            assert process.wait(60) == 0
