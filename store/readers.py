"""The readers file: who may ask the SQL endpoint, and whose rows each of them sees.

YAML or JSON, a list; an entry for each credential (never stored, only its SHA-256):

    - name: grafana
      password_sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      tenants: [acme, "station-*"]
    - name: acme-exports
      token_sha256: 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752
      tenants: [acme]
    - name: operator
      password_sha256: fd61a03af4f77d870fc21e05e7e80678095c92d808cfb3b5c279ee04c74aca13
      all: true

Rules:

1. A password counts beside its reader's name; a token stands alone, as a bearer token, or in place of a password.
2. ``tenants`` are names, or globs with ``*`` and ``?``; ``all: true`` is an operator, who sees everything. One of them.
3. A reader may have several entries (rotation); all of them say the same of what it sees.
4. No secret is empty: its digest in the file is that of a variable which was not set. No reader has a role's name
   (`ROLES`): a server's grants and policies name users and roles alike.
5. Wrong names and wrong passwords take the same time, and the answer does not tell them apart.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catchment.entries import listed, load_entries
from catchment.errors import ConfigFaults
from catchment.watched_file import WatchedFile

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_GLOB = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,127}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_KEYS = ("name", "password_sha256", "token_sha256", "tenants", "all")
_SECRETS = ("password_sha256", "token_sha256")
READER_ROLE = "catchment_reader"
OPERATOR_ROLE = "catchment_operator"
ROLES = (READER_ROLE, OPERATOR_ROLE)
"""The roles of readers of some tenants and of operators on a ClickHouse server (`store.grants`)."""

_EMPTY = hashlib.sha256().hexdigest()
_TENANTS_MAX = 1000
_FAULTS_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class Reader:
    """Who asks, and whose rows may be answered: names and globs of tenants; None is all of them."""

    name: str
    tenants: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Readers:
    """The readers of one file.

    Attributes:
        by_name: every reader of the file.
        secrets: name → digests that are good beside it.
        tokens: digest → name, for those that are good alone.
    """

    by_name: Mapping[str, Reader] = field(default_factory=dict)
    secrets: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    tokens: Mapping[bytes, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Readers:
        """Read a readers file: JSON if its name ends in ``.json``, else YAML.

        Raises:
            ConfigFaults: all that is wrong with it, or that it cannot be read.
        """
        return cls.of(load_entries(path), str(path))

    @classmethod
    def of(cls, entries: object, name: str) -> Readers:
        """The readers of a list of entries; ``name`` stands before each fault.

        Raises:
            ConfigFaults: all that is wrong with them.
        """
        faults: list[str] = []
        by_name: dict[str, Reader] = {}
        secrets: dict[str, tuple[bytes, ...]] = {}
        tokens: dict[bytes, str] = {}
        for number, entry in enumerate(listed(entries, name, _KEYS), 1):
            found = _faults_of(entry)
            if not found:
                tenants = None if "all" in entry else tuple(dict.fromkeys(entry["tenants"]))
                reader = Reader(entry["name"], tenants)
                if by_name.setdefault(reader.name, reader) != reader:
                    found.append("tenants: differ from an earlier entry of the same reader")
                digest = bytes.fromhex(next(entry[key] for key in _SECRETS if key in entry))
                if "token_sha256" in entry:
                    if digest in tokens:
                        found.append("token_sha256: stands in an earlier entry as well")
                    tokens[digest] = reader.name
                secrets[reader.name] = (*secrets.get(reader.name, ()), digest)
            faults += [f"{name}: entry {number}: {fault}" for fault in found]
        if faults:
            more = len(faults) - _FAULTS_SHOWN_MAX
            raise ConfigFaults(faults[:_FAULTS_SHOWN_MAX] + ([f"{name}: and {more} more faults"] if more > 0 else []))
        return cls(by_name, secrets, tokens)

    def of_token(self, token: str) -> Reader | None:
        """The reader that a token speaks for; None if there is none."""
        name = self.tokens.get(_digest(token))
        return None if name is None else self.by_name[name]

    def of_password(self, name: str, password: str) -> Reader | None:
        """The reader ``name`` if the password, or token, is one of its own; else None."""
        digest, good = _digest(password), False
        for known in self.secrets.get(name, (b"",)):
            good |= hmac.compare_digest(digest, known)
        return self.by_name[name] if good else None


class ReadersFile(WatchedFile[Readers]):
    """A readers file that is read again when it changes; ``report`` and ``refuse`` are told what that brought."""

    def __init__(self, path: Path, report: Callable[[str], None], refuse: Callable[[str], None] | None = None) -> None:
        def describe(readers: Readers) -> str:
            return f"{len(readers.by_name)} readers"

        super().__init__(path, Readers.load, "readers file", describe, report, refuse)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def _faults_of(entry: Any) -> list[str]:
    """All that is wrong with one entry."""
    if not isinstance(entry, dict):
        return ["must be a mapping"]
    faults = [f"{key}: unknown; known are {', '.join(_KEYS)}" for key in entry if key not in _KEYS]
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        faults.append("name: must be 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit")
    elif name in ROLES:
        faults.append(f"name: {name} is a role on a ClickHouse server; take another name")
    given = [key for key in _SECRETS if key in entry]
    if len(given) != 1:
        faults.append("an entry has either password_sha256 or token_sha256; make an entry for each")
    faults += [
        f"{key}: must be 64 hex digits: printf %s SECRET | sha256sum"
        for key in given
        if not isinstance(entry[key], str) or not _DIGEST.fullmatch(entry[key])
    ]
    faults += [f"{key}: is the digest of an empty text" for key in given if str(entry[key]).lower() == _EMPTY]
    return faults + _tenant_faults(entry)


def _tenant_faults(entry: Mapping[str, Any]) -> list[str]:
    if ("tenants" in entry) == ("all" in entry):
        return ["an entry has either tenants, or all: true for an operator, who sees everything"]
    if "all" in entry:
        # YAML is read as text, JSON is not.
        return [] if entry["all"] in ("true", True) else ["all: must be true; a reader of some tenants has tenants"]
    tenants = entry["tenants"]
    if not isinstance(tenants, list) or not 0 < len(tenants) <= _TENANTS_MAX:
        return [f"tenants: must be a list of 1 to {_TENANTS_MAX} names or globs"]
    return [
        f"tenants: {tenant!r} is no name of a tenant, nor a glob of * and ?"
        for tenant in tenants
        if not isinstance(tenant, str) or not _GLOB.fullmatch(tenant)
    ]
