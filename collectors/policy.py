"""Policy: which attributes of a stream make its series, and which metrics are not kept at all.

Pure: (metric, attributes) → kept attributes. It runs once for each stream that was never seen before, not for each
point, so it may be as plain as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from catchment.config import Policies


@dataclass(frozen=True)
class Policy:
    """The policies in force. The first entry that matches a metric decides; without one the default drop does."""

    policies: Policies = field(default_factory=Policies)

    @property
    def version(self) -> str:
        """Changes with the content."""
        return self.policies.version

    def kept(self, metric: str, attributes: Mapping[str, object]) -> dict[str, object] | None:
        """The attributes that make the series of a stream, or None where the metric is dropped.

        Args:
            metric: the metric's name.
            attributes: the stream's: the point's and the resource's, merged.
        """
        rule = next((rule for rule in self.policies.metrics if fnmatchcase(metric, rule.match)), None)
        if rule is None:
            return _without(attributes, self.policies.default_drop)
        if rule.drop_metric:
            return None
        if rule.keep:
            chosen = {name: value for name, value in attributes.items() if _matches(name, rule.keep)}
            return _without(chosen, rule.drop)
        return _without(attributes, (*self.policies.default_drop, *rule.drop))


def _without(attributes: Mapping[str, object], patterns: Sequence[str]) -> dict[str, object]:
    return {name: value for name, value in attributes.items() if not _matches(name, patterns)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    # What lost its name to a point's attribute is called resource.<name>: the pattern of <name> still means it.
    bare = name.removeprefix("resource.")
    return any(fnmatchcase(bare, pattern) for pattern in patterns)
