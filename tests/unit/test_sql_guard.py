"""The read-only guard without an engine: tokens, statements, trees, settings, credentials, frames."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.access import Credentials, admit, is_loopback
from store.engine.port import EngineError
from store.readers import Reader
from store.sql_guard import parse, tokenize
from store.sql_settings import QueryLimits, engine_settings
from store.sql_tree import check_tree
from store.sql_wire import choose_encoding, compressed_blocks, decompress_blocks, native_blocks


def code_of(query: str) -> int:
    """The code with which `parse` refuses a query."""
    with pytest.raises(EngineError) as error:
        parse(query)
    return error.value.code


@pytest.mark.parametrize(
    ("sql", "tokens"),
    [
        ("a.1.2 x$y", ["a", ".", "1.2", "x$y"]),
        ("'it''s \\' ;' ;", ["'it''s \\' ;'", ";"]),
        ('`a``b` "c""d"', ["`a``b`", '"c""d"']),
        ("a -- b\nc", ["a", "c"]),
        ("a # b\nc", ["a", "c"]),
        ("a /* b /* c */ d */ e", ["a", "e"]),
        ("$x$ 'a /* $x$ b", ["$x$ 'a /* $x$", "b"]),
        ("x'41' 0xFF 1_000 1e-5", ["x'41'", "0xFF", "1_000", "1e-5"]),
    ],
)
def test_tokens_follow_the_engines_lexer(sql: str, tokens: list[str]) -> None:
    """Comments vanish, also nested; quotes, escapes and heredocs stay whole."""
    assert [token.text for token in tokenize(sql)] == tokens


@pytest.mark.parametrize("sql", ["'a", "`a", '"a', "/* a", "/* /* */", "$a$ b", "a \\G", "a // b", "#a", "‘a’", "$1"])
def test_what_lexers_disagree_about_is_refused(sql: str) -> None:
    """Unclosed quotes, smart quotes, lone dollars and doubtful comments are syntax errors, not guesses."""
    assert code_of(f"SELECT {sql}") == 62


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(text: str) -> None:
    """No text makes the guard raise anything but its refusal."""
    try:
        statement = parse(text)
    except EngineError as error:
        assert error.code in (62, 164, 497)
    else:
        assert statement.sql


@given(st.text(alphabet="'\"`\\;$a-*/# \n", max_size=40))
def test_tokens_cover_the_text(text: str) -> None:
    """Tokens come in order and do not overlap; what lies between them is space or comment."""
    try:
        tokens = list(tokenize(text))
    except EngineError:
        return
    position = 0
    for token in tokens:
        gap = text[position : token.start].strip()
        assert gap == "" or gap.startswith(("--", "/*", "#"))
        assert text[token.start : token.end] == token.text
        position = token.end


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1 FORMAT JSON;;", ("SELECT 1", "JSON", {})),
        ("SELECT 1 SETTINGS a = 1, b = 'x''y' FORMAT CSV", ("SELECT 1", "CSV", {"a": "1", "b": "x'y"})),
        ("SELECT 1 FORMAT CSV SETTINGS a = -1", ("SELECT 1", "CSV", {"a": "-1"})),
        ("SELECT 1 -- FORMAT CSV", ("SELECT 1", "", {})),
        ("SELECT a FROM settings", ("SELECT a FROM settings", "", {})),
        ("SELECT 'FORMAT CSV'", ("SELECT 'FORMAT CSV'", "", {})),
    ],
)
def test_tail_is_cut_off(sql: str, expected: tuple[str, str, dict[str, str]]) -> None:
    """FORMAT and SETTINGS at the end are returned beside the statement, in either order."""
    statement = parse(sql)
    assert (statement.sql, statement.format, statement.settings) == expected


def test_inner_settings_are_returned_and_stay() -> None:
    """SETTINGS inside are the caller's to check, and remain in the text."""
    statement = parse("SELECT * FROM (SELECT 1 SETTINGS a = 2) SETTINGS b = 3")
    assert (statement.settings, statement.inner_settings) == ({"b": "3"}, [{"a": "2"}])
    assert "a = 2" in statement.sql


