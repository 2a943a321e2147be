"""The part of the configuration that says what is kept of each metric, inline or in a file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.config_build import mapping_of
from catchment.config_load import load, write
from catchment.config_policies import DEFAULT_DROP, Policies
from catchment.errors import ConfigFaults
from catchment.reach import Reach
from tests.unit.test_config import SMALLEST, faults, read

NOTHING = "says nothing; give keep, drop, reach, resolution, flush, histogram_scale or drop_metric"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("policies: {metrics: [{keep: [a]}]}", "policies.metrics[0].match: missing"),
        ("policies: {metrics: {match: a}}", "policies.metrics: expected a list"),
        (
            "policies: {metrics: [{match: a}]}",
            "says nothing; give keep, drop, reach, resolution, flush, histogram_scale or drop_metric",
        ),
        ("policies: {metrics: [{match: a, drop_metric: perhaps}]}", "expected true or false"),
        ("policies: {metrics: [{match: a, drop_metric: true, keep: [b]}]}", "drop_metric drops all of it"),
        ("policies: {metrics: [{match: a, tenant: b, drop: [c]}]}", "unknown key; did you mean tenants?"),
        ("policies: {metrics: [{match: a, attributes: [b], drop: [c]}]}", "expected keys with texts"),
        ("policies: {metrics: [{match: a, tenants: [''], drop: [c]}]}", "tenants[0]: an empty glob matches nothing"),
        (
            "policies: {metrics: [{match: a, resolution: 90s}]}",
            "metrics[0].resolution: 90s is no multiple of resolution =",
        ),
        ("policies: {metrics: [{match: a, resolution: 10s}]}", "10s is no multiple of resolution = 1m that divides an"),
        ("policies: {metrics: [{match: a, resolution: 2h}]}", "metrics[0].resolution = '2h': expected at most 1h"),
        (
            "policies: {metrics: [{match: a, flush: 12s}]}",
            "metrics[0].flush: 12s is no multiple of flush = 5s; expected",
        ),
        (
            "policies: {metrics: [{match: a, flush: 1s}]}",
            "1s is no multiple of flush = 5s; expected such as 10s or 50s",
        ),
        ("policies: {metrics: [{match: a, histogram_scale: 6}]}", "expected at most 5"),
        ("policies: {version: a b}", "policies.version: 'a b' is no name"),
        ("policies: absent.yaml", "policies.file = 'absent.yaml': cannot be read: No such file"),
        ("policies: [a]", "policies: expected keys with values"),
        ("policies: {reach: planet}", "policies.reach = 'planet': expected one of cluster, region, global"),
        ("policies: {metrics: [{match: a, drop_metric: true, reach: region}]}", "remove reach, or drop_metric"),
        ("policies: {metrics: [{match: '', drop_metric: true}]}", "metrics[0].match: an empty glob matches nothing"),
        (
            "policies: {metrics: [{match: a, keep: [b, c], drop: [c]}]}",
            "metrics[0].drop: 'c' is in keep too, and what is dropped is not kept; remove one of them",
        ),
        (
            "policies: {metrics: [{match: 'a.*', keep: [b]}, {match: a.b, drop_metric: true}]}",
            "metrics[1]: never reached: metrics[0] takes all that it matches; put it before that",
        ),
        (
            "policies: {metrics: [{match: a, drop_metric: true, flush: 10s, drop: [b]}]}",
            "remove drop and flush, or drop_metric",
        ),
    ],
)
def test_each_fault_of_policies_says_what_would_be_right(text: str, part: str) -> None:
    """Every kind of wrong key and value is found, and the message names key and cure."""
    found = faults(text)
    assert len(found) == 1 and part in found[0], found


@pytest.mark.parametrize(
    ("first", "second", "is_reached"),
    [
        ("match: '*'", "match: a, tenants: [t], attributes: {x: y}", False),
        ("match: a", "match: a", False),
        ("match: 'a*'", "match: 'a.*.b'", False),
        ("match: 'a?'", "match: 'a*'", True),
        ("match: '*]x'", "match: '[a]x'", True),
        ("match: a.b", "match: 'a.*'", True),
        ("match: '*', tenants: ['t*']", "match: a, tenants: [t1, t2]", False),
        ("match: '*', tenants: [t1]", "match: a, tenants: [t1, t2]", True),
        ("match: '*', tenants: [t1]", "match: a", True),
        ("match: '*', attributes: {x: '*'}", "match: a, attributes: {x: y, z: w}", False),
        ("match: '*', attributes: {x: y}", "match: a, attributes: {x: '*'}", True),
        ("match: '*', attributes: {x: '*'}", "match: a", True),
    ],
)
def test_a_rule_that_is_never_reached_is_a_fault(first: str, second: str, is_reached: bool) -> None:
    """The first rule that matches decides, so one behind a rule that surely takes all of it would do nothing."""
    text = f"{SMALLEST}policies: {{metrics: [{{{first}, keep: [x]}}, {{{second}, drop: [x]}}]}}\n"
    if is_reached:
        assert len(read(text).policies.metrics) == 2
    else:
        with pytest.raises(ConfigFaults, match="never reached: metrics\\[0\\]"):
            read(text)


def test_the_version_of_policies_changes_with_their_content() -> None:
    """Equal policies have one version, others another, so that a row tells which was in force."""
    assert Policies().version == Policies(default_drop=DEFAULT_DROP).version
    assert Policies().version != Policies(default_drop=("a",)).version


POLICIES = (
    "version: 7\ndefault_drop: [pod]\nmetrics: [{match: a, tenants: [t], attributes: {b: c*}, drop: ['${env:D}']}]\n"
)


def test_policies_may_have_a_file_of_their_own(tmp_path: Path) -> None:
    """`policies: FILE` and `policies: {file: FILE}` read it, with its expansions; what is written has it all inline."""
    file, path = tmp_path / "policies.yaml", tmp_path / "catchment.yaml"
    file.write_text(POLICIES)
    found = []
    for said in (str(file), f"{{file: {file}}}"):
        path.write_text(f"{SMALLEST}policies: {said}\n")
        found.append(load(path, env={"D": "${env:X}"}))
    assert found[0] == found[1]
    policies = found[0].policies
    assert (policies.file, policies.default_drop, policies.metrics[0].drop) == (file, ("pod",), ("${env:X}",))
    assert policies.metrics[0].attributes == {"b": "c*"}
    path.write_text(f"{SMALLEST}policies: {{{POLICIES.strip().replace(chr(10), ', ')}}}\n")
    inline = load(path, env={"D": "${env:X}"}).policies
    assert inline.version == policies.version and policies.version.startswith("7+")
    write(found[0], path)
    file.unlink()
    assert load(path, env={}).policies == inline


def test_faults_of_a_policies_file_name_its_lines_along_with_all_others(tmp_path: Path) -> None:
    """Both files' faults are reported at once, each with its own file, line, key and what would be right."""
    file, path = tmp_path / "policies.yaml", tmp_path / "catchment.yaml"
    file.write_text(
        "default_drops: [a]\nfile: x\nmetrics:\n- {match: a}\n- {match: b, reach: moon}\n"
        "- {match: c, drop_metric: perhaps}\n"
    )
    path.write_text(f"region: X\npolicies:\n  file: {file}\n  reach: global\n")
    with pytest.raises(ConfigFaults) as caught:
        load(path)
    assert sorted(line.removeprefix(f"{tmp_path}/") for line in caught.value.faults) == [
        "catchment.yaml:1: region: 'X' is not a region's name; expected 1 to 40 of a-z, 0-9 and -",
        f"catchment.yaml:4: policies.reach: the policies stand in {file}; move it there",
        "policies.yaml:1: default_drops: unknown key; did you mean default_drop?",
        "policies.yaml:2: file: this is that file; remove it",
        f"policies.yaml:4: metrics[0]: {NOTHING}",
        "policies.yaml:5: metrics[1].reach = 'moon': expected one of cluster, region, global",
        "policies.yaml:6: metrics[2].drop_metric = 'perhaps': expected true or false",
    ]


def test_the_reach_of_metrics_is_read_and_written_back() -> None:
    """A policy's reach, and that of an entry, survive the trip through a file; an entry without one has none."""
    config = read("policies: {reach: region, metrics: [{match: sli.*, reach: global}, {match: a, keep: [b]}]}")
    assert config.policies.reach is Reach.REGION
    assert [rule.reach for rule in config.policies.metrics] == [Reach.GLOBAL, None]
    assert mapping_of(config)["policies"]["metrics"][0]["reach"] == "global"
    assert config.policies.version != read("").policies.version
