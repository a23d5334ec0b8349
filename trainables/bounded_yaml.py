"""YAML as plain data, within bounds: a small file must not become a large tree, whatever its aliases say.

Every fault is a `yaml.YAMLError` with its place: text that is no YAML, a tree that is too deep or too large, an alias
that contains itself, a value that its tag does not fit (`2026-13-45`), a number that no 64-bit number holds, half a
surrogate pair.
"""

from __future__ import annotations

import math
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import yaml

MAX_BYTES = 2**18  # of a file; PyYAML takes about 3 s for them
MAX_EXPANDED = 2**20  # characters and nodes, with every alias written out
MAX_DEPTH = 60
MAX_DIGITS = 64  # of a number as it is written
INT64 = 2**63


def read_bounded(path: Path | Traversable) -> str:
    """The text of a YAML file. Raises ValueError for one that is too long, OSError, UnicodeDecodeError."""
    with path.open("rb") as file:
        raw: bytes = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 1024} KiB, the most that is read; is it the right file?")
    return raw.decode("utf-8-sig")


def load_yaml(text: str, loader: type[BoundedLoader] | None = None) -> Any:
    """The data of one document. Raises yaml.YAMLError."""
    reader = (loader or BoundedLoader)(text)
    try:
        return reader.get_single_data()
    finally:
        reader.dispose()


def why_not_yaml(error: yaml.YAMLError) -> str:
    """What is wrong in one line, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        mark = error.problem_mark or error.context_mark
        return error.problem + (f", in line {mark.line + 1}, column {mark.column + 1}" if mark else "")
    return " ".join(str(error).split())


class BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader within this module's bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._expanded: dict[int, int] = {}  # id of a node that is complete -> its size with its aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's, which calls it for every node; raises ComposerError where a bound is passed."""
        event = cast(yaml.Event, self.peek_event())  # type: ignore[no-untyped-call]
        mark, is_alias = event.start_mark, isinstance(event, yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _fault(f"values must be nested at most {MAX_DEPTH} deep; write a flatter one", mark)
        node = cast(yaml.Node, super().compose_node(cast(Any, parent), index))
        self._depth -= 1
        if not is_alias:
            self._expanded[id(node)] = 1 + self._size_of(node)
        elif id(node) not in self._expanded:
            raise _fault("an alias must not contain itself; write the value out", mark)
        if self._expanded[id(node)] > MAX_EXPANDED:
            raise _fault(
                f"with its aliases written out the value must have at most {MAX_EXPANDED} characters; use fewer", mark
            )
        return node

    def _size_of(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return len(node.value)
        if isinstance(node, yaml.MappingNode):
            return sum(self._expanded[id(key)] + self._expanded[id(value)] for key, value in node.value)
        return sum(self._expanded[id(item)] for item in node.value)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML's; raises ConstructorError for a scalar that is no value of its tag, or out of bounds."""
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        kind, shown = node.tag.rpartition(":")[2], f"{node.value!r:.60}"
        if kind in ("int", "float") and len(node.value) > MAX_DIGITS:
            raise _fault(f"a number must have at most {MAX_DIGITS} characters, got {shown}", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            reason = f" ({error})" if isinstance(error, ValueError) and kind == "timestamp" else ""
            raise _fault(f"{shown} is no {kind}{reason}; correct it, or put it in quotes", node.start_mark) from error
        if isinstance(value, int) and not -INT64 <= value < INT64:
            raise _fault(f"a whole number must fit 64 bits, got {shown}; use a smaller one", node.start_mark)
        if isinstance(value, float) and not math.isfinite(value):
            raise _fault(f"a number must be finite, got {shown}; leave the key out, or write one", node.start_mark)
        if isinstance(value, str) and not is_text(value):
            raise _fault(f"{shown} has half a surrogate pair, which is no character; write the text", node.start_mark)
        return value


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: half a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)
