"""docs/drops.md, generated: every reason under which something is counted in ``pipeline_drops``.

``python -m collectors.reference`` prints it; a test holds the file against it.
"""

from __future__ import annotations

from collectors.reasons import HISTOGRAM_COARSENED, MEANING, SUM_OVERFLOW, Reason

_HEAD = """# What `pipeline_drops` counts

Generated from the code: `python -m collectors.reference > docs/drops.md`.

Everything that did not make it, or made it with a remark, is counted by tier, lane, reason and unit, and travels up the
same way as the rows it is missing from. `SELECT reason, unit, sum(count) FROM pipeline_drops GROUP BY ALL` is the whole
account of a tenant.
"""

_REQUESTS = {
    "undecodable": "400: the body is not what its content type says, or cannot be decompressed",
    "request_too_large": "413: beyond request_bytes_max, request_bytes_uncompressed_max or request_points_max. gRPC"
    " messages beyond request_bytes_max are refused by the library and not counted",
    "unsupported_content": "415: content type or encoding that is not served",
    "unauthenticated": "401: no token where one is needed, or an unknown one; under the collector's own cluster",
    "unknown_path": "404: no such receiver; counted under the collector's own cluster",
    "not_post": "405: counted under the collector's own cluster",
    "pushed_back": "503 with Retry-After: a limit is reached; the sender was told to come back, so nothing is lost yet",
    "rate_limited": "429 with Retry-After: its tenant sends more than `rates` allow; nothing is lost yet",
    "internal_error": "500: trouble of our own; the sender was not told that its data is safe",
    "unreadable_in_replay": "an acknowledged request that a younger, stricter program could not read again; kept in the"
    " quarantine of the inbox only if its bytes were damaged",
}

_ROWS = {
    SUM_OVERFLOW: "a sum of fractions left the range of a float (1.8e308): the row is infinite or NaN from there on;"
    " counted once, by the tier where it first happened",
    HISTOGRAM_COARSENED: "a histogram of more intervals than histogram_intervals_max: they are wider from there on, so"
    " that quantiles are less exact; counts and sums are not",
}

_OTHER_TIERS = {
    "undecodable (tier aggregator)": "a message of the log that failed a check; it is in the region's dead letters",
    "other reasons (tier store)": "a message that the loader put aside, by the check that failed",
}


def reference() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    sorts = (
        ("Refused points", "The sender is told by a partial success.", range(1, 40)),
        ("Skipped points", "They carry nothing to add; senders are not bothered.", range(40, 60)),
        ("Notes on accepted points", "They count; something should be known about them.", range(60, 80)),
    )
    for title, text, codes in sorts:
        parts.append(f"## {title}\n\n{text}\n\n{_table({r.text: MEANING[r] for r in Reason if r in codes})}")
    parts.append(f"## Refused requests (unit `requests`)\n\n{_table(_REQUESTS)}")
    parts.append(f"## Rows (unit `rows`, tiers collector and aggregator)\n\n{_table(_ROWS)}")
    parts.append(f"## Other tiers (unit `messages`)\n\n{_table(_OTHER_TIERS)}")
    return "\n".join(parts)


def _table(meanings: dict[str, str]) -> str:
    rows = "".join(f"| `{reason}` | {meaning} |\n" for reason, meaning in meanings.items())
    return f"| reason | meaning |\n| --- | --- |\n{rows}"


if __name__ == "__main__":
    print(reference(), end="")
