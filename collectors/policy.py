"""Policy: which attributes of a stream make its series, how its rows leave, and which streams are not kept at all.

Pure: (tenant, metric, attributes) → decision. It runs once for each stream that was not seen since the policies came
into force, so it may be as plain as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import lru_cache

from catchment.config_policies import MetricPolicy, Policies
from catchment.identity import canonical_attributes
from collectors.treatment import PLAIN, Treatment

# Names of attributes are few, and may be 4 KiB long each; beyond this a hostile sender only costs the matching.
_NAMES_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a stream.

    Attributes:
        kept: the attributes that make its series; None where it is dropped.
        treatment: of its rows.
        rule: the number of the rule that decided; -1 where none matched.
    """

    kept: dict[str, object] | None
    treatment: Treatment = PLAIN
    rule: int = -1


class Policy:
    """The policies in force. The first rule that matches a stream decides; without one the default drop does."""

    def __init__(self, policies: Policies | None = None) -> None:
        self.policies = policies or Policies()
        self.version = self.policies.version
        default = self.policies.default_drop
        self._default = _Rule(None, _chooser((), default), PLAIN)
        self._rules = [
            _Rule(
                rule,
                None if rule.drop_metric else _chooser(rule.keep, (*(() if rule.keep else default), *rule.drop)),
                Treatment(rule.reach, rule.resolution_seconds, rule.flush_seconds, rule.histogram_scale),
            )
            for rule in self.policies.metrics
        ]

    def decide(self, tenant: str, metric: str, attributes: Mapping[str, object]) -> Decision:
        """What becomes of a stream.

        Args:
            tenant: whose it is.
            metric: the metric's name.
            attributes: the stream's: the point's and the resource's, merged.
        """
        number, rule = next(
            ((number, rule) for number, rule in enumerate(self._rules) if rule.matches(tenant, metric, attributes)),
            (-1, self._default),
        )
        if rule.is_kept is None:
            return Decision(None, rule=number)
        kept = {name: value for name, value in attributes.items() if rule.is_kept(name)}
        return Decision(kept, rule.treatment, number)

    def drops_any(self) -> bool:
        """Whether there is a rule that drops metrics."""
        return any(rule.is_kept is None for rule in self._rules)


@dataclass(frozen=True)
class _Rule:
    """A rule, ready to be applied; ``is_kept`` is None where it drops the metric."""

    rule: MetricPolicy | None
    is_kept: Callable[[str], bool] | None
    treatment: Treatment

    def matches(self, tenant: str, metric: str, attributes: Mapping[str, object]) -> bool:
        rule = self.rule
        return (
            rule is not None
            and fnmatchcase(metric, rule.match)
            and (not rule.tenants or any(fnmatchcase(tenant, glob) for glob in rule.tenants))
            and all(
                name in attributes and fnmatchcase(_text(attributes[name]), glob)
                for name, glob in rule.attributes.items()
            )
        )


def _text(value: object) -> str:
    """An attribute's value as globs see it: a text as it is, others as in JSON."""
    return value if isinstance(value, str) else canonical_attributes({"": value})[4:-1]


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
