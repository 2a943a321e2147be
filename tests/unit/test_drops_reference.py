"""The page of reasons stays what the code counts."""

from pathlib import Path

from collectors.reasons import MEANING, Reason
from collectors.reference import reference


def test_every_reason_has_a_meaning() -> None:
    """A reason that is counted can be looked up."""
    assert set(MEANING) == set(Reason) - {Reason.OK}


def test_the_page_is_generated() -> None:
    """docs/drops.md is what the code says today."""
    assert Path("docs/drops.md").read_text() == reference()
