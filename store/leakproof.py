"""Whether a query's conditions may be looked at before the rows of others are filtered out. Pure.

The engine searches its index with a reader's conditions on values of whatever rows are there, and computes functions
of them. A function that cannot fail tells nothing by that; one that can (``accurateCast(window_start, 'UInt8')``) fails
on somebody else's value. So, as PostgreSQL does for its row security: conditions are pushed down only in a statement
all of whose functions are leakproof. Any other is right all the same, only slower: the views are computed first.

Rules:

1. `LEAKPROOF` functions fail for no value of their arguments, only for their types; those of `OF_ONE` too, with one
   argument (a second one would be a time zone).
2. Those of `ON_CONSTANTS` may stand where no column is beneath them; of `BY_CONSTANT`, where the second argument is a
   literal. CAST makes the types of `_PLAIN_TYPE` only: with a Decimal even a comparison can overflow.
3. Any function may stand in what the outermost SELECT lists, groups or sorts by: that is computed after the views. But
   not under a name that a condition uses, which would make it a part of the condition.
4. `ARITHMETIC` on columns may not meet a tuple or an interval: ``window_start + (1, 2)`` is nothing that the index can
   compare with its own values, and to add an interval to a text is to read it as a time, which most texts are not. So
   ``window_start > now() - INTERVAL 1 HOUR`` is leakproof, ``window_start + INTERVAL 1 HOUR > now()`` is not.
5. What is not understood is not leakproof: kinds of nodes that are not in `_NODES`, and names or texts by which the
   lines of the tree could be read in two ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from store.sql_guard import Statement, tokenize, words

LEAKPROOF = words(
    "equals notequals less greater lessorequals greaterorequals isnull isnotnull and or not xor in notin exists "
    "startswith endswith if multiif coalesce ifnull nullif plus minus multiply divide negate abs greatest least "
    "lower upper length empty notempty concat map tuple lambda "
    "count countif sum sumif min minif max maxif avg avgif any anylast argmin argmax uniq uniqexact summap "
    "quantile quantileexact quantiles median grouparray groupuniqarray"
)

OF_ONE = words(
    "tostartofminute tostartoffiveminutes tostartoftenminutes tostartoffifteenminutes tostartofhour tostartofday "
    "tomonday tostartofmonth tostartofquarter tostartofyear toyear tomonth todayofmonth todayofweek tohour tominute "
    "tostring now today yesterday"
)

ON_CONSTANTS = words(
    "todate todatetime todatetime64 fromunixtimestamp fromunixtimestamp64milli fromunixtimestamp64micro "
    "fromunixtimestamp64nano parsedatetimebesteffort parsedatetime64besteffort tounixtimestamp cast _cast array intdiv "
    "toint32 toint64 touint32 touint64 tofloat64 tostartofinterval tostartofweek datetrunc date_trunc subtractseconds "
    "subtractminutes subtracthours subtractdays addseconds addminutes addhours adddays tointervalsecond "
    "tointervalminute tointervalhour tointervalday tointervalweek tointervalmonth tointervalyear"
)

BY_CONSTANT = words("like notlike ilike notilike arrayelement tupleelement")

ARITHMETIC = words("plus minus multiply divide negate abs")

_PLAIN_TYPE = re.compile(
    r"'(?:(?:Nullable|LowCardinality|Array)\()*"
    r"(?:String|U?Int(?:8|16|32|64)|Float(?:32|64)|Bool|Date|(?:Date32|DateTime|DateTime64)(?:\([\w ,/'+\\-]*\))?)\)*'"
)

_NODES = words(
    "SelectWithUnionQuery SelectIntersectExceptQuery SelectQuery ExpressionList Function Identifier Literal Asterisk "
    "QualifiedAsterisk TablesInSelectQuery TablesInSelectQueryElement TableExpression TableIdentifier TableJoin "
    "Subquery WithElement OrderByElement WindowDefinition Set Explain"
)
# What a column, and so a row, may be read through.
_READING = words("Identifier Asterisk QualifiedAsterisk TableIdentifier Subquery")
_LINE = re.compile(r"( *)(\w+)(?: ([^()]*?))?(?: \(alias ([^()]*)\))?(?: \(children \d+\))?")
# A literal's text may hold anything but a line's end; it cannot fail, whatever its name.
_LITERAL = re.compile(r"( *)(Literal) (.*)()")
# What would end a line of the tree; what would end a name in it.
_AMBIGUOUS = {"string": re.compile(r"[\n\r\\]"), "quoted": re.compile(r"[\n\r\\()]")}


# A tree that is larger or deeper is some attack's, or some program's that can wait.
_NODES_MAX = 20_000
_DEPTH_MAX = 500


@dataclass
class Node:
    """A node of the parser's tree.

    Attributes:
        head: its kind.
        name: e.g. of a function or column.
        alias: "" without one.
        is_listed: it belongs to what the outermost SELECT lists, groups or sorts by.
        children: in order.
        reads: it, or something beneath it, reads a column.
    """

    head: str
    name: str
    alias: str
    is_listed: bool = False
    children: list[Node] = field(default_factory=list)
    reads: bool = False


def is_leakproof(statement: Statement, lines: Sequence[str], parameters: Mapping[str, str]) -> bool:
    """Whether no condition of the statement can tell anything of rows that it does not get.

    Args:
        statement: as parsed.
        lines: what ``EXPLAIN AST`` of it answered.
        parameters: values of its ``{name:Type}``.
    """
    if len(lines) > _NODES_MAX:
        return False
    tokens = [token for token in tokenize(statement.sql) if token.kind in _AMBIGUOUS]
    if any(_AMBIGUOUS[token.kind].search(token.text) for token in tokens):
        return False
    if any(_AMBIGUOUS["quoted"].search(value) for value in parameters.values()):
        return False
    nodes = _read(lines)
    if nodes is None or any(node.head not in _NODES for node in nodes):
        return False
    return _conditions_hold(nodes)


def _read(lines: Iterable[str]) -> list[Node] | None:
    """All nodes, each before those beneath it; None if a line cannot be read."""
    nodes: list[Node] = []
    path: list[Node] = []
    for line in lines:
        match = _LITERAL.fullmatch(line) or _LINE.fullmatch(line)
        if match is None or len(match[1]) > _DEPTH_MAX:
            return None
        node = Node(match[2], match[3] or "", match[4] or "")
        del path[len(match[1]) :]
        if path:
            path[-1].children.append(node)
            node.is_listed = path[-1].is_listed and node.head != "SelectQuery"
        if node.head == "ExpressionList" and [above.head for above in path] == _OUTERMOST:
            node.is_listed = True
        path.append(node)
        nodes.append(node)
    for node in reversed(nodes):
        node.reads = node.head in _READING or any(child.reads for child in node.children)
    return nodes


_OUTERMOST = ["SelectWithUnionQuery", "ExpressionList", "SelectQuery"]


def _conditions_hold(nodes: Sequence[Node]) -> bool:
    """Rules 1 to 4."""
    functions = [node for node in nodes if node.head == "Function"]
    failing = [node for node in functions if not _cannot_fail(node)]
    if _may_be_conditions(_tuples_and_intervals(nodes), nodes):
        failing += [node for node in functions if node.name.lower() in ARITHMETIC and node.reads]
    return not _may_be_conditions(failing, nodes)


def _may_be_conditions(some: Sequence[Node], nodes: Sequence[Node]) -> bool:
    """Whether some of the nodes may be a part of a condition: are not listed, or have a name that a condition uses."""
    if not some:
        return False
    # A literal's line does not tell its name from its text.
    if not all(node.is_listed and " (alias " not in node.name for node in some):
        return True
    used = {node.name.rpartition(".")[2] for node in nodes if node.head == "Identifier" and not node.is_listed}
    return not used.isdisjoint(_tainted([node for node in nodes if node.is_listed], {id(node) for node in some}))


def _tuples_and_intervals(nodes: Sequence[Node]) -> list[Node]:
    """What makes a tuple or an interval, but for what has no name and is a side of IN."""
    sides = {
        id(side)
        for node in nodes
        if node.head == "Function" and node.name.lower() in ("in", "notin")
        for arguments in node.children
        for side in arguments.children
        if not side.alias and " (alias " not in side.name
    }
    return [
        node
        for node in nodes
        if id(node) not in sides
        and (
            (node.head == "Literal" and node.name.startswith("Tuple_"))
            or (node.head == "Function" and node.name.lower().startswith(("tuple", "tointerval")))
        )
    ]


def _cannot_fail(function: Node) -> bool:
    name = function.name.lower()
    arguments = function.children[0].children if function.children else []
    if name in ("cast", "_cast") and not (len(arguments) == 2 and _PLAIN_TYPE.fullmatch(arguments[1].name)):
        return False
    if name in ON_CONSTANTS:
        return not function.reads
    if name in BY_CONSTANT:
        return len(arguments) == 2 and arguments[1].head == "Literal"
    return name in LEAKPROOF or (name in OF_ONE and len(arguments) < 2)


def _tainted(listed: Sequence[Node], failing: set[int]) -> set[str]:
    """The names under which what can fail is listed, or what is listed under another name once more."""
    aliases = {node.alias for node in listed if node.alias}
    tainted: set[int] = set()
    for node in reversed(listed):
        is_renamed = node.head == "Identifier" and node.name in aliases
        if id(node) in failing or is_renamed or any(id(child) in tainted for child in node.children):
            tainted.add(id(node))
    return {node.alias for node in listed if node.alias and id(node) in tainted}
