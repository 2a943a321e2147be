"""How many statements a SQL text holds: a pure scanner of ClickHouse's quoting and comments."""

from __future__ import annotations

import re

# Tokens inside which a semicolon ends no statement; what is unclosed runs to the end, where the engine reports it.
_SKIPPED = re.compile(
    r"""
      '(?:[^'\\]|\\.|'')*(?:'|\Z)
    | "(?:[^"\\]|\\.|"")*(?:"|\Z)
    | `(?:[^`\\]|\\.|``)*(?:`|\Z)
    | --[^\n]* | \#[ !][^\n]*
    | /\*.*?(?:\*/|\Z)
    | \$(\w*)\$.*?(?:\$\1\$|\Z)
    """,
    re.VERBOSE | re.DOTALL,
)


def is_single(sql: str) -> bool:
    """Whether ``sql`` is at most one statement; semicolons and comments may follow it."""
    bare = _SKIPPED.sub(lambda token: " " if token[0].startswith(("--", "#", "/*")) else "''", sql)
    _, _, rest = bare.partition(";")
    return not rest.strip(" \t\r\n\f\v;")
