"""A process that appends to an inbox for ever and prints what was acknowledged; the test kills it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

from collectors.inbox import Inbox
from collectors.records import Received

SPARE_BYTES_MAX = 8 << 20


def body_of(number: int) -> bytes:
    """The body of the request with this number: what its replay must show."""
    generator = random.Random(number)
    return generator.randbytes(generator.choice((0, 10, 1000, 100_000, 300_000)))


def main() -> None:
    """Append batches, the numbers going on from the argument, until killed."""
    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    inbox = Inbox.open(folder, segment_bytes=1 << 20, bytes_max=1 << 40, spare_bytes_max=SPARE_BYTES_MAX)
    while True:
        batch = [
            Received("metrics", "acme", str(n), "{}", "application/x-protobuf", "", n, "", body_of(n))
            for n in range(number, number + 1 + number % 5)
        ]
        ends = inbox.append(batch)
        number += len(batch)
        print(number, ends[-1], flush=True)


if __name__ == "__main__":
    main()
