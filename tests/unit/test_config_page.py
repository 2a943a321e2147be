"""The page of configuration keys stays what the code reads."""

from pathlib import Path

from catchment.cli.config_page import page


def test_the_page_is_generated() -> None:
    """docs/configure.md is what the configuration is today."""
    assert Path("docs/configure.md").read_text() == page()
