"""Writes the golden envelopes of the versions that this program writes.

    python -m tests.golden.make

Run once when a lane's version rises; the files of earlier versions are never rewritten.
"""

from __future__ import annotations

from pathlib import Path

from catchment.columns import LANES
from catchment.envelope import encode, seal
from tests.golden.rows import ROWS
from tests.property.lane_rows import to_table

FOLDER = Path(__file__).parent


def main() -> None:
    """Write what does not exist yet."""
    for name, lane in LANES.items():
        path = FOLDER / f"envelope_v{lane.version}_{name}.arrow"
        if path.exists():
            continue
        table = to_table(ROWS[name], lane.columns)
        envelope = seal(
            name,
            table,
            tenant="acme",
            region="jp-east",
            producer="0123456789abcdef",
            sequence=42,
            policy_version="p1",
            digest=2**63 + 1,
        )
        path.write_bytes(encode(envelope))


if __name__ == "__main__":
    main()
