"""The readers file, and who is admitted by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catchment.errors import ConfigFaults
from store.access import Credentials, admit
from store.engine.port import EngineError
from store.reader_scope import like_pattern, tenant_condition
from store.readers import Reader, Readers, ReadersFile
from store.sql_request import read_credentials
from tests.unit.test_tenants import digest

OWN: dict[str, Any] = {"name": "own", "password_sha256": digest("secret"), "tenants": ["acme", "station-*"]}


def faults(*entries: object) -> list[str]:
    """What is wrong with entries."""
    with pytest.raises(ConfigFaults) as error:
        Readers.of(list(entries), "f")
    return error.value.faults


def test_a_file_says_who_reads_what(tmp_path: Path) -> None:
    """A password counts beside its name, a token alone as well, all: true is an operator; JSON says it as YAML does."""
    yaml = tmp_path / "readers.yaml"
    yaml.write_text(
        f"- name: own\n  password_sha256: {digest('secret')}\n  tenants: [acme, 'station-*']\n"
        f"- name: own\n  token_sha256: {digest('token').upper()}\n  tenants: [acme, 'station-*']\n"
        f"- name: ops\n  token_sha256: {digest('ops')}\n  all: true\n"
    )
    readers = Readers.load(yaml)
    own = Reader("own", ("acme", "station-*"))
    assert readers.of_password("own", "secret") == readers.of_password("own", "token") == own
    assert readers.of_token("token") == own
    assert readers.of_token("ops") == readers.of_password("ops", "ops") == Reader("ops", None)
    assert readers.of_token("secret") is None
    assert readers.of_password("ops", "secret") is None
    assert readers.of_password("nobody", "") is None
    as_json = tmp_path / "readers.json"
    as_json.write_text(json.dumps([OWN, {"name": "ops", "token_sha256": digest("ops"), "all": True}]))
    assert Readers.load(as_json).of_password("own", "secret") == own


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "a b"}, "name: must be"),
        ({"name": None}, "name: must be"),
        ({"name": "catchment_operator"}, "is a role on a ClickHouse server"),
        ({"password_sha256": digest("").upper()}, "digest of an empty text"),
        ({"password_sha256": "hunter2"}, "password_sha256: must be 64 hex digits"),
        ({"token_sha256": "0" * 64}, "either password_sha256 or token_sha256"),
        ({"tenants": []}, "tenants: must be a list of 1 to"),
        ({"tenants": "acme"}, "tenants: must be a list of 1 to"),
        ({"tenants": ["acme", "x'; DROP"]}, "is no name of a tenant"),
        ({"tenants": ["a%"]}, "is no name of a tenant"),
        ({"all": True}, "either tenants, or all: true"),
        ({"rights": "x"}, "rights: unknown"),
    ],
)
def test_faults_are_told(change: dict[str, Any], says: str) -> None:
    """What is wrong with an entry is said with its number; nothing of the file is taken."""
    found = faults(OWN, {**OWN, **change})
    assert any(fault.startswith("f: entry 2: ") and says in fault for fault in found), found


def test_entries_must_agree() -> None:
    """Entries of one reader see the same, a token stands once, and all: false is no way to write nothing."""
    assert "differ from an earlier entry" in faults(OWN, {**OWN, "tenants": ["acme"]})[0]
    token = {"name": "a", "token_sha256": digest("t"), "tenants": ["a"]}
    assert "stands in an earlier entry" in faults(token, {**token, "name": "b"})[0]
    nobody = {"name": "a", "token_sha256": digest("t"), "all": False}
    assert "all: must be true" in faults(nobody)[0]
    assert "must be a mapping" in faults("x")[0]


def test_with_a_readers_file_everybody_names_himself() -> None:
    """Loopback is no credential any more; users of sql.users see everything, but not under a name of the file."""
    readers = Readers.of([OWN, {"name": "ci", "token_sha256": digest("t"), "tenants": ["acme"]}], "f")
    users = {"ops": digest("o"), "own": digest("second")}

    def code(credentials: Credentials) -> int:
        with pytest.raises(EngineError) as error:
            admit(credentials, "127.0.0.1", "localhost", users, readers)
        return error.value.code

    assert admit(Credentials("own", "secret"), "10.0.0.1", "x", users, readers).tenants == ("acme", "station-*")
    assert admit(Credentials(token="t"), "10.0.0.1", "x", users, readers) == Reader("ci", ("acme",))
    assert admit(Credentials("ops", "o"), "10.0.0.1", "x", users, readers) == Reader("ops", None)
    assert code(Credentials()) == 194
    assert code(Credentials("own", "second")) == 516
    assert code(Credentials("default", "")) == code(Credentials("own", "")) == code(Credentials("ops", "")) == 516
    assert code(Credentials(token="x")) == code(Credentials("", "secret")) == 516
    with pytest.raises(EngineError) as error:
        admit(Credentials(token="t"), "127.0.0.1", "localhost", {})
    assert error.value.code == 516


def test_a_bearer_token_is_read() -> None:
    """Authorization: Bearer is a credential; without a token it is refused."""
    assert read_credentials({"authorization": "Bearer  abc "}, {}) == Credentials(token="abc")
    for value in ("Bearer", "Bearer ", "Digest x"):
        with pytest.raises(EngineError):
            read_credentials({"authorization": value}, {})


def test_a_changed_file_with_faults_leaves_the_one_before(tmp_path: Path) -> None:
    """A file that is read at first must be right; what it says is the file's `current`."""
    path = tmp_path / "readers.json"
    path.write_text(json.dumps([OWN]))
    assert ReadersFile(path, print).current.of_password("own", "secret") is not None
    path.write_text("[{}]")
    with pytest.raises(ConfigFaults):
        ReadersFile(path, print)


def test_tenants_become_a_condition() -> None:
    """Names are listed, globs are patterns in which nothing else is special."""
    assert tenant_condition(["b", "a"]) == "tenant IN ('a', 'b')"
    assert tenant_condition(["a", "s-*"]) == "tenant IN ('a') OR tenant LIKE 's-%'"
    assert like_pattern("a_b*?.x") == "a\\_b%_.x"
    assert tenant_condition(["a_*"]) == "tenant LIKE 'a\\\\_%'"
