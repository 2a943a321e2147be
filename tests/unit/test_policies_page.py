"""docs/policies.md stays true: its examples load, and it names every key of a rule."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from catchment.config import Config
from catchment.config_load import load_policies
from catchment.config_policies import MetricPolicy
from catchment.setting import key_of

_PAGE = Path("docs/policies.md").read_text("utf-8")
_EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL) if text.startswith("# policies.yaml")]


@pytest.mark.parametrize("number", range(4))
def test_an_example_is_taken(tmp_path: Path, number: int) -> None:
    """As a policies file of a collector with default resolution and flush."""
    file = tmp_path / "policies.yaml"
    file.write_text(_EXAMPLES[number])
    assert load_policies(file, Config()).metrics
    assert len(_EXAMPLES) == 4


def test_every_key_of_a_rule_is_explained() -> None:
    """Each has a line in one of the two tables."""
    missing = [key_of(field) for field in dataclasses.fields(MetricPolicy) if f"| `{key_of(field)}` |" not in _PAGE]
    assert missing == []
