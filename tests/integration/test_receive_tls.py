"""TLS on the receivers, and certificates that say whose data it is: with SDKs, curl and files that change."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult, MetricsData

from catchment.cli.main import run
from catchment.config_tls import ListenTls
from catchment.errors import CatchmentError
from collectors.receive.tls import Certificates
from collectors.tenants import Sender, Tenants
from tests.faults.stack import wait_until
from tests.integration.receivers import LOCAL, Receivers, RecordingIntake
from tests.integration.test_receive_grpc import METHOD
from tests.kafka.certificates import FOR_CLIENTS, FOR_SERVERS, Authority, Pair
from tests.unit.test_tenants import digest

SPIFFE = "spiffe://acme.example/osaka-1"
OSAKA, TOKYO = Sender("acme", "osaka-1"), Sender("acme", "tokyo-1")
TENANTS = Tenants.of(
    [
        {"certificate": SPIFFE, "tenant": "acme", "cluster": "osaka-1"},
        {"certificate": "tokyo", "tenant": "acme", "cluster": "tokyo-1"},
        {"certificate": "2001:db8:0::7", "tenant": "acme", "cluster": "kyoto-1"},
        {"token_sha256": digest("token of osaka"), "tenant": "acme", "cluster": "osaka-1"},
    ],
    "tenants",
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of servers and senders."""
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def osaka(authority: Authority) -> Pair:
    """A sender that is known by an alternative name."""
    return authority.issue("some-pod", f"{FOR_CLIENTS}subjectAltName=URI:{SPIFFE}\n")


@pytest.fixture(scope="module")
def tokyo(authority: Authority) -> Pair:
    """A sender that is known by its common name."""
    return authority.issue("tokyo", FOR_CLIENTS)


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> ListenTls:
    """Files of a receiver that asks for certificates."""
    server = authority.issue("server", FOR_SERVERS)
    settings = ListenTls(tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "client-ca.pem")
    put(settings, server, authority.ca)
    return settings


@pytest.fixture
def reports() -> list[Mapping[str, bytes] | str]:
    """What reloads brought: the files that were read, or why they were not taken."""
    return []


@pytest.fixture
def intake() -> RecordingIntake:
    """What arrives."""
    return RecordingIntake()


@pytest.fixture
def certificates(files: ListenTls, reports: list[Mapping[str, bytes] | str]) -> Certificates:
    """The files, watched."""
    watched: Certificates

    def read(_: str) -> None:
        reports.append(watched.loaded.files)

    watched = Certificates(files, read, refuse=reports.append)
    return watched


@pytest.fixture
def receivers(intake: RecordingIntake, certificates: Certificates) -> Iterator[Receivers]:
    """Receivers that ask for certificates."""
    with Receivers(intake, tenants=TENANTS, certificates=certificates) as running:
        yield running


def put(settings: ListenTls, server: Pair, client_ca: Path) -> None:
    """Replace a receiver's files, the certificate last."""
    assert settings.cert is not None and settings.key is not None and settings.client_ca is not None
    for source, target in ((client_ca, settings.client_ca), (server.key, settings.key), (server.cert, settings.cert)):
        shutil.copy(source, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)


