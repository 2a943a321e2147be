"""The tenants file and admission."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from inspect import signature
from pathlib import Path

import pytest

from catchment.errors import ConfigFaults
from collectors.admit import Admit, Unauthenticated, is_forwarded, is_loopback
from collectors.tenants import Sender, Tenants, TenantsFile


def digest(token: str) -> str:
    """What a tenants file holds of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def entry(token: str, tenant: str = "acme", cluster: str = "tokyo-1", **labels: str) -> dict[str, object]:
    """An entry of a tenants file."""
    return {"token_sha256": digest(token), "tenant": tenant, "cluster": cluster, "labels": labels}


def test_a_token_names_tenant_cluster_and_labels(tmp_path: Path) -> None:
    """A YAML file is read; labels become canonical JSON; words that YAML 1.1 takes for booleans stay words."""
    path = tmp_path / "tenants.yaml"
    path.write_text(
        f"# stations\n- token_sha256: {digest('s3cret').upper()}\n  tenant: acme\n  cluster: no\n"
        f"  labels: {{zone: b, kind: 007}}\n- {{token_sha256: {digest('other')}, tenant: acme, cluster: x}}\n"
    )
    tenants = Tenants.load(path)
    assert tenants.find("s3cret") == Sender("acme", "no", '{"kind":"007","zone":"b"}')
    assert tenants.find("other") == Sender("acme", "x", "{}")
    assert tenants.find("S3cret") is None
    assert tenants.find("\udcff") is None


def test_json_says_the_same_as_yaml(tmp_path: Path) -> None:
    """A file that ends in .json is read as JSON."""
    entries = [entry("a", zone="x"), entry("b", cluster="tokyo-2")]
    (tmp_path / "t.json").write_text(json.dumps(entries))
    (tmp_path / "t.yaml").write_text(json.dumps(entries))
    assert Tenants.load(tmp_path / "t.json") == Tenants.load(tmp_path / "t.yaml")


def test_an_empty_file_knows_nobody(tmp_path: Path) -> None:
    """No entries is a valid file: every token is refused."""
    (tmp_path / "t.yaml").write_text("# none yet\n")
    assert Tenants.load(tmp_path / "t.yaml").find("x") is None


def test_all_faults_are_reported_at_once() -> None:
    """Every fault has its entry and key; the good entries beside it raise none."""
    entries = [
        entry("good"),
        "text",
        {"token_sha256": "abc", "tenant": "a/b", "cluster": "", "labels": {"": "x", "n": 5}, "colour": "red"},
        entry("good", cluster="other"),
        entry("rotated", zone="other"),
        {"certificate": "cn", "tenant": "acme", "cluster": "osaka-1"},
        {"certificate": "cn", "tenant": "acme", "cluster": "osaka-2"},
        {"certificate": "", "tenant": "acme", "cluster": "osaka-1"},
        {**entry("both"), "certificate": "cn-2"},
        {"certificate": "::1", "tenant": "acme", "cluster": "osaka-1"},
        {"certificate": "0:0:0:0:0:0:0:1", "tenant": "acme", "cluster": "osaka-1"},
    ]
    with pytest.raises(ConfigFaults) as raised:
        Tenants.of(entries, "tenants.yaml")
    faults = raised.value.faults
    assert all(fault.startswith("tenants.yaml: entry ") for fault in faults)
    told = [fault.removeprefix("tenants.yaml: entry ").split(":")[:2] for fault in faults]
    assert told == [
        ["2", " must be a mapping"],
        ["3", " colour"],
        ["3", " token_sha256"],
        ["3", " tenant"],
        ["3", " cluster"],
        ["3", " labels"],
        ["3", " labels"],
        ["4", " token_sha256"],
        ["5", " labels"],
        ["7", " certificate"],
        ["8", " certificate"],
        ["9", " certificate"],
        ["11", " certificate"],
    ]


@pytest.mark.parametrize(
    "text",
    ["a: 1", "- [", "- &a {}\n- *a", "- {a: 1, a: 2}", "- {[1]: 2}", "[]\n---\n[]", "text", "\0"],
)
def test_yaml_that_is_no_list_of_entries_is_a_fault(tmp_path: Path, text: str) -> None:
    """Broken or ambiguous YAML is reported with the file's name."""
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ConfigFaults, match=r"t\.yaml"):
        Tenants.load(path)


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    """A file that is not there is said to be not readable."""
    with pytest.raises(ConfigFaults, match="cannot be read"):
        Tenants.load(tmp_path / "none.yaml")