@pytest.mark.parametrize("more", [", b, c = 2", ", b", ".,  c = 2", ".e1, c = 2", ", (c) = 2", " c = 2", ", c.d = 2"])
def test_settings_are_read_to_their_end(more: str) -> None:
    """Spellings of further settings that only the engine knows are refused, not overlooked."""
    assert code_of(f"SELECT (SELECT 1 SETTINGS a = 1{more})") == 62
    assert code_of(f"SELECT 1 SETTINGS a = 1{more} UNION ALL SELECT 2") == 62


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 62), (";", 62), ("-- only a comment", 62), ("SELECT 1; SELECT 2", 62), ("SELECT 'a\0b'", 62),
        ("DROP TABLE t", 164), ("(INSERT INTO t SELECT 1)", 164), ("INSERT INTO t FORMAT Native \udcff", 164),
        ("SELECT 1 INTO OUTFILE 'x'", 164), ("SELECT file('x')", 497), ("SELECT * APPLY(file)", 497),
        ("SHOW TABLES WHERE (1)", 497), ("EXISTS default.t", 497), ("SELECT `\\x61`", 62),
        ("SELECT 1 AS `a\n X`, `a\n X` IN parts", 62),
    ],
)  # fmt: skip
def test_statements_are_refused_by_their_text(query: str, code: int) -> None:
    """What the text alone shows is refused before the engine sees it."""
    assert code_of(query) == code


def tree(*lines: str) -> list[str]:
    """The lines of a SELECT's tree."""
    return ["SelectWithUnionQuery (children 1)", *lines]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["InsertQuery   (children 2)"], 164),
        (["ParallelWithQuery 2 SelectWithUnionQuery (children 2)"], 164),
        (tree("   InsertQuery  (children 1)"), 164),
        (tree(" TableExpression (children 1)", "  Function url (alias x) (children 1)"), 497),
        (tree(" TableExpression (children 1)", "  Function unheardOf (children 1)"), 497),
        (tree(" Function FILE (children 1)"), 497),
        (tree(" TableIdentifier default./etc/hosts"), 497),
        (tree(" TableIdentifier other.t (alias x)"), 497),
        (tree(" TableIdentifier system.stack_trace"), 497),
        (
            tree(
                " Function in (children 1)", "  ExpressionList", "   Identifier a", "   Identifier system.stack_trace"
            ),
            497,
        ),
        (tree(" Identifier default./etc/hosts"), 497),
        (tree(" Set"), 497),
    ],
)
def test_trees_that_reach_out_are_refused(lines: list[str], code: int) -> None:
    """The engine's own reading of a statement decides what it may touch."""
    with pytest.raises(EngineError) as error:
        check_tree(parse("SELECT 1"), lines)
    assert error.value.code == code


def test_tree_tells_the_tables() -> None:
    """Served tables pass, and are told with their databases."""
    lines = tree(
        " TableExpression (children 1)", "  TableIdentifier points (alias p)", "  Function numbers (children 1)"
    )
    assert check_tree(parse("SELECT 1"), lines) == {"catchment.points"}


def test_settings_are_locked_and_readonly_comes_last() -> None:
    """Limits are always there; a reader lowers them; readonly is set after all others."""
    limits = QueryLimits(memory_bytes_max=1000, execution_seconds_default=5, execution_seconds_max=10)
    assert list(engine_settings({}, limits))[-1] == "readonly"
    lowered = engine_settings({"max_memory_usage": "10", "max_execution_time": "7.5", "extremes": "1"}, limits)
    assert (lowered["max_memory_usage"], lowered["max_execution_time"], lowered["extremes"]) == ("10", "7.5", "1")
    assert engine_settings({}, limits)["max_execution_time"] == "5"
    for name, value in (("max_memory_usage", "1001"), ("max_execution_time", "10.5"), ("max_memory_usage", "inf")):
        with pytest.raises(EngineError) as error:
            engine_settings({name: value}, limits)
        assert error.value.code == 452