def recorded() -> MetricsData:
    """What an SDK exports."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    provider.get_meter("test").create_counter("orders").add(1)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    return data


def post(receivers: Receivers, ca: Path, pair: Pair | None, token: str = "") -> int:
    """The status that an empty request gets over HTTP; 0 where the connection does not come about."""
    context = ssl.create_default_context(cafile=ca)
    if pair is not None:
        context.load_cert_chain(pair.cert, pair.key)
    headers = {"content-type": "application/x-protobuf"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"https://127.0.0.1:{receivers.http_port}/v1/metrics", b"", headers)
    try:
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, urllib.error.URLError):
        return 0


def call(receivers: Receivers, ca: Path, pair: Pair | None, token: str = "") -> str:
    """The status that an empty request gets over gRPC."""
    key, chain = (pair.key.read_bytes(), pair.cert.read_bytes()) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, chain)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    # A pool of its own: gRPC shares connections between channels with equal arguments.
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.secure_channel(f"127.0.0.1:{receivers.grpc_port}", credentials, options) as channel:
        try:
            channel.unary_unary(METHOD)(b"", timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            code: Any = error
            return str(code.code().name)
    return "OK"


def both(receivers: Receivers, ca: Path, pair: Pair | None, token: str = "") -> tuple[int, str]:
    """What an empty request gets over HTTP and over gRPC."""
    return post(receivers, ca, pair, token), call(receivers, ca, pair, token)


ACCEPTED = (200, "OK")
UNKNOWN = (401, "UNAUTHENTICATED")
NO_CONNECTION = (0, "UNAVAILABLE")


def senders(intake: RecordingIntake) -> list[Sender]:
    """Whose data arrived, in order."""
    return [Sender(each.tenant, each.cluster, each.labels) for each in intake.received]


def test_an_sdk_is_known_by_its_certificate(
    receivers: Receivers,
    intake: RecordingIntake,
    authority: Authority,
    osaka: Pair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A real SDK with a client certificate and no token sends over HTTP and gRPC as the sender that the file names."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # the exporter's library prefers it to what it is given
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    exporters: list[HttpExporter | GrpcExporter] = [
        HttpExporter(
            f"https://127.0.0.1:{receivers.http_port}/v1/metrics",
            certificate_file=str(authority.ca),
            client_key_file=str(osaka.key),
            client_certificate_file=str(osaka.cert),
        ),
        GrpcExporter(
            f"https://127.0.0.1:{receivers.grpc_port}",
            credentials=grpc.ssl_channel_credentials(
                authority.ca.read_bytes(), osaka.key.read_bytes(), osaka.cert.read_bytes()
            ),
        ),
    ]
    for exporter in exporters:
        assert exporter.export(recorded()) is MetricExportResult.SUCCESS
        exporter.shutdown()
    assert senders(intake) == [OSAKA, OSAKA]
    assert all(b"orders" in bytes(each.body) for each in intake.received if not each.content_encoding)


def test_who_is_let_in(
    receivers: Receivers, intake: RecordingIntake, authority: Authority, osaka: Pair, tokyo: Pair
) -> None:
    """A certificate in the file is enough; a token beside it must be of the same sender; nobody else is let in."""
    stranger = authority.issue("stranger", FOR_CLIENTS)
    ca = authority.ca
    assert both(receivers, ca, tokyo) == ACCEPTED
    assert both(receivers, ca, osaka, "token of osaka") == ACCEPTED
    assert both(receivers, ca, stranger, "token of osaka") == ACCEPTED
    assert senders(intake) == [TOKYO, TOKYO, OSAKA, OSAKA, OSAKA, OSAKA]
    assert both(receivers, ca, tokyo, "token of osaka") == UNKNOWN
    assert both(receivers, ca, stranger) == UNKNOWN
    assert both(receivers, ca, tokyo, "no such token") == UNKNOWN
    assert len(intake.received) == 6


def test_an_address_is_known_however_it_is_spelt(
    receivers: Receivers, intake: RecordingIntake, authority: Authority
) -> None:
    """An IPv6 address in a certificate is that of the tenants file over HTTP and gRPC, which spell it differently."""
    kyoto = authority.issue("kyoto", f"{FOR_CLIENTS}subjectAltName=IP:2001:DB8::7\n")
    assert both(receivers, authority.ca, kyoto) == ACCEPTED
    assert senders(intake) == [Sender("acme", "kyoto-1")] * 2


def test_names_of_two_senders_are_of_none(receivers: Receivers, authority: Authority) -> None:
    """A certificate that bears the names of two senders is refused."""
    two = authority.issue("two", f"{FOR_CLIENTS}subjectAltName=URI:{SPIFFE}\n", subject="tokyo")
    assert both(receivers, authority.ca, two) == UNKNOWN
    common = authority.issue("common", f"{FOR_CLIENTS}subjectAltName=URI:{SPIFFE}\n", subject="/CN=nobody/CN=tokyo")
    assert both(receivers, authority.ca, common) == UNKNOWN


def test_a_certificate_without_a_name_is_of_nobody(receivers: Receivers, authority: Authority) -> None:
    """Who shows a certificate that names no one is not taken for a local sender without one; a token still counts."""
    nameless = authority.issue("nameless", FOR_CLIENTS, subject="/O=acme")
    assert both(receivers, authority.ca, nameless) == UNKNOWN
    assert both(receivers, authority.ca, nameless, "token of osaka") == ACCEPTED


def test_without_a_certificate_of_the_authority_no_connection(
    receivers: Receivers, authority: Authority, tmp_path: Path
) -> None:
    """No certificate, or one of another authority with a good name, does not get as far as a request."""
    forged = Authority(tmp_path / "other").issue("tokyo", FOR_CLIENTS)
    assert both(receivers, authority.ca, None, "token of osaka") == NO_CONNECTION
    assert both(receivers, authority.ca, forged, "token of osaka") == NO_CONNECTION


def test_without_tls_no_answer(receivers: Receivers) -> None:
    """A sender that speaks no TLS gets no answer over HTTP or gRPC, and is none who comes from loopback."""
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{receivers.http_port}/v1/metrics", b"", timeout=60)
    with grpc.insecure_channel(f"127.0.0.1:{receivers.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(METHOD)(b"", timeout=5)


def test_tls_alone_leaves_admission_as_it_is(files: ListenTls, intake: RecordingIntake, authority: Authority) -> None:
    """Without ``client_ca`` nobody is asked for a certificate: tokens decide, and loopback may come without."""
    certificates = Certificates(ListenTls(files.cert, files.key), print)
    with Receivers(intake, tenants=TENANTS, certificates=certificates) as receivers:
        assert both(receivers, authority.ca, None) == ACCEPTED
        assert both(receivers, authority.ca, None, "token of osaka") == ACCEPTED
    assert senders(intake) == [LOCAL, LOCAL, OSAKA, OSAKA]


def test_curl_is_served(receivers: Receivers, intake: RecordingIntake, authority: Authority, tokyo: Pair) -> None:
    """curl with a certificate gets 200 over TLS 1.2 and 1.3, and no connection over 1.1."""

    def curl(*options: str) -> int:
        url = f"https://127.0.0.1:{receivers.http_port}/v1/metrics"
        command = ["curl", "-sS", "--cacert", str(authority.ca), "--cert", str(tokyo.cert), "--key", str(tokyo.key)]
        command += ["-d", "{}", "-H", "content-type: application/json", "--fail", *options, url]
        return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode

    assert curl("--tls-max", "1.2") == curl("--tlsv1.3") == 0
    assert curl("--tls-max", "1.1") != 0
    assert senders(intake) == [TOKYO, TOKYO]


def test_send_trusts_the_certificate_of_its_configuration(
    files: ListenTls, intake: RecordingIntake, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`catchment send --config` needs no --ca: the listener's own certificate is trusted, also one that a CA signed."""
    with Receivers(intake, certificates=Certificates(ListenTls(files.cert, files.key), print)) as receivers:
        config = tmp_path / "catchment.yaml"
        listen = f"listen: {{otlp_http: 127.0.0.1:{receivers.http_port}}}\n"
        config.write_text(f"region: jp-east\n{listen}tls: {{cert: {files.cert}, key: {files.key}}}\n")
        assert run(["send", "parcels", "5", "--config", str(config)]) == 0, capsys.readouterr().err
        assert files.cert is not None
        files.cert.write_bytes(authority.issue("other", FOR_SERVERS).cert.read_bytes())
        assert run(["send", "parcels", "5", "--config", str(config)]) == 3
    assert senders(intake) == [LOCAL]


