"""Policies as a text to keep, and back: a program that comes later may have to do as they said."""

from __future__ import annotations

import dataclasses
import json

from catchment.config_build import build, mapping_of
from catchment.config_policies import Policies
from catchment.config_yaml import Surroundings, parse
from catchment.errors import Invalid


def text_of(policies: Policies) -> str:
    """JSON that `policies_of` reads back to equal policies, but for the file that they came from."""
    return json.dumps(mapping_of(dataclasses.replace(policies, file=None)), sort_keys=True)


def policies_of(text: str) -> Policies:
    """Policies from a text.

    Raises:
        Invalid: it is none, or says what this program does not know.
    """
    around = Surroundings("policies", {}, str)
    policies = build(Policies, parse(text.replace("$", "$$"), around), around)
    if around.faults:
        raise Invalid(f"policies cannot be read: {'; '.join(around.faults)}")
    return policies
