"""What an answer of a target is taken for, before it goes to the inbox."""

from __future__ import annotations

import pytest

from collectors.scrape.record import Reading, Record
from collectors.scrape.relabel import Rule
from collectors.scrape.survey import Surveyor


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
