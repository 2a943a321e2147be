"""Tokens that the engine remembers of inserts that never came to be; mended before the engine opens the folder.

For each part the engine writes a record (the token's block) to ``deduplication_logs`` and *then* renames the part into
place. A process that is killed in between leaves a record without rows: the replay with the same token, which has to
bring the rows, would be taken for a repetition and dropped. Such a record is revoked here, in the engine's own words.

Rules:

1. Only while the engine is not running, by who holds the folder's lock, and at each start: later the part's number is
   given to another part, and the record can no longer be told apart.
2. A record is good when its part is there, or one that was merged from it: same partition, and a range of block
   numbers that holds its own. Records of parts that expired are revoked too; that is harmless, their rows are gone.
3. A torn last line is cut: its part was not renamed either.

Layout, of the engine (26.x): ``store/<xxx>/<uuid>/`` is a table, its parts are folders
``<partition>_<first block>_<last block>_<level>[_<mutation>]``; a line of
``deduplication_logs/deduplication_log_<n>.txt`` is ``operation TAB part TAB block id``, where operation 1 remembers and
2 forgets.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

_ADD, _DROP = "1", "2"
_PART = re.compile(r"(?P<partition>[^_]+)_(?P<first>\d+)_(?P<last>\d+)_\d+(_\d+)?")
_LOG = re.compile(r"deduplication_log_(\d+)\.txt")

# (first, last) block numbers by partition.
Ranges = dict[str, list[tuple[int, int]]]


def revoke_orphans(engine_folder: Path) -> int:
    """Revoke the records of parts that are not there, in all tables below the engine's folder.

    Returns:
        How many were revoked.

    Raises:
        OSError: a file cannot be read or written.
    """
    return sum(_revoke(folder.parent) for folder in engine_folder.glob("store/*/*/deduplication_logs"))


def orphans(records: dict[str, str], ranges: Ranges) -> dict[str, str]:
    """Of the records in force (block id → part name) those whose part is in none of the ranges on disk."""
    return {block: part for block, part in records.items() if not _is_there(part, ranges)}


def in_force(lines: list[str]) -> dict[str, str]:
    """Block id → part name, after all operations in order."""
    records: dict[str, str] = {}
    for line in lines:
        operation, part, block = line.split("\t")
        if operation == _ADD:
            records[block] = part
        else:
            records.pop(block, None)
    return records


def _is_there(part: str, ranges: Ranges) -> bool:
    match = _PART.fullmatch(part)
    if match is None:
        return True  # not a name that we know how to judge
    first, last = int(match["first"]), int(match["last"])
    return any(low <= first and last <= high for low, high in ranges.get(match["partition"], ()))


def _revoke(table: Path) -> int:
    logs = sorted(
        (int(match[1]), path)
        for path in (table / "deduplication_logs").iterdir()
        if (match := _LOG.fullmatch(path.name))
    )
    if not logs:
        return 0
    newest = logs[-1][1]
    _cut_torn_line(newest)
    lines = [line for _, path in logs for line in path.read_text("utf-8").splitlines()]
    found = orphans(in_force(lines), _ranges(table))
    if found:
        with newest.open("a", encoding="utf-8") as file:
            file.writelines(f"{_DROP}\t{part}\t{block}\n" for block, part in found.items())
            file.flush()
            os.fsync(file.fileno())
    return len(found)


def _ranges(table: Path) -> Ranges:
    ranges: Ranges = defaultdict(list)
    for path in table.iterdir():
        match = _PART.fullmatch(path.name)
        if match is not None:
            ranges[match["partition"]].append((int(match["first"]), int(match["last"])))
    return ranges


def _cut_torn_line(log: Path) -> None:
    content = log.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(log, whole)
