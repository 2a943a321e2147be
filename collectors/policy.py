"""Policy: which attributes of a stream make its series, how far its rows go, and which metrics are not kept at all.

Pure: (metric, attributes) → kept attributes, metric → reach. The former runs once for each stream that was never seen
before, the latter once for each metric of a flush, so they may be as plain as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase, translate
from functools import lru_cache

from catchment.config import Policies
from catchment.reach import Reach

# Names of attributes are few, and may be 4 KiB long each; beyond this a hostile sender only costs the matching.
_NAMES_REMEMBERED = 4096


class Policy:
    """The policies in force. The first entry that matches a metric decides; without one the default drop does."""

    def __init__(self, policies: Policies | None = None) -> None:
        self.policies = policies or Policies()
        self.version = self.policies.version
        self.reach = lru_cache(_NAMES_REMEMBERED)(self._reach)
        default = self.policies.default_drop
        self._default = _chooser((), default)
        self._rules = [
            (
                rule.match,
                None if rule.drop_metric else _chooser(rule.keep, (*(() if rule.keep else default), *rule.drop)),
            )
            for rule in self.policies.metrics
        ]

    def kept(self, metric: str, attributes: Mapping[str, object]) -> dict[str, object] | None:
        """The attributes that make the series of a stream, or None where the metric is dropped.

        Args:
            metric: the metric's name.
            attributes: the stream's: the point's and the resource's, merged.
        """
        is_kept = next((choose for match, choose in self._rules if fnmatchcase(metric, match)), self._default)
        if is_kept is None:
            return None
        return {name: value for name, value in attributes.items() if is_kept(name)}

    def _reach(self, metric: str) -> Reach:
        """How far the cluster rows of a metric go."""
        rule = next((rule for rule in self.policies.metrics if fnmatchcase(metric, rule.match)), None)
        return self.policies.reach if rule is None or rule.reach is None else rule.reach


def _chooser(keep: Sequence[str], drop: Sequence[str]) -> Callable[[str], bool]:
    """Whether an attribute stays: one of ``keep`` (all, if empty) and none of ``drop``, remembered by name."""
    kept, dropped = _one_of(keep), _one_of(drop)

    @lru_cache(_NAMES_REMEMBERED)
    def is_kept(name: str) -> bool:
        # What lost its name to a point's attribute is called resource.<name>: the pattern of <name> still means it.
        bare = name.removeprefix("resource.")
        return (not keep or kept.match(bare) is not None) and dropped.match(bare) is None

    return is_kept


def _one_of(globs: Sequence[str]) -> re.Pattern[str]:
    # "(?!)" matches nothing.
    return re.compile("|".join(translate(glob) for glob in globs) or "(?!)")
