"""What bodies unpack to is told, so that a tenant pays for what it costs and not for how well it compresses."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from dataclasses import replace
from pathlib import Path

from catchment.errors import Invalid
from catchment.limits import Limits
from collectors.content import JSON, PROTOBUF
from collectors.inbox import Inbox
from collectors.intake import EdgeIntake, Pipeline
from tests import otlp
from tests.edge_harness import EdgeHarness, received

LIMITS = replace(Limits(), request_bytes_uncompressed_max=1 << 20)


def test_a_tenant_pays_for_what_its_bodies_unpack_to(tmp_path: Path) -> None:
    """Told is by how much a body is larger than as received: accepted, of JSON, or broken; of a plain one nothing."""
    good = otlp.body(otlp.gauge("level", otlp.number(1, 1.0, attributes={"note": "a" * 1_000})))
    blank = b"{" + b" " * 100_000 + b"}"
    bomb = gzip.compress(bytes(1 << 21))
    bodies = {
        "plain": (good, "", PROTOBUF, 0),
        "gzip": (gzip.compress(good), "gzip", PROTOBUF, len(good)),
        "json": (gzip.compress(blank), "gzip", JSON, len(blank)),
        "bomb": (bomb, "gzip", PROTOBUF, 1 << 20),
        "broken": (
            zlib.compress(bytes(1_000))[:-4],
            "deflate",
            PROTOBUF,
            1_000 * (len(zlib.compress(bytes(1_000))) - 4),
        ),
    }
    told: dict[str, int] = {}

    async def scenario() -> None:
        harness = EdgeHarness(limits=LIMITS)
        inbox = Inbox.open(tmp_path / "inbox", segment_bytes=1 << 20, bytes_max=1 << 24)
        intake = EdgeIntake(Pipeline(harness.edge, inbox, 0), LIMITS, lambda: "")
        intake.unpacked = lambda tenant, more_bytes: told.update({tenant: more_bytes})
        working = asyncio.create_task(intake.run())
        for name, (body, encoding, content_type, _) in bodies.items():
            request = replace(received(body, 2), tenant=name, content_encoding=encoding, content_type=content_type)
            try:
                await intake.submit(request)
            except Invalid:
                assert name in ("bomb", "broken")
        intake.close()
        await working
        inbox.close()

    asyncio.run(scenario())
    assert told == {name: size - len(body) for name, (body, _, _, size) in bodies.items() if size}
