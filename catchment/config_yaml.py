"""YAML text to a tree of nodes that remember their lines, with ``${…}`` expanded.

Rules:

1. Scalars stay text: the reader of a key knows its type, so ``region: no`` is the region "no" and not false.
2. ``${env:NAME}`` is an error if NAME is not set, ``${env:NAME:-default}`` then gives its default; ``${file:PATH}`` is
   the file's text without its last newline; ``$$`` is a dollar sign. What was expanded is not expanded again.
3. A key that stands twice in one mapping is a fault, since the last one would win silently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import yaml

_EXPANSION = re.compile(r"\$(?:(\$)|\{([^}]*)\})")
_NULLS = ("", "~", "null")


@dataclass(frozen=True)
class Scalar:
    """Text of a leaf; None is YAML's null."""

    text: str | None
    line: int


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True)
class Keys:
    """A mapping."""

    items: Mapping[str, Node]
    line: int


Node = Scalar | Items | Keys


@dataclass
class Surroundings:
    """What a file may refer to, and the faults found so far."""

    file: str
    env: Mapping[str, str]
    read_file: Callable[[str], str]
    faults: list[str] = field(default_factory=list)

    def fault(self, line: int, key: str, says: str) -> None:
        """Note one fault, with its place."""
        self.faults.append(f"{self.file}:{line}: {key}: {says}" if key else f"{self.file}:{line}: {says}")


def parse(text: str, around: Surroundings) -> Keys:
    """The tree of a file; what cannot be read is noted in ``around.faults``."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        around.fault(mark.line + 1 if mark else 1, "", f"not YAML: {problem}")
        return Keys({}, 1)
    if root is None:
        return Keys({}, 1)
    tree = _node(root, "", around)
    if not isinstance(tree, Keys):
        around.fault(1, "", "expected keys with values, such as `region: jp-east`")
        return Keys({}, 1)
    return tree


def _node(node: yaml.Node, path: str, around: Surroundings) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Items(tuple(_node(item, f"{path}[{i}]", around) for i, item in enumerate(node.value)), line)
    if isinstance(node, yaml.MappingNode):
        keys: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            where = f"{path}.{key}" if path else key
            if key in keys:
                around.fault(key_node.start_mark.line + 1, where, "stands twice; remove one")
            keys[key] = _node(value_node, where, around)
        return Keys(keys, line)
    if getattr(node, "style", None) is None and node.value in _NULLS:
        return Scalar(None, line)
    return Scalar(_expand(node.value, line, path, around), line)


def _expand(text: str, line: int, path: str, around: Surroundings) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        scheme, _, rest = match[2].partition(":")
        if scheme == "env":
            name, has_default, default = rest.partition(":-")
            if name in around.env:
                return around.env[name]
            if has_default:
                return default
            says = f"environment variable {name} is not set; set it or give ${{env:{name}:-default}}"
        elif scheme == "file":
            try:
                return around.read_file(rest).removesuffix("\n")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8 text"
                says = f"file {rest} cannot be read: {reason}"
        else:
            says = f"unknown expansion {match[0]}; expected ${{env:NAME}}, ${{env:NAME:-default}} or ${{file:PATH}}"
        around.fault(line, path, says)
        return ""

    return _EXPANSION.sub(one, text)
