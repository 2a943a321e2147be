"""The read-only guard: which SQL a reader may hand to the engine. Pure: text in, a `Statement` or a refusal out.

The engine in this process may write and may read local files, and its own ``readonly=1`` stops neither ``file()`` nor
``INTO OUTFILE`` nor the table name of a path in the database ``default`` (tried with 26.9). So a statement must pass:

1. `parse` cuts it into tokens by the engine's lexical rules (comments, strings, quoted names, heredocs). It must be
   one statement; what different versions of the engine lex differently is refused, never guessed.
2. `store.sql_tree.check_tree` looks at the tree that the engine's own parser makes of it (``EXPLAIN AST``, which runs
   nothing): there a name stands as the engine understood it, whatever its spelling.
3. SHOW and EXISTS, whose tree hides their conditions, may not contain brackets at all.
4. The trailing SETTINGS are cut off and returned, so that nobody's SETTINGS stand beside the locked ones; inner ones
   are returned, too, and counted against the tree, so that no spelling of them is overlooked. A clause must be read to
   its very end: the engine knows more spellings (``SETTINGS a = 1, b``, ``SETTINGS a = 1., b = 2``).

The engine then runs it with ``readonly=1``, the second wall.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from store.engine.port import EngineError

SYNTAX_ERROR = 62
UNKNOWN_DATABASE = 81
READONLY = 164
ACCESS_DENIED = 497
NOT_IMPLEMENTED = 48
_NAMES = {
    SYNTAX_ERROR: "SYNTAX_ERROR",
    UNKNOWN_DATABASE: "UNKNOWN_DATABASE",
    READONLY: "READONLY",
    ACCESS_DENIED: "ACCESS_DENIED",
}


def words(text: str) -> frozenset[str]:
    """The set of words in a text: how the long lists of names of the guard are written."""
    return frozenset(text.split())


DENIED_FUNCTIONS = words(
    "file url urlcluster s3 s3cluster gcs oss cosn hdfs hdfscluster remote remotesecure cluster clusterallreplicas "
    "mysql postgresql mongodb redis sqlite odbc jdbc bigquery executable python input filesystem filecluster loop "
    "merge dictionary eval viewexplain viewifpermitted fuzzquery fuzzjson arrowstream ytsaurus azureblobstorage "
    "azureblobstoragecluster hudi deltalake iceberg paimon joinget joingetornull hascolumnintable showcertificate trap "
    "catboostevaluate addresstoline addresstolinewithinlines addresstosymbol airedact aisimilarity aifilter aiclassify "
    "aiembed aiextract aigenerate aitranslate"
)
"""Functions that reach files, sockets, other processes or the insides of this one (lower case)."""

_KINDS = {"select": "select", "with": "select", "from": "select", "show": "show", "exists": "exists"}
_KINDS |= {"describe": "describe", "desc": "describe", "explain": "explain"}
_WRITES = words(
    "insert create drop alter optimize kill system attach detach truncate rename exchange grant revoke set use backup "
    "restore move undrop delete update check watch begin commit rollback execute copy replace import assume parallel "
    "prune"
)
# What may follow a SETTINGS clause.
_AFTER_SETTINGS = words(") format settings union intersect except")
# What bytes that are not UTF-8 were decoded to.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Token:
    """A significant token: ``kind`` is word, quoted, string, number or symbol; ``text`` as written."""

    kind: str
    text: str
    start: int
    end: int

    def is_word(self, word: str) -> bool:
        """Whether it is this bare word, in any case."""
        return self.kind == "word" and self.text.lower() == word


@dataclass(frozen=True)
class Statement:
    """One statement that may be asked of the engine once its tree has passed `store.sql_tree.check_tree`.

    Attributes:
        kind: select, show, exists, describe, explain, or unknown (only the engine's parser can say what is wrong).
        sql: the statement without its trailing FORMAT, SETTINGS and semicolons.
        format: of its FORMAT clause; "" if there is none.
        settings: of its trailing SETTINGS clause, cut from ``sql``.
        inner_settings: of SETTINGS clauses that stay inside ``sql``, one per clause.
    """

    kind: str
    sql: str
    format: str
    settings: dict[str, str]
    inner_settings: list[dict[str, str]]


_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\n\r\f\v]+)
  | (?P<line_comment>--[^\n]*|\#[ !][^\n]*)
  | (?P<block_comment>/\*)
  | (?P<heredoc>\$\w*\$)
  | (?P<string>[xXbB]?'(?:[^'\\]|\\.|'')*')
  | (?P<quoted>"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
  | (?P<number>(?:0[xX][0-9a-fA-F_]+|\d[\d_]*)(?:\.\d[\d_]*)?(?:[eE][+-]?\d+)?(?![\w$]))
  | (?P<word>\w[\w$]*)
  | (?P<symbol>[-+*%()\[\]{},;.=<>!?:|@]|/(?![/*]))
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


_COMMENT_MARK = re.compile(r"/\*|\*/")


def tokenize(sql: str) -> Iterator[Token]:
    """The significant tokens of a text, one by one.

    Raises:
        EngineError: 62, an unclosed quote or comment, or a character that versions of the engine disagree about.
    """
    position = 0
    while position < len(sql):
        match = _TOKEN.match(sql, position)
        if match is None:
            raise refuse(
                SYNTAX_ERROR, f"Syntax error: failed at position {position + 1} ({sql[position : position + 20]!r})"
            )
        kind, end = str(match.lastgroup), match.end()
        if kind == "block_comment":
            end = _end_of_comment(sql, position)
        elif kind == "heredoc":
            end = sql.find(match.group(), end) + len(match.group())
            if end < match.end():
                raise refuse(SYNTAX_ERROR, f"Syntax error: failed at position {position + 1}: heredoc is not closed")
            kind = "string"
        if kind not in ("space", "line_comment", "block_comment"):
            yield Token(kind, sql[position:end], position, end)
        position = end


def _end_of_comment(sql: str, start: int) -> int:
    """Where the comment that opens at ``start`` ends; comments nest, as the engine's do."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(sql, start + 2):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    raise refuse(SYNTAX_ERROR, f"Syntax error: failed at position {start + 1}: multiline comment is not closed")


def parse(sql: str) -> Statement:
    """Cut a text into the one statement that it may be.

    Raises:
        EngineError: 62 (not one well-formed statement), 164 (it would write), 497 (it names what is not served).
    """
    first = next((token for token in tokenize(sql) if token.text != "("), Token("symbol", "", 0, 0))
    # Before the rest is looked at: the data that follows an INSERT may be anything.
    _refuse_write(first)
    if "\0" in sql or _SURROGATE.search(sql):
        raise refuse(SYNTAX_ERROR, "Syntax error: the query contains a zero byte or is not UTF-8")
    tokens = list(tokenize(sql))
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    if not tokens:
        raise refuse(SYNTAX_ERROR, "Syntax error: Empty query")
    if any(token.text == ";" and token.kind == "symbol" for token in tokens):
        raise refuse(SYNTAX_ERROR, "Syntax error: Multi-statements are not allowed")
    tokens, output_format, settings = _cut_tail(tokens)
    kind = _KINDS.get(first.text.lower(), "unknown") if first.kind == "word" else "unknown"
    _check_tokens(tokens, kind)
    inner = [_settings_at(tokens, index)[0] for index, _ in enumerate(tokens) if _opens_settings(tokens, index)]
    text = sql[tokens[0].start : tokens[-1].end]
    return Statement(kind, text, output_format, settings, inner)


def _refuse_write(first: Token) -> None:
    if first.kind != "word" or first.text.lower() not in _WRITES:
        return
    hint = ""
    if first.text.lower() in ("set", "use"):
        hint = "; give settings and the database as URL parameters, or SETTINGS in the query"
    raise refuse(READONLY, f"Cannot execute query in readonly mode: this endpoint reads only{hint}.")


def _cut_tail(tokens: list[Token]) -> tuple[list[Token], str, dict[str, str]]:
    """Take FORMAT and SETTINGS, in any order, off the end of a statement: one FORMAT, SETTINGS before and behind it."""
    output_format = ""
    settings: dict[str, str] = {}
    for _ in range(3):
        if len(tokens) > 2 and tokens[-2].is_word("format") and tokens[-1].kind == "word" and not output_format:
            output_format = tokens[-1].text
            tokens = tokens[:-2]
            continue
        start = next((i for i in range(len(tokens) - 1, 0, -1) if _opens_settings(tokens, i)), 0)
        if start == 0:
            break
        found, end = _settings_at(tokens, start)
        if end != len(tokens):
            break
        settings = found | settings
        tokens = tokens[:start]
    return tokens, output_format, settings


def _opens_settings(tokens: list[Token], index: int) -> bool:
    """Whether a SETTINGS clause with values begins here; a table or column of that name is not followed by ``x =``."""
    return (
        tokens[index].is_word("settings")
        and len(tokens) > index + 3
        and tokens[index + 1].kind in ("word", "quoted")
        and tokens[index + 2].text == "="
    )


def _settings_at(tokens: list[Token], index: int) -> tuple[dict[str, str], int]:
    """The settings of the clause at ``index``, and the index behind it.

    Raises:
        EngineError: 62, a value that is no literal, or something behind it that may be more of the clause.
    """
    settings: dict[str, str] = {}
    index += 1
    while True:
        name = _unquote(tokens[index].text)
        sign = "-" if len(tokens) > index + 3 and tokens[index + 2].text == "-" else ""
        at = index + 2 + len(sign)
        value = tokens[at]
        if value.kind not in ("number", "string", "word"):
            raise refuse(SYNTAX_ERROR, f"Syntax error: the value of setting '{name}' must be a literal")
        settings[name] = sign + _unquote(value.text)
        index = at + 1
        more = len(tokens) > index + 3 and tokens[index].text == "," and tokens[index + 2].text == "="
        if more and tokens[index + 1].kind in ("word", "quoted"):
            index += 1
            continue
        if index < len(tokens) and tokens[index].text.lower() not in _AFTER_SETTINGS:
            raise refuse(SYNTAX_ERROR, "Syntax error: settings must be written as SETTINGS name = value, name = value")
        return settings, index


def _unquote(text: str) -> str:
    """The content of a quoted token; escapes other than a doubled quote are refused, being a way to hide."""
    if text[:1] not in ("'", '"', "`"):
        return text
    inner = text[1:-1].replace(text[0] * 2, text[0])
    return re.sub(r"\\([\\'\"`/tnr0])", lambda m: {"t": "\t", "n": "\n", "r": "\r", "0": "\0"}.get(m[1], m[1]), inner)


def _check_tokens(tokens: list[Token], kind: str) -> None:
    """Refuse what the tree would not show: outfiles, functions by name, names written with escapes, SHOW conditions."""
    if not tokens:
        raise refuse(SYNTAX_ERROR, "Syntax error: Empty query")
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else Token("symbol", "", 0, 0)
        if token.is_word("into") and following.is_word("outfile"):
            raise refuse(READONLY, "Cannot execute query in readonly mode: INTO OUTFILE is not allowed.")
        if token.kind == "quoted" and ("\\" in token.text or "\n" in token.text):
            raise refuse(SYNTAX_ERROR, f"Syntax error: escape or line feed in a quoted name {token.text}")
        if token.kind in ("word", "quoted") and following.text == "(":
            check_function(_unquote(token.text))
        if token.is_word("apply"):
            for candidate in tokens[index + 1 : index + 3]:
                if candidate.kind in ("word", "quoted"):
                    check_function(_unquote(candidate.text))
        if kind in ("show", "exists"):
            if token.kind == "symbol" and token.text in "([{":
                raise refuse(
                    ACCESS_DENIED, f"Brackets are not allowed in {kind.upper()}: query the system tables instead."
                )
            if token.kind in ("word", "quoted") and _unquote(token.text).lower() == "default":
                raise refuse(ACCESS_DENIED, "Database default is not served; use catchment.")


def check_parameters(statement: Statement, parameters: Mapping[str, str]) -> None:
    """Refuse a name of several lines: the tree has a line for each node, and others would be put into it.

    Raises:
        EngineError: 62.
    """
    if any("\n" in value for value in parameters.values()) and any(
        token.is_word("identifier") for token in tokenize(statement.sql)
    ):
        raise refuse(SYNTAX_ERROR, "Syntax error: line feed in a parameter beside an Identifier")


def check_function(name: str) -> None:
    """Refuse a function of `DENIED_FUNCTIONS`, in any case.

    Raises:
        EngineError: 497.
    """
    if name.lower() in DENIED_FUNCTIONS:
        raise refuse(ACCESS_DENIED, f"Function '{name}' is not allowed for readers.")


def refuse(code: int, message: str) -> EngineError:
    """The error for a refusal of the guard."""
    return EngineError(code, _NAMES[code], message)
