"""The tenants file: which bearer token or client certificate speaks for which tenant and cluster.

YAML or JSON, a list; one entry for each token (tokens are never stored, only their SHA-256) and for each certificate
(by its common name or one of its alternative names):

    - token_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      tenant: acme
      cluster: tokyo-1
      labels: {zone: a, kind: station}
    - certificate: spiffe://acme.example/osaka-1
      tenant: acme
      cluster: osaka-1

Rules:

1. A cluster may have several entries (rotation); all its entries must have the same labels.
2. The lookup is by the digest of the token, so its time tells nothing about the tokens that exist.
3. All faults of a file are reported at once. A changed file with faults leaves the one before it in force.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catchment.entries import listed, load_entries
from catchment.errors import ConfigFaults
from catchment.identity import canonical_attributes
from catchment.watched_file import WatchedFile

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What tenants and clusters may be called: a name becomes part of keys such as ``<tenant>/<cluster>``."""

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_LABELS_MAX = 64
_LABEL_VALUE_CHARACTERS_MAX = 256
# As written with each request (`collectors.inbox_format.META_BYTES_MAX`), with room for the rest.
_LABELS_BYTES_MAX = 32 * 1024
_FAULTS_SHOWN_MAX = 100
_CERTIFICATE_NAME_CHARACTERS_MAX = 1024
_KEYS = ("token_sha256", "certificate", "tenant", "cluster", "labels")


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom a request is from: set once at the edge, never by a payload."""

    tenant: str
    cluster: str
    labels: str = "{}"
    """The cluster's labels, canonical JSON."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """The senders of one tenants file, by the SHA-256 of their tokens and by the names of their certificates."""

    by_digest: Mapping[bytes, Sender] = field(default_factory=dict)
    by_name: Mapping[str, Sender] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Tenants:
        """Read a tenants file: JSON if its name ends in ``.json``, else YAML.

        Raises:
            ConfigFaults: all that is wrong with it, or that it cannot be read.
        """
        return cls.of(load_entries(Path(path)), str(path))

    @classmethod
    def of(cls, entries: object, name: str) -> Tenants:
        """The senders of a list of entries; ``name`` stands before each fault.

        Raises:
            ConfigFaults: all that is wrong with them.
        """
        faults: list[str] = []
        by_digest: dict[bytes, Sender] = {}
        by_name: dict[str, Sender] = {}
        labels_of: dict[tuple[str, str], str] = {}
        for number, entry in enumerate(listed(entries, name, _KEYS), 1):
            found = _faults_of(entry)
            if not found:
                sender = Sender(entry["tenant"], entry["cluster"], canonical_attributes(entry.get("labels") or {}))
                if labels_of.setdefault((sender.tenant, sender.cluster), sender.labels) != sender.labels:
                    found.append("labels: differ from an earlier entry of the same cluster")
                credential: Any
                known: dict[Any, Sender]
                if "certificate" in entry:
                    key, credential, known = "certificate", _name(entry["certificate"]), by_name
                else:
                    key, credential, known = "token_sha256", bytes.fromhex(entry["token_sha256"]), by_digest
                if credential in known:
                    found.append(f"{key}: stands in an earlier entry as well")
                known[credential] = sender
            faults += [f"{name}: entry {number}: {fault}" for fault in found]
        if faults:
            more = len(faults) - _FAULTS_SHOWN_MAX
            raise ConfigFaults(faults[:_FAULTS_SHOWN_MAX] + ([f"{name}: and {more} more faults"] if more > 0 else []))
        return cls(by_digest, by_name)

    @property
    def count(self) -> int:
        """Tokens and certificates."""
        return len(self.by_digest) + len(self.by_name)

    def find(self, token: str) -> Sender | None:
        """The sender that a token speaks for; None if there is none."""
        return self.by_digest.get(hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest())

    def certified(self, names: Iterable[str]) -> frozenset[Sender]:
        """The senders that the names of a certificate speak for."""
        return frozenset(self.by_name[name] for name in map(_name, names) if name in self.by_name)


class TenantsFile(WatchedFile[Tenants]):
    """A tenants file that is read again when it changes.

    ``report`` is told in one line that a change was read, ``refuse`` why one was not taken (``report`` unless given).
    """

    def __init__(
        self, path: str | Path, report: Callable[[str], None], refuse: Callable[[str], None] | None = None
    ) -> None:
        def describe(tenants: Tenants) -> str:
            return f"{tenants.count} tokens and certificates"

        super().__init__(Path(path), Tenants.load, "tenants file", describe, report, refuse)

    def find(self, token: str) -> Sender | None:
        """The sender that a token speaks for, by the file in force."""
        return self.current.find(token)

    def certified(self, names: Iterable[str]) -> frozenset[Sender]:
        """The senders that a certificate's names speak for, by the file in force."""
        return self.current.certified(names)


def _name(name: str) -> str:
    """A certificate's name as it is looked up: an address in one spelling, which others each have of their own."""
    try:
        return str(ipaddress.ip_address(name.strip()))
    except ValueError:
        return name


def _faults_of(entry: Any) -> list[str]:
    """All that is wrong with one entry."""
    if not isinstance(entry, dict):
        return ["must be a mapping"]
    faults = [f"{key}: unknown; known are {', '.join(_KEYS)}" for key in entry if key not in _KEYS]
    faults += _credential_faults(entry)
    for key in ("tenant", "cluster"):
        value = entry.get(key)
        if not isinstance(value, str) or not NAME.fullmatch(value):
            faults.append(f"{key}: must be 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit")
    return faults + _label_faults(entry.get("labels") or {})


def _credential_faults(entry: Mapping[str, Any]) -> list[str]:
    digest, name = entry.get("token_sha256"), entry.get("certificate")
    if "certificate" not in entry:
        good = isinstance(digest, str) and _DIGEST.fullmatch(digest)
        return [] if good else ["token_sha256: must be 64 hex digits: the SHA-256 of the token"]
    if "token_sha256" in entry:
        return ["certificate: an entry has this or token_sha256; make two entries"]
    if not isinstance(name, str) or not 0 < len(name) <= _CERTIFICATE_NAME_CHARACTERS_MAX or not name.isprintable():
        return ["certificate: must be a name in the certificate: its common name or an alternative name"]
    return []


def _label_faults(labels: object) -> list[str]:
    if not isinstance(labels, dict):
        return ["labels: must be a mapping of names to strings"]
    faults = [f"labels: {len(labels)} of them; at most {_LABELS_MAX}"] if len(labels) > _LABELS_MAX else []
    for name, value in labels.items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            faults.append(f"labels: {name!r} is no label name")
        if not isinstance(value, str) or len(value) > _LABEL_VALUE_CHARACTERS_MAX:
            faults.append(f"labels: {name!r} must be a string of at most {_LABEL_VALUE_CHARACTERS_MAX} characters")
    if not faults and len(json.dumps(labels)) > _LABELS_BYTES_MAX:
        faults.append(f"labels: more than {_LABELS_BYTES_MAX} bytes as JSON")
    return faults