def test_anonymous_readers_are_served_on_loopback_only() -> None:
    """Without a user the peer must be on this machine, and must have asked for it by address or as localhost."""
    for peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"):
        assert admit(Credentials(), peer, "localhost:8123", {}) == Reader("default")
    for peer, host in (("10.0.0.1", ""), ("", ""), ("127.0.0.1", "evil.example"), ("::ffff:10.0.0.1", "")):
        with pytest.raises(EngineError) as error:
            admit(Credentials("default"), peer, host, {})
        assert error.value.code == 194
    assert not is_loopback("localhost")


def test_users_are_known_by_password_from_anywhere() -> None:
    """The right password opens, a wrong one and an unknown name get the same code; `default` can be a user, too."""
    users = {"alice": hashlib.sha256(b"secret").hexdigest().upper(), "default": hashlib.sha256(b"d").hexdigest()}
    assert admit(Credentials("alice", "secret"), "10.0.0.1", "db.example", users).name == "alice"
    for credentials in (Credentials("alice", "x"), Credentials("bob", "x"), Credentials("bob"), Credentials()):
        with pytest.raises(EngineError) as error:
            admit(credentials, "127.0.0.1", "", users)
        assert error.value.code == 516


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=4), st.sampled_from(["LZ4", "ZSTD", "NONE"]))
def test_compressed_blocks_come_back(parts: list[bytes], method: str) -> None:
    """What is compressed is decompressed to the same bytes."""
    assert decompress_blocks(b"".join(compressed_blocks(parts, method)), 1 << 20) == b"".join(parts)


@given(st.binary(max_size=200))
def test_broken_blocks_are_refused(data: bytes) -> None:
    """Garbage is refused with a code, never an exception of a library."""
    if not data:
        return
    with pytest.raises(EngineError) as error:
        decompress_blocks(data, 1 << 20)
    assert error.value.code in (40, 170, 271)


def test_checksum_is_clickhouses() -> None:
    """The frame of the byte ``a``, uncompressed, as ClickHouse's hash signs it (golden)."""
    frame = b"".join(compressed_blocks([b"a"], "NONE"))
    assert frame[16:] == b"\x02\x0a\x00\x00\x00\x01\x00\x00\x00a"
    assert len(frame) == 26
    assert frame[:16].hex() == GOLDEN_CHECKSUM


GOLDEN_CHECKSUM = "aae4a0ee4d2cda1f3680255803d4ec7a"


def test_native_frames_depend_on_the_revision() -> None:
    """From revision 54454 on each column has a flag; before it, none; an empty result is one block without rows."""
    buffers = (1).to_bytes(8, "little") + (2).to_bytes(8, "little") + (2).to_bytes(8, "little") + b"\x05\x06"
    info = b"\x01\x00\x02\xff\xff\xff\xff\x00"
    columns = [("a", "UInt8")]
    assert b"".join(native_blocks(buffers, columns, 54405)) == info + b"\x01\x02\x01a\x05UInt8\x05\x06"
    assert b"".join(native_blocks(buffers, columns, 54460)) == info + b"\x01\x02\x01a\x05UInt8\x00\x05\x06"
    assert b"".join(native_blocks(b"", columns, 54405)) == info + b"\x01\x00\x01a\x05UInt8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [("", ""), ("gzip, deflate", "gzip"), ("br;q=1, gzip;q=0", ""), ("lz4,zstd", "zstd"), ("identity", "")],
)
def test_encoding_is_chosen(accept: str, chosen: str) -> None:
    """The best that both sides speak, never one with weight 0."""
    assert choose_encoding(accept) == chosen
