"""Metrics of several processes as one exposition: every sample gets a label that says whose it is."""

from __future__ import annotations

from collections.abc import Sequence


def merged(sources: Sequence[tuple[str, bytes]]) -> bytes:
    """Merge Prometheus texts (format 0.0.4); each family stands once, its samples labelled ``role``.

    Args:
        sources: (role, text) of each process.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for role, text in sources:
        family, seen = "", set(heads)
        for line in text.decode("utf-8").splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                samples.setdefault(family, [])
                if family not in seen:
                    heads.setdefault(family, []).append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, role))
    lines = [line for family in samples for line in (*heads.get(family, ()), *samples[family])]
    return "".join(f"{line}\n" for line in lines).encode()


def _labelled(sample: str, role: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{role="{role}",{rest}'
    name, _, rest = sample.partition(" ")
    return f'{name}{{role="{role}"}} {rest}'
