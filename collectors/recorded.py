"""What a collector's folder still holds of the requests of the last minutes, read beside a collector that runs, or not.

Nothing is locked and nothing is written. Segments that a flush has consumed are kept as spares for a while
(``limits.inbox_spare_bytes_max``), and a small collector fills one segment in hours, so there is more than what no
flush has taken yet. What is overwritten meanwhile fails its checksum and is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from catchment.errors import CatchmentError
from collectors.inbox_format import Valid, scan, seed_of
from collectors.records import Received


def recorded(folder: Path, since_ns: int) -> Iterator[Received]:
    """The requests received since then, in the order of the inbox.

    Args:
        folder: the collector's.
        since_ns: UTC.

    Raises:
        CatchmentError: there is no inbox, or it cannot be read.
    """
    inbox = folder / "inbox"
    try:
        seed = seed_of((inbox / "id").read_text("utf-8").split()[-1])
        segments = sorted([*inbox.glob("*.log"), *inbox.glob("*.spare")])
    except (OSError, IndexError) as error:
        raise CatchmentError(f"no inbox of a collector can be read there: {error}", folder=str(inbox)) from error
    for segment in segments:
        try:
            yield from _of_segment(segment, since_ns, seed)
        except FileNotFoundError:
            continue  # it was trimmed just now
        except OSError as error:
            raise CatchmentError(f"inbox cannot be read: {error.strerror}", file=str(segment)) from error


def _of_segment(segment: Path, since_ns: int, seed: int) -> Iterator[Received]:
    with segment.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        # Nothing in a file is younger than the file.
        if not segment.stem.isdigit() or status.st_mtime_ns < since_ns:
            return
        base = int(segment.stem)

        def read(position: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, position - base)

        for found in scan(read, base, base + status.st_size, seed):
            if isinstance(found, Valid) and found.received.received_ns >= since_ns:
                yield found.received
