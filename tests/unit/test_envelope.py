"""The envelope: every version ever released is read, what fails a check is named, what is newer is told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.algebra.merge import merge
from catchment.columns import LANES
from catchment.envelope import ControlTotals, Envelope, decode, decode_header, encode, seal
from catchment.errors import Invalid, TooNew
from tests.golden.rows import ROWS
from tests.golden.versions import newer, rewritten, with_checksum
from tests.property.lane_rows import to_table

GOLDEN = Path(__file__).parent.parent / "golden"
START_NS = 1_763_900_040_000_000_000


def sealed(lane: str) -> Envelope:
    """An envelope of the golden rows of a lane."""
    table = to_table(ROWS[lane], LANES[lane].columns)
    return seal(lane, table, tenant="acme", region="jp-east", producer="p", sequence=1)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.arrow")), ids=lambda path: path.stem)
def test_golden_envelopes_are_read_for_ever(path: Path) -> None:
    """The committed bytes of each lane and version decode to the rows and header that they were written from."""
    version, lane = path.stem.removeprefix("envelope_v").split("_", 1)
    envelope = decode(path.read_bytes())
    header = envelope.header
    assert (header.lane, header.version, header.tenant, header.region) == (lane, int(version), "acme", "jp-east")
    assert (header.producer, header.sequence, header.policy_version) == ("0123456789abcdef", 42, "p1")
    widest = max(row["window_seconds"] for row in ROWS[lane])
    assert (header.window_start_ns_min, header.window_end_ns_max) == (START_NS, START_NS + widest * 10**9)
    points = sum(row.get("points", 0) for row in ROWS[lane])
    assert header.totals == ControlTotals(points, len(ROWS[lane]), 2**63 + 1)
    assert envelope.rows.schema.equals(LANES[lane].schema)
    assert envelope.rows.to_pylist(maps_as_pydicts="strict") == ROWS[lane]


def test_every_lane_has_its_golden_file() -> None:
    """No lane or version is released without one."""
    written = {path.stem for path in GOLDEN.glob("*.arrow")}
    wanted = {f"envelope_v{v}_{lane.name}" for lane in LANES.values() for v in range(1, lane.version + 1)}
    assert written == wanted


@pytest.mark.parametrize("lane", sorted(LANES))
def test_what_is_encoded_is_decoded(lane: str) -> None:
    """Header and rows survive the trip in every lane, from several chunks with dictionaries of their own too."""
    table = to_table(ROWS[lane], LANES[lane].columns)
    chunked = pa.concat_tables([table, to_table(ROWS[lane][:1], LANES[lane].columns)])
    envelope = seal(lane, chunked, tenant="acme", region="jp-east", producer="p", sequence=2, digest=9)
    again = decode(encode(envelope))
    assert again.header == envelope.header == decode_header(encode(envelope))
    assert again.rows.to_pylist() == chunked.to_pylist()


def test_an_empty_envelope_is_an_envelope() -> None:
    """No rows, no points, no window range."""
    rows = LANES["totals"].schema.empty_table()
    header = decode(encode(seal("totals", rows, tenant="t", region="r", producer="p", sequence=1))).header
    assert (header.totals, header.window_start_ns_min, header.window_end_ns_max) == (ControlTotals(), 0, 0)


def test_a_newer_version_is_too_new() -> None:
    """Version 2 of a lane, with header fields that we do not know, is TooNew, not Invalid."""
    data = newer(encode(sealed("totals")), "totals")
    for read in (decode, decode_header):
        with pytest.raises(TooNew, match="version 2"):
            read(data)


def test_an_unknown_reach_is_too_new() -> None:
    """What a newer version may want to do with cluster rows is not guessed; an envelope without a reach is global."""
    data = encode(sealed("metrics_cluster"))
    with pytest.raises(TooNew, match="reach 'planet'"):
        decode(rewritten(data, reach="planet"))
    assert decode(rewritten(data, reach="region")).header.reach == "region"
    golden = (GOLDEN / "envelope_v1_metrics_cluster.arrow").read_bytes()
    assert b"reach" not in golden and decode(golden).header.reach == "global"


def test_an_unknown_lane_is_too_new() -> None:
    """A lane that a later program added is held, not thrown away."""
    with pytest.raises(TooNew, match="dreams"):
        decode(rewritten(encode(sealed("totals")), lane="dreams"))


def test_unknown_header_fields_of_our_version_are_ignored() -> None:
    """A field that a later program added without raising the version does not matter."""
    assert decode(rewritten(encode(sealed("totals")), colour="blue")).rows.num_rows == 1


def test_a_flipped_bit_in_the_lane_name_is_invalid() -> None:
    """Damage must not pose as a newer version: that would hold a partition for ever."""
    data = encode(sealed("totals"))
    with pytest.raises(Invalid, match="checksum"):
        decode(data.replace(b'"lane":"totals"', b'"lane":"tptals"'))


@pytest.mark.parametrize(
    ("totals", "reason"),
    [
        ({"points": 6, "rows": 2, "digest": 0}, "1 rows where"),
        ({"points": 5, "rows": 1, "digest": 0}, "6 points where"),
    ],
)
def test_totals_that_do_not_add_up_are_invalid(totals: dict[str, int], reason: str) -> None:
    """A header that says other totals than its rows have is refused, with coordinates."""
    with pytest.raises(Invalid, match=reason) as caught:
        decode(rewritten(encode(sealed("totals")), totals=totals))
    assert caught.value.coordinates["sequence"] == 1


def test_another_schema_is_invalid() -> None:
    """Rows of another lane under this lane's name are refused."""
    envelope = sealed("drops")
    forged = Envelope(replace(envelope.header, lane="totals"), envelope.rows)
    with pytest.raises(Invalid, match="schema differs"):
        decode(encode(forged))


