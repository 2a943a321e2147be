"""Exposition text is cut into samples, whatever its spacing, and what is no sample is reported."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors.decode.attributes import Unreadable
from collectors.decode.labels import labels_of
from collectors.decode.lines import Lines, cut

NAN = math.nan


def rows(lines: Lines) -> list[tuple[bytes, float, float]]:
    """Series, value and timestamp of each sample; NaN as None would be."""
    return [
        (lines.series[i].as_py().strip(b" \t"), float(lines.value[i]), float(lines.timestamp[i]))
        for i in range(len(lines))
    ]


def same(left: list[tuple[bytes, float, float]], right: list[tuple[bytes, float, float]]) -> bool:
    """Equal, NaN to NaN."""
    return repr(left) == repr(right)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a 1", ("a", 1.0, NAN)),
        ('a{b="c d"} 2 1700000000000', ('a{b="c d"}', 2.0, 1.7e12)),
        (' a{b="x"} 3', ('a{b="x"}', 3.0, NAN)),
        ('a{b="}"} 4', ('a{b="}"}', 4.0, NAN)),
        ('a{b="#"} 5', ('a{b="#"}', 5.0, NAN)),
        ('a{b="} 1 # {x"} 5', ('a{b="} 1 # {x"}', 5.0, NAN)),
        ('a{b="\\"} 9"}\t6\t17', ('a{b="\\"} 9"}', 6.0, 17.0)),
        ("a\t7", ("a", 7.0, NAN)),
        ("a 1\t9", ("a", 1.0, 9.0)),
        ("a  1   9  ", ("a", 1.0, 9.0)),
        ('a {b="c"} 1', ('a {b="c"}', 1.0, NAN)),
        ('a{b="c"}1', ('a{b="c"}', 1.0, NAN)),
        ("a +Inf", ("a", math.inf, NAN)),
        ("a -Inf -5", ("a", -math.inf, -5.0)),
        ("a NaN", ("a", NAN, NAN)),
        ("a nan", ("a", NAN, NAN)),
        ("a 1e-3", ("a", 0.001, NAN)),
        ("a +1.5E+3", ("a", 1500.0, NAN)),
        ('{"utf.8 name", "x y"="z"} 10', ('{"utf.8 name", "x y"="z"}', 10.0, NAN)),
        ("a{} 12", ("a{}", 12.0, NAN)),
    ],
)
def test_lines(line: str, expected: tuple[str, float, float]) -> None:
    """Fields are found with any spacing, and whatever stands in labels."""
    lines = cut(f"before 0\n{line}\n# a comment\n\nafter 0\n".encode())
    series, value, timestamp = expected
    whole = [(b"before", 0.0, NAN), (series.encode(), value, timestamp), (b"after", 0.0, NAN)]
    assert same(rows(lines), whole)
    assert not len(lines.malformed)


@pytest.mark.parametrize(
    "line",
    [
        "nothing",
        "a one",
        "a 1 two",
        "a 1 NaN",
        "a 1 stale",
        "a  1 +Inf",
        "a 1_0",
        "a 0x10",
        'a{b="c"} 1 2 3',
        "a 1 # x",
        'a 1 # {x="y"}',
        "a 1,5",
        "a\x001",
        "a \u00e9",
    ],
)
def test_malformed_lines(line: str) -> None:
    """A line that is no sample is reported with its place and hurts no other."""
    lines = cut(f"before 0\n{line}\nafter 0\n".encode())
    assert [series for series, _, _ in rows(lines)] == [b"before", b"after"]
    assert lines.malformed.tolist() == [len("before 0\n")]


def test_bytes_that_are_not_utf8() -> None:
    """They are kept where lines are plain and reported where they are not; labels then refuse them."""
    lines = cut(b'a{b="\xff"} 1\na{b="\xff"}  2\nb \xff\nc 3\n')
    assert [series for series, _, _ in rows(lines)] == [b'a{b="\xff"}', b"c"]
    assert len(lines.malformed) == 2
    with pytest.raises(Unreadable):
        labels_of(b'a{b="\xff"}')


def test_exemplars() -> None:
    """An exemplar belongs to its sample, with its own timestamp or none."""
    text = 'a 1\nb{c="d"} 8 17 # {trace_id="ab"} 0.5 1.5\nc 2 # {} 3\nd 1\n'
    lines = cut(text.encode())
    assert [series for series, _, _ in rows(lines)] == [b"a", b'b{c="d"}', b"c", b"d"]
    assert lines.exemplar_row.tolist() == [1, 2]
    assert lines.exemplar_labels == ['{trace_id="ab"}', "{}"]
    assert lines.exemplar_value.tolist() == [0.5, 3.0]
    assert repr(lines.exemplar_timestamp.tolist()) == "[1.5, nan]"


def test_declarations() -> None:
    """A sample belongs to the last type before it, also where lines of both sorts mix."""
    lines = cut(
        b"a 1\n# TYPE b counter\n# UNIT b seconds\n# HELP b is b\nb 1\nb  2\n# TYPE c gauge\nc 1\n#TYPE d gauge\nd 1\n"
    )
    assert lines.type.tolist() == [-1, 0, 0, 1, 1]
    assert lines.unit.tolist() == [-1, 0, 0, 0, 0]
    assert lines.types.lines.to_pylist() == [b"# TYPE b counter", b"# TYPE c gauge"]
    assert lines.units.lines.to_pylist() == [b"# UNIT b seconds"]


def test_nothing() -> None:
    """Texts without samples have none."""
    for text in (b"", b"\n", b"\n\n", b"# EOF\n", b"# TYPE a gauge\n", b"   \n"):
        lines = cut(text)
        assert len(lines) == 0
        assert not len(lines.malformed)


label_text = st.text(st.sampled_from('ab }{"#\\,=\n\té'), max_size=6)
samples = st.lists(
    st.tuples(
        st.from_regex(r"[a-z_:][a-z0-9_:]{0,5}", fullmatch=True),
        st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,3}", fullmatch=True), label_text, max_size=3),
        st.floats(allow_nan=False),
        st.none() | st.integers(0, 10**13),
        st.sampled_from((" ", "\t", "  ")),
    ),
    max_size=8,
)


@given(samples)
@settings(deadline=None)
def test_what_was_written_is_read(written: list[tuple[str, dict[str, str], float, int | None, str]]) -> None:
    """Any labels, values and timestamps come back as they were, whatever stands around them."""
    text, expected = "", []
    for name, labels, value, timestamp, space in written:
        escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
        inside = ",".join(f'{k}="{v}"' for k, v in escaped.items())
        text += f"{name}{{{inside}}}" if labels else name
        text += f"{space}{'+Inf' if value == math.inf else '-Inf' if value == -math.inf else repr(value)}"
        text += "\n" if timestamp is None else f"{space}{timestamp}\n"
        expected.append(({"__name__": name, **labels}, value, NAN if timestamp is None else float(timestamp)))
    lines = cut(text.encode())
    assert not len(lines.malformed)
    read = [
        (labels_of(lines.series[i].as_py()), float(lines.value[i]), float(lines.timestamp[i]))
        for i in range(len(lines))
    ]
    assert repr(read) == repr(expected)


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("a", {"__name__": "a"}),
        ("a{}", {"__name__": "a"}),
        ("a{ }", {"__name__": "a"}),
        ('a{b="c",}', {"__name__": "a", "b": "c"}),
        ('a { b = "c" , d = "e" }', {"__name__": "a", "b": "c", "d": "e"}),
        ('a{b="x\\ny\\\\z\\"w"}', {"__name__": "a", "b": 'x\ny\\z"w'}),
        ('{"my.name"}', {"__name__": "my.name"}),
        ('{"my.name", "a b"="c", d="e"}', {"__name__": "my.name", "a b": "c", "d": "e"}),
        ('{__name__="a"}', {"__name__": "a"}),
    ],
)
def test_labels(written: str, labels: dict[str, str]) -> None:
    """Labels in every way in which they may be written."""
    assert labels_of(written.encode()) == labels


@pytest.mark.parametrize(
    "written",
    [
        "",
        "{}",
        "a{",
        "a}",
        "a{b}",
        'a{b="c"',
        'a{b="c"}x',
        'a{b="c" d="e"}',
        'a{b="c",b="d"}',
        'a{"x"}',
        "9a",
        'a{9b="c"}',
        "a-b",
        "a{b=c}",
        "a{,}",
        'a{b="c",,}',
    ],
)
def test_labels_that_are_none(written: str) -> None:
    """What is no series is refused."""
    with pytest.raises(Unreadable):
        labels_of(written.encode())
