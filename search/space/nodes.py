"""The nodes of a parsed space: fixed values, searched values, and groups of both.

`draw` walks the nodes and asks `pick` for each searched one that it meets, so a branch that is not taken is never
asked about: this is what makes a space define-by-run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None
Path: TypeAlias = tuple[str, ...]  # in the YAML: ("model", "head", "choice", "upernet", "channels")


@dataclass(frozen=True)
class Fixed:
    path: Path
    value: Any


@dataclass(frozen=True)
class Range:
    path: Path
    parameter: str
    kind: Literal["float", "int", "log"]
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    path: Path
    parameter: str
    items: tuple[Any, ...]  # scalars, or lists of scalars

    @property
    def stored(self) -> dict[Scalar, Any]:
        """The value that Optuna stores for an item -> the item. Categories are scalars, so a list is kept as JSON."""
        return {json.dumps(item) if isinstance(item, list) else item: item for item in self.items}


@dataclass(frozen=True)
class Branches:
    path: Path
    parameter: str
    bodies: Mapping[str, Node]  # groups, each with its `name`; or, in a table of models, a row's node


@dataclass(frozen=True)
class Group:
    path: Path
    children: Mapping[str, Node]


Searched: TypeAlias = Range | Choice | Branches
Node: TypeAlias = Fixed | Searched | Group
Pick: TypeAlias = Callable[[Searched], Any]  # a number, an item, or a branch's name


def draw(node: Node, pick: Pick) -> Any:
    """The plain value of a node; `pick` chooses the searched values."""
    if isinstance(node, Fixed):
        return node.value
    if isinstance(node, Group):
        return {key: draw(child, pick) for key, child in node.children.items()}
    picked = pick(node)
    return draw(node.bodies[picked], pick) if isinstance(node, Branches) else picked


def searched(node: Node) -> Iterator[Searched]:
    """Every searched node, in every branch. A parameter that branches share comes once for each."""
    if isinstance(node, Range | Choice | Branches):
        yield node
    for child in node.children.values() if isinstance(node, Group) else ():
        yield from searched(child)
    for body in node.bodies.values() if isinstance(node, Branches) else ():
        yield from searched(body)
