"""What an answer of a target is taken for, before it goes to the inbox."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.scrape.record import Reading, Record
from collectors.scrape.relabel import Rule
from collectors.scrape.survey import NOTHING, Survey, Surveyor


@pytest.mark.parametrize(
    ("text", "is_exposition"),
    [
        (b"", True),
        (b"# nothing yet\n", True),
        (b"level 1\n", True),
        (b"nonsense\nlevel 1\n", True),
        (b"nonsense\n", False),
        (b"<html>\n<td> 1\n</html>\n", False),
    ],
)
def test_exposition_or_not(text: bytes, is_exposition: bool) -> None:
    """An answer without lines is one, and so is one sample, also where relabelling drops it; a page of HTML is none."""
    reading = Reading({"job": "api"}, rules=(Rule("drop", ("__name__",), regex="level"),))
    survey = Surveyor(1000).survey(Record(1, reading.line(), b"", text, b""))
    assert survey.is_exposition is is_exposition


_LINES = (
    "# TYPE a gauge",
    "# TYPE a counter",
    "# TYPE a {}",
    "# UNIT a_seconds {}",
    "# HELP a of {}",
    "a {}",
    "a {} {}",
    "a  {}",
    "a {} {} {}",
    'a{{b="c {}"}} {}',
    'a{{b="c"}} {}',
    'a{{b="c"}} {} # {{t="u"}} {} {}',
    "b {}.",
    "b",
    "{}",
    "",
    "\t{}",
)
_NUMBERS = ("1", "2", "-0.5", "+3e9", "1e999", ".5", "NaN", "+Inf", "stale", "x", "1_0", "0x1")


@given(
    st.lists(st.tuples(st.sampled_from(_LINES), st.sampled_from(_LINES), st.booleans()), max_size=5),
    st.lists(st.tuples(*[st.sampled_from(_NUMBERS)] * 15), min_size=2, max_size=2),
    st.sampled_from([("\n", "\n"), ("\n", ""), ("", "")]),
)
def test_an_answer_that_differs_in_numbers_alone_is_not_read_again(
    lines: list[tuple[str, str, bool]], numbers: list[tuple[str, ...]], ends: tuple[str, str]
) -> None:
    """Whatever an answer holds, its survey is the same whether or not the one before it was there to compare with."""
    surveyor, reading = Surveyor(1000), Reading({"job": "api"}).line()
    records = [
        Record(1, reading, b"", ("\n".join(chosen).format(*[*each, *each]) + end).encode(), b"")
        for chosen, each, end in zip(
            ([one for one, _, _ in lines], [other if is_other else one for one, other, is_other in lines]),
            numbers,
            ends,
            strict=True,
        )
    ]
    before = surveyor.survey(records[0])
    known, afresh = surveyor.survey(records[1], before), surveyor.survey(records[1])
    for name in ("samples", "kept", "is_exposition"):
        assert getattr(known, name) == getattr(afresh, name)
    for name in ("keys", "gauges"):
        assert getattr(known, name).tolist() == getattr(afresh, name).tolist()
    assert known.ended(NOTHING) == afresh.ended(NOTHING)


def test_what_is_not_read_again() -> None:
    """Values and times of samples are not looked at; a sample that gets a time or another label is."""
    surveyor, reading = Surveyor(1000), Reading({"job": "api"}).line()

    def survey(text: bytes, before: Survey = NOTHING) -> Survey:
        return surveyor.survey(Record(1, reading, b"", text, b""), before)

    before = survey(b"# TYPE a gauge\na 1\nb 2 3\n")
    assert survey(b"# TYPE a gauge\na -5.5e9\nb 5 6\n", before) is before
    for text in (
        b"# TYPE a gauge\na 1 1\nb 2 3\n",
        b"# TYPE a gauge\na 1\nb 2\n",
        b'# TYPE a gauge\na{b="1"} 1\nb 2 3\n',
    ):
        assert survey(text, before).gauges.tolist() != before.gauges.tolist()
    for one, other in ((b"a 1 1", b"a 1 1e999"), (b"a NaN 5", b"a NaN"), (b"a 5", b"a"), (b"a 1", b"a 1" + b"0" * 400)):
        known = survey(one + b"\n")
        assert survey(other + b"\n", known) is not known
    odd = survey(b"# TYPE a 1\na 1\n")
    assert survey(b"# TYPE a 2\na 1\n", odd).gauges.tolist() != odd.gauges.tolist()
