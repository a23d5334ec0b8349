"""`points`: settings that are tried before anything is searched, such as the rows of a table of known good models.

Each point maps parameter names (as in trials.csv; `model/head` may stand for `model/head/name`) to values; parameters
that it leaves out take their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from search.space.nodes import Branches, Choice, Group, Searched, draw, searched
from search.space.problems import nearest
from search.space.recipe_checks import middle
from trainables.recipe.recipe import Recipe


def read_points(items: Any, root: Group, problems: list[str]) -> tuple[list[Mapping[str, Any]], list[dict[str, Any]]]:
    """The valid points, as written and as picks; each other one adds a line to `problems`."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        problems.append(f"points: must be a list of mappings from parameters to values, got {items!r}")
        return [], []
    known = {node.parameter for node in searched(root)}
    kept, points = [], []
    for position, item in enumerate(items):
        count = len(problems)
        point = _read_point(item, f"points[{position}]", root, known, problems)
        if len(problems) == count:
            kept.append(item)
            points.append(point)
    return kept, points


def _read_point(
    item: Mapping[str, Any], where: str, root: Group, known: set[str], problems: list[str]
) -> dict[str, Any]:
    picks: dict[str, Any] = {}
    for key, value in item.items():
        name = key if key in known else f"{key}/name"
        if name not in known:
            problems.append(f"{where}: {key!r} is not a searched parameter of this space{nearest(key, known)}")
        else:
            picks[name] = value
    asked: set[str] = set()

    def pick(node: Searched) -> Any:
        asked.add(node.parameter)
        value = picks.get(node.parameter, middle(node))
        if holds(node, value):
            return value
        problems.append(f"{where}: {node.parameter} must be {_legal(node)}, got {value!r}")
        return middle(node)

    count = len(problems)
    values = draw(root, pick)
    for name in sorted(set(picks) - asked):
        problems.append(f"{where}: {name} belongs to a branch that this point does not take; remove it")
    if len(problems) == count:
        try:
            Recipe.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = [where, *([".".join(map(str, fault["loc"]))] if fault["loc"] else [])]
            problems.append(": ".join([*place, fault["msg"].removeprefix("Value error, ")]))
    return picks


def holds(node: Searched, value: Any) -> bool:
    """Whether the node can take the value: a number, an item, or a branch's name."""
    if isinstance(node, Branches):
        return isinstance(value, str) and value in node.bodies
    if isinstance(node, Choice):
        return value in node.items
    whole = node.kind != "int" or isinstance(value, int)
    return isinstance(value, int | float) and not isinstance(value, bool) and whole and node.low <= value <= node.high


def _legal(node: Searched) -> str:
    if isinstance(node, Branches):
        return f"one of {', '.join(node.bodies)}"
    if isinstance(node, Choice):
        return f"one of {', '.join(map(str, node.items))}"
    return f"{'a whole number ' if node.kind == 'int' else ''}in [{node.low:g}, {node.high:g}]"