def test_files_are_read_again(
    receivers: Receivers,
    files: ListenTls,
    reports: list[Mapping[str, bytes] | str],
    authority: Authority,
    tokyo: Pair,
    tmp_path: Path,
) -> None:
    """New files are for the connections that come then: of the server's certificate and of the senders' authority."""
    new = Authority(tmp_path / "new")
    new_tokyo = new.issue("tokyo", FOR_CLIENTS)
    assert both(receivers, authority.ca, tokyo) == ACCEPTED
    put(files, new.issue("server", FOR_SERVERS), new.ca)
    _wait_until_read(files, reports)
    assert both(receivers, new.ca, new_tokyo) == ACCEPTED
    assert both(receivers, authority.ca, tokyo) == NO_CONNECTION
    assert both(receivers, new.ca, tokyo) == NO_CONNECTION


def test_a_session_from_before_the_files_is_not_resumed(
    receivers: Receivers,
    files: ListenTls,
    reports: list[Mapping[str, bytes] | str],
    authority: Authority,
    tokyo: Pair,
    tmp_path: Path,
) -> None:
    """Once the senders' authority is replaced, a TLS 1.2 session of before is refused; a younger one is resumed."""
    new = Authority(tmp_path / "new")
    context = ssl.create_default_context(cafile=authority.ca)
    context.load_verify_locations(new.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tokyo.cert, tokyo.key)

    def connect(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        with (
            socket.create_connection(("127.0.0.1", receivers.http_port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection,
        ):
            found = bool(connection.session_reused), connection.session
            connection.unwrap()  # OpenSSL forgets the session of a connection that was cut off
            return found

    _, before = connect(None)
    assert connect(before)[0]
    put(files, new.issue("server", FOR_SERVERS), new.ca)
    _wait_until_read(files, reports)
    with pytest.raises(ssl.SSLError):
        connect(before)
    new_tokyo = new.issue("tokyo", FOR_CLIENTS)
    context.load_cert_chain(new_tokyo.cert, new_tokyo.key)
    time.sleep(1)  # a session knows its time in whole seconds
    _, after = connect(None)
    assert connect(after)[0]


def test_files_with_a_fault_change_nothing(
    receivers: Receivers,
    certificates: Certificates,
    files: ListenTls,
    reports: list[Mapping[str, bytes] | str],
    authority: Authority,
    tokyo: Pair,
) -> None:
    """A certificate that is cut off is a warning until it is whole again, and those before it stay in force."""
    assert files.cert is not None
    whole = files.cert.read_bytes()
    files.cert.write_bytes(whole[:100])
    wait_until(lambda: bool(reports), "the certificate is refused")
    assert isinstance(reports[-1], str)
    assert both(receivers, authority.ca, tokyo) == ACCEPTED and certificates.is_refused
    files.cert.write_bytes(whole)
    _wait_until_read(files, reports)
    assert not certificates.is_refused


def _wait_until_read(settings: ListenTls, reports: list[Mapping[str, bytes] | str]) -> None:
    """Three files are replaced one after the other: wait for what was read of all of them."""
    assert settings.cert is not None and settings.key is not None and settings.client_ca is not None
    paths = {"cert": settings.cert, "key": settings.key, "client_ca": settings.client_ca}
    there = {name: path.read_bytes() for name, path in paths.items()}
    wait_until(lambda: reports[-1:] == [there], "the files are read")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("no certificate", "tls.cert and tls.key cannot be used"),
        ("other key", "key values mismatch"),
        ("encrypted key", "without a password"),
        ("no authority", "tls.client_ca cannot be used"),
        ("missing", "tls.cert"),
    ],
)
def test_files_that_cannot_be_used_are_named_at_start(
    files: ListenTls, authority: Authority, damage: str, says: str
) -> None:
    """What is wrong with which file is said before anything listens."""
    assert files.cert is not None and files.key is not None and files.client_ca is not None
    if damage == "no certificate":
        files.cert.write_text("nothing\n")
    elif damage == "other key":
        shutil.copy(authority.issue("other", FOR_SERVERS).key, files.key)
    elif damage == "encrypted key":
        command = ["openssl", "ec", "-in", str(files.key), "-aes256", "-passout", "pass:x", "-out", str(files.key)]
        subprocess.run(command, check=True, capture_output=True)
    elif damage == "no authority":
        files.client_ca.write_text("nothing\n")
    else:
        files.cert.unlink()
    with pytest.raises(CatchmentError, match=says):
        Certificates(files, print)
