"""Relabelling does what Prometheus' own tests of it ask for."""

from __future__ import annotations

import pytest

from collectors.scrape.relabel import Rule, compiled, relabelled

ABC = {"a": "foo", "b": "bar", "c": "baz"}


@pytest.mark.parametrize(
    ("labels", "rules", "expected"),
    [
        (
            ABC,
            [Rule(source_labels=("a",), regex="f(.*)", target_label="d", replacement="ch${1}-ch${1}")],
            ABC | {"d": "choo-choo"},
        ),
        (
            ABC,
            [
                Rule(source_labels=("a", "b"), regex="f(.*);(.*)r", target_label="a", replacement="b${1}${2}m"),
                Rule(source_labels=("c", "a"), regex="(b).*b(.*)ba(.*)", target_label="d", replacement="$1$2$2$3"),
            ],
            {"a": "boobam", "b": "bar", "c": "baz", "d": "boooom"},
        ),
        ({"a": "foo"}, [Rule(source_labels=("a",), regex=".*o.*", action="drop")], None),
        ({"a": "foo"}, [Rule(source_labels=("a",), regex="o", action="drop")], {"a": "foo"}),
        ({"a": "foo"}, [Rule(source_labels=("a",), regex="no-match", action="keep")], None),
        ({"a": "foo"}, [Rule(source_labels=("a",), regex="f.*", action="keep")], {"a": "foo"}),
        # Without a match nothing is replaced; with an empty replacement the label goes.
        ({"a": "foo"}, [Rule(source_labels=("a",), regex="x(.*)", target_label="b")], {"a": "foo"}),
        (
            {"a": "foo", "f": "baz"},
            [Rule(source_labels=("a",), regex="(f).*", target_label="$1", replacement="")],
            {"a": "foo"},
        ),
        ({"a": "foo"}, [Rule(target_label="d", replacement="static")], {"a": "foo", "d": "static"}),
        # Since Prometheus 3 a label may have any name but none.
        (
            {"a": "some-name-value"},
            [Rule(source_labels=("a",), regex="some-([^-]+)-([^,]+)", target_label="${1}.é", replacement="${2}")],
            {"a": "some-name-value", "name.é": "value"},
        ),
        (
            {"a": "some-name-value"},
            [Rule(source_labels=("a",), regex="some-([^-]+)-([^,]+)", target_label="${3}", replacement="${2}")],
            {"a": "some-name-value"},
        ),
        (
            ABC,
            [Rule(source_labels=("c",), target_label="d", separator=";", action="hashmod", modulus=1000)],
            ABC | {"d": "976"},
        ),
        (
            {"a": "foo\nbar"},
            [Rule(source_labels=("a",), target_label="b", action="hashmod", modulus=1000)],
            {"a": "foo\nbar", "b": "734"},
        ),
        (
            {"a": "foo\nbar"},
            [Rule(source_labels=("a",), target_label="b", regex="f(.*)r", replacement="$1")],
            {"a": "foo\nbar", "b": "oo\nba"},
        ),
        (
            {"a": "foo", "b1": "bar", "b2": "baz"},
            [Rule(regex="(b.*)", replacement="bar_${1}", action="labelmap")],
            {"a": "foo", "b1": "bar", "b2": "baz", "bar_b1": "bar", "bar_b2": "baz"},
        ),
        ({"a": "foo", "b1": "bar", "b2": "baz"}, [Rule(regex="(b.*)", action="labeldrop")], {"a": "foo"}),
        ({"a": "foo", "b1": "bar", "b2": "baz"}, [Rule(regex="(b.*)", action="labelkeep")], {"b1": "bar", "b2": "baz"}),
        (
            {"foo": "bAr123Foo"},
            [Rule(source_labels=("foo",), target_label="u", action="uppercase")],
            {"foo": "bAr123Foo", "u": "BAR123FOO"},
        ),
        (
            {"foo": "bAr123Foo"},
            [Rule(source_labels=("foo",), target_label="l", action="lowercase")],
            {"foo": "bAr123Foo", "l": "bar123foo"},
        ),
        (
            {"p": "1234", "q": "1234"},
            [Rule(source_labels=("p",), target_label="q", action="keepequal")],
            {"p": "1234", "q": "1234"},
        ),
        ({"p": "1234", "q": "5678"}, [Rule(source_labels=("p",), target_label="q", action="keepequal")], None),
        (
            {"p": "1234", "q": "5678"},
            [Rule(source_labels=("p",), target_label="q", action="dropequal")],
            {"p": "1234", "q": "5678"},
        ),
        ({"p": "1234", "q": "1234"}, [Rule(source_labels=("p",), target_label="q", action="dropequal")], None),
        # Go's templates: a name runs as far as it can, groups that are not there are empty.
        ({"a": "x"}, [Rule(source_labels=("a",), target_label="b", replacement="$1_y")], {"a": "x"}),
        ({"a": "x"}, [Rule(source_labels=("a",), target_label="b", replacement="${1}_y$$")], {"a": "x", "b": "x_y$"}),
        (
            {"a": "x"},
            [Rule(source_labels=("a",), regex="(?P<word>.*)", target_label="b", replacement="${word}!")],
            {"a": "x", "b": "x!"},
        ),
        ({"a": "", "b": "1"}, [], {"b": "1"}),
    ],
)
def test_actions(labels: dict[str, str], rules: list[Rule], expected: dict[str, str] | None) -> None:
    """Every action gives what Prometheus' own table of cases (model/relabel/relabel_test.go) says."""
    before = dict(labels)
    assert relabelled(labels, rules) == expected
    assert labels == before


def test_rules_survive_json() -> None:
    """A rule comes back from JSON as it was."""
    rule = Rule("hashmod", ("a", "b"), "@", "(x)", "t", "$1", 7)
    assert Rule.of_json(rule.as_json()) == rule


def test_a_regex_that_is_none() -> None:
    """What RE2 does not know is said, look-arounds among it."""
    with pytest.raises(ValueError, match="invalid perl operator"):
        compiled("(?=a)b")
