"""A certificate authority for one test run, with a server's and a client's certificate, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """PEM files. ``server_store`` holds the server's key and certificate in one file, as Kafka reads them."""

    ca: Path
    server_store: Path
    client_cert: Path
    client_key: Path


def make_certificates(folder: Path) -> Certificates:
    """Make them, valid for a day, the server's for 127.0.0.1 and localhost."""
    folder.mkdir(parents=True)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    def key(name: str) -> None:
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")

    def signed(name: str, extension: str) -> None:
        key(name)
        (folder / f"{name}.ext").write_text(extension)
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "1", "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )

    key("ca")
    openssl("req", "-x509", "-key", "ca.key", "-subj", "/CN=tests", "-days", "1", "-out", "ca.pem")
    signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    signed("client", "extendedKeyUsage=clientAuth\n")
    store = folder / "server-store.pem"
    store.write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())
    return Certificates(folder / "ca.pem", store, folder / "client.pem", folder / "client.key")