def test_nulls_where_the_schema_has_none_are_invalid() -> None:
    """A column that is not nullable has no nulls in the bytes either."""
    table = sealed("totals").rows
    holes = table.set_column(4, table.schema.field("points"), pa.array([None], pa.uint64()))
    header = replace(sealed("totals").header, totals=ControlTotals(0, 1, 0))
    with pytest.raises(Invalid, match="null"):
        decode(encode(Envelope(header, holes)))


@pytest.mark.parametrize("field", ["tenant", "sequence", "totals", "version"])
@pytest.mark.parametrize("value", [None, [], {"points": "x"}])
def test_a_header_of_wrong_types_is_invalid(field: str, value: object) -> None:
    """Fields of another type are refused where they are read, not where they are used."""
    with pytest.raises(Invalid):
        decode(rewritten(encode(sealed("totals")), **{field: value}))


@given(data=st.binary(max_size=300), checksum=st.booleans())
def test_random_bytes_are_invalid(data: bytes, checksum: bool) -> None:
    """Whatever the bytes, a decoder returns or raises Invalid or TooNew."""
    with pytest.raises((Invalid, TooNew)):
        decode(with_checksum(data) if checksum else data)


@given(lane=st.sampled_from(sorted(LANES)), position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_invalid(lane: str, position: float, bit: int) -> None:
    """A single flipped bit anywhere in an envelope, trailer included, is found."""
    data = bytearray(encode(sealed(lane)))
    data[int(position * len(data))] ^= 1 << bit
    with pytest.raises(Invalid):
        decode(bytes(data))


@given(lane=st.sampled_from(sorted(LANES)), cut=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_invalid(lane: str, cut: float) -> None:
    """An envelope that ends early is found."""
    data = encode(sealed(lane))
    with pytest.raises(Invalid):
        decode(data[: int(cut * len(data))])


@given(
    lane=st.sampled_from(sorted(LANES)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4),
)
def test_damage_under_a_right_checksum_is_contained(lane: str, flips: list[tuple[float, int]]) -> None:
    """What a broken writer sealed is Invalid or TooNew, or rows that can be merged and read: never a crash."""
    body = bytearray(encode(sealed(lane))[:-8])
    for position, bit in flips:
        body[int(position * len(body))] ^= 1 << bit
    try:
        envelope = decode(with_checksum(bytes(body)))
    except (Invalid, TooNew):
        return
    merged = merge(envelope.rows, LANES[envelope.header.lane].columns)
    assert merged.num_rows <= envelope.rows.num_rows == len(envelope.rows.to_pylist())
