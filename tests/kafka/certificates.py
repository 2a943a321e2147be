"""A certificate authority for one test run, and what it signs, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

FOR_SERVERS = "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
FOR_CLIENTS = "extendedKeyUsage=clientAuth\n"


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates for a day; its own is ``ca``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.ca = folder / "ca.pem"
        self._key("ca")
        self._openssl("req", "-x509", "-key", "ca.key", "-subj", "/CN=tests", "-days", "1", "-out", "ca.pem")

    def issue(self, name: str, extension: str, *, subject: str = "") -> Pair:
        """A certificate in files of that name, which is its common name too unless there is another ``subject``."""
        self._key(name)
        (self._folder / f"{name}.ext").write_text(extension)
        distinguished = subject if subject.startswith("/") else f"/CN={subject or name}"
        self._openssl("req", "-new", "-key", f"{name}.key", "-subj", distinguished, "-out", f"{name}.csr")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "1", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
        return Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _key(self, name: str) -> None:
        self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


@dataclass(frozen=True)
class Certificates:
    """PEM files. ``server_store`` holds the server's key and certificate in one file, as Kafka reads them."""

    ca: Path
    server_store: Path
    client_cert: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make them, valid for a day, the server's for 127.0.0.1 and localhost."""
    authority = Authority(folder)
    server, client = authority.issue("server", FOR_SERVERS), authority.issue("client", FOR_CLIENTS)
    store = folder / "server-store.pem"
    store.write_text(server.key.read_text() + server.cert.read_text())
    return Certificates(authority.ca, store, client.cert, client.key)
