"""The policies in force and those before that may still matter. Pure.

Rules:

1. What the inbox holds is replayed under the policies that it was taken under, so these are kept until a flush has
   consumed all of it. A change is a cut: everything before it is flushed under the old policies, or it is not made.
2. Policies that dropped metrics are kept ``memory_seconds`` longer. A stream that began while they were in force, and
   is kept now, begins with a baseline: what they dropped must not come back as one jump.
3. At most ``_KEPT_MAX`` are kept, the latest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from catchment.config_policies import Policies
from collectors.policy import Policy

_KEPT_MAX = 16


@dataclass(frozen=True)
class Kept:
    """Policies, and until when (ns, UTC) they were in force; 0 for those that are."""

    policies: Policies
    until_ns: int = 0

    @property
    def version(self) -> str:
        """Of the policies."""
        return self.policies.version


@dataclass(frozen=True)
class Past:
    """Policies of before, ready to be asked what they dropped."""

    policy: Policy
    until_ns: int

    def dropped(self, tenant: str, metric: str, attributes: Mapping[str, object], start_ns: int) -> bool:
        """Whether they dropped a stream that begins at ``start_ns``."""
        return start_ns <= self.until_ns and self.policy.decide(tenant, metric, attributes).kept is None


@dataclass(frozen=True)
class History:
    """Policies by when they ceased to be in force; the one in force is the last."""

    kept: tuple[Kept, ...]

    @property
    def in_force(self) -> Policies:
        """Those that requests are taken under."""
        return self.kept[-1].policies

    def find(self, version: str) -> Policies | None:
        """The policies of a version, if they are kept."""
        return next((each.policies for each in self.kept if each.version == version), None)

    def changed(self, policies: Policies, now_ns: int) -> History:
        """With other policies in force from now on."""
        before = [replace(each, until_ns=each.until_ns or now_ns) for each in self.kept]
        others = [each for each in before if each.version != policies.version]
        return History((*others[-(_KEPT_MAX - 1) :], Kept(policies)))

    def trimmed(self, now_ns: int, memory_seconds: int) -> History:
        """Without those that do not matter any more; nothing of before the last change is left to be replayed."""
        oldest_ns = now_ns - memory_seconds * 1_000_000_000
        return History(
            tuple(
                each
                for each in self.kept
                if not each.until_ns or (each.until_ns >= oldest_ns and Policy(each.policies).drops_any())
            )
        )

    def past(self, version: str) -> list[Past]:
        """Those that dropped metrics before the policies of a version came into force."""
        versions = [each.version for each in self.kept]
        before = self.kept[: versions.index(version)] if version in versions else ()
        return [Past(policy, each.until_ns) for each in before if (policy := Policy(each.policies)).drops_any()]
