"""The common names in a certificate's subject. Pure.

gRPC tells one of them, OpenSSL all: a certificate with those of two senders is of neither, over whichever protocol.
Source: RFC 5280 §4.1 (where the subject stands), X.690 §8.1 (tag, length, value).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from functools import lru_cache

_COMMON_NAME = bytes((0x55, 0x04, 0x03))
_VERSION = 0xA0
# Serial number, signature's algorithm, issuer and validity stand before the subject.
_SUBJECT = 4
_ENCODINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}


@lru_cache(maxsize=4096)
def common_names(pem: bytes) -> tuple[str, ...]:
    """All common names of a certificate that was verified; none that are in an encoding that has no business there."""
    ((_, certificate),) = _elements(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
    fields = [value for tag, value in _elements(next(_elements(certificate))[1]) if tag != _VERSION]
    found = []
    for _, relative in _elements(fields[_SUBJECT]):
        for _, attribute in _elements(relative):
            (_, kind), (tag, value) = _elements(attribute)
            if kind == _COMMON_NAME and tag in _ENCODINGS:
                found.append(value.decode(_ENCODINGS[tag], "surrogateescape" if tag == 0x0C else "replace"))
    return tuple(found)


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of each element."""
    while content:
        begin, length = 2, content[1]
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(content[2:begin], "big")
        yield content[0], content[begin : begin + length]
        content = content[begin + length :]