def test_ten_thousand_stations_load_fast(tmp_path: Path) -> None:
    """A file for a large fleet takes seconds at most, so that a reload is no outage."""
    path = tmp_path / "t.yaml"
    path.write_text(
        "".join(
            f"- token_sha256: {digest(str(i))}\n  tenant: acme\n  cluster: st-{i}\n  labels: {{zone: a}}\n"
            for i in range(10_000)
        )
    )
    before = time.process_time()
    assert len(Tenants.load(path).by_digest) == 10_000
    assert time.process_time() - before < 5


def test_a_file_is_looked_at_every_second() -> None:
    """Unless told otherwise: who may send changes within two seconds, as documented."""
    assert signature(TenantsFile.watch).parameters["poll_seconds"].default <= 1


def test_a_changed_file_is_taken_and_a_bad_one_is_not(tmp_path: Path) -> None:
    """A change is noticed without a signal; faults keep the file before in force and are reported; reload forces."""
    path = tmp_path / "t.json"
    path.write_text(json.dumps([entry("old")]))
    reports: list[str] = []
    refused: list[bool] = []

    async def told(count: int) -> None:
        async with asyncio.timeout(60):
            while len(reports) < count:  # noqa: ASYNC110 - the file reports by a plain call, as it does in the product
                await asyncio.sleep(0.01)

    async def scenario() -> None:
        file = TenantsFile(path, reports.append, lambda said: reports.append(f"refused: {said}"))
        watching = asyncio.create_task(file.watch(poll_seconds=0.02))
        assert file.find("old") is not None
        path.write_text(json.dumps([entry("new")]))
        await told(1)
        assert file.find("old") is None
        assert file.find("new") is not None
        refused.append(file.is_refused)
        path.write_text("[{}]")
        await told(2)
        assert file.find("new") is not None
        refused.append(file.is_refused)
        path.unlink()
        await told(3)
        assert file.find("new") is not None
        path.write_text(json.dumps([entry("newest")]))
        await told(4)
        file.reload()
        await told(5)
        assert file.find("newest") is not None
        refused.append(file.is_refused)
        watching.cancel()

    asyncio.run(scenario())
    assert refused == [False, True, False]
    assert [report.startswith("refused: ") for report in reports] == [False, True, True, False, False]


LOCAL = Sender("default", "tokyo-1")
TENANTS = Tenants.of([entry("s3cret")], "t")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_peers_are_served_without_a_token(peer: str) -> None:
    """Anonymous senders on this machine count as the collector's own cluster."""
    assert Admit(None, LOCAL).sender(None, peer) == LOCAL


@pytest.mark.parametrize("peer", ["10.0.0.1", "::2", "::ffff:10.0.0.1", "", "localhost", "unix"])
def test_other_peers_need_a_token(peer: str) -> None:
    """Anonymous senders from elsewhere are refused."""
    assert not is_loopback(peer)
    with pytest.raises(Unauthenticated, match="token is needed"):
        Admit(TENANTS, LOCAL).sender(None, peer)


def test_proxies_are_known_by_their_headers() -> None:
    """What nginx, Envoy, Apache and Squid add marks a request as forwarded, and no header of a sender does."""
    own = ["authorization", "content-type", "user-agent", "x-scope-orgid", "grpc-accept-encoding"]
    assert not is_forwarded(own)
    for name in ("forwarded", "x-forwarded-for", "x-forwarded-proto", "x-real-ip", "via", "x-envoy-external-address"):
        assert is_forwarded([*own, name]), name


def test_a_forwarded_request_is_not_local() -> None:
    """A proxy on this machine does not make its clients local."""
    with pytest.raises(Unauthenticated):
        Admit(None, LOCAL).sender(None, "127.0.0.1", forwarded=True)


def test_a_tenants_file_may_forbid_anonymous_senders() -> None:
    """Without a sender for anonymous peers, even loopback needs a token."""
    with pytest.raises(Unauthenticated):
        Admit(TENANTS, None).sender(None, "127.0.0.1")


@pytest.mark.parametrize("authorization", ["Bearer s3cret", "bearer s3cret", "BEARER  s3cret "])
def test_a_known_token_is_served_from_anywhere(authorization: str) -> None:
    """The scheme's case does not matter, the token's does."""
    assert Admit(TENANTS, LOCAL).sender(authorization, "10.0.0.1").tenant == "acme"


@pytest.mark.parametrize("authorization", ["Bearer S3CRET", "Bearer", "Bearer ", "", "Basic czpz", "s3cret"])
def test_an_unknown_token_is_refused_even_from_loopback(authorization: str) -> None:
    """A wrong token never falls back to the anonymous tenant."""
    for directory in (TENANTS, None):
        with pytest.raises(Unauthenticated):
            Admit(directory, LOCAL).sender(authorization, "127.0.0.1")
