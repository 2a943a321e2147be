"""The common names of a certificate, as OpenSSL reads them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from collectors.receive.tls import common_names, names_of_peer
from tests.kafka.certificates import FOR_CLIENTS, Authority


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("/CN=tokyo", ("tokyo",)),
        ("/O=acme/CN=tokyo/OU=x/CN=osaka", ("tokyo", "osaka")),
        ("/CN=a+OU=b/CN=" + "x" * 60, ("a", "x" * 60)),
        ("/O=acme", ()),
        ("/CN=" + "\u6771\u4eac".encode().decode("latin-1"), None),
    ],
)
def test_all_common_names_are_found(tmp_path: Path, subject: str, names: tuple[str, ...] | None) -> None:
    """Each of the subject's, none of the issuer's or of other attributes, whatever their encoding."""
    authority = Authority(tmp_path / "authority")
    pem = authority.issue("x", FOR_CLIENTS, subject=subject).cert
    decoded = ssl._ssl._test_decode_cert(str(pem))  # type: ignore[attr-defined]
    decoded.pop("subjectAltName", None)
    read = names_of_peer(decoded)
    text = pem.read_bytes()
    assert common_names(text[text.index(b"-----BEGIN") :]) == read
    assert names is None or read == names
