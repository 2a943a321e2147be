"""The receivers' certificate, and who a sender's certificate says that it is.

A certificate's names are its common name and its alternative names (DNS, URI such as a SPIFFE ID, mail, address).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import grpc

from catchment.tls import Loaded, ServerCertificates


class Certificates(ServerCertificates):
    """What both receivers use; gRPC keeps its own form of the files."""

    def grpc_credentials(self) -> Any:
        """For gRPC's port; every handshake asks whether there is something new."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.loaded), self.configurations(), self.settings.client_ca is not None
        )

    def configurations(self) -> Callable[[], Any]:
        """A function that gives gRPC's form of the files in force if they are others than at its last call, else None.

        gRPC exchanges what it makes of them at each answer but None, unguarded from handshakes on its other threads:
        with an answer each time some hundreds of senders that connect at once crash the process.
        """
        given = self.loaded

        def changed() -> Any:
            nonlocal given
            loaded = self.loaded
            if loaded is given:
                return None
            new = _configuration(loaded)
            given = loaded
            return new

        return changed


def _configuration(loaded: Loaded) -> Any:
    # OpenSSL has checked what gRPC would only complain of at the first handshake: the key is the certificate's.
    files = loaded.files
    return grpc.ssl_server_certificate_configuration([(files["key"], files["cert"])], files.get("client_ca"))


def names_of_peer(certificate: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """The names of a certificate as `ssl.SSLSocket.getpeercert` gives it; None where none was verified."""
    if not certificate:
        return None
    subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    others = [value for kind, value in certificate.get("subjectAltName", ()) if isinstance(value, str)]
    return tuple(dict.fromkeys([*subject, *others]))


def names_of_call(properties: Mapping[str, Sequence[bytes]]) -> tuple[str, ...] | None:
    """The names of a certificate as gRPC's ``auth_context`` gives them; None where none was verified."""
    pem = next(iter(properties.get("x509_pem_cert", ())), None)
    if pem is None:
        return None
    others = [name.decode("utf-8", "surrogateescape") for name in properties.get("x509_subject_alternative_name", ())]
    return tuple(dict.fromkeys([*common_names(pem), *others]))


@lru_cache(maxsize=4096)
def common_names(pem: bytes) -> tuple[str, ...]:
    """All common names of a certificate that was verified; none of one whose subject cannot be read.

    gRPC tells one of them, OpenSSL all: a certificate with those of two senders is of neither, over whichever protocol.
    """
    # 14 MiB, which only senders with certificates cost.
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    try:
        subject = x509.load_pem_x509_certificate(pem).subject
        return tuple(str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME))
    except (ValueError, x509.InvalidVersion):
        return ()
