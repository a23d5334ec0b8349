"""Checks that every recipe of a space is valid, by building examples before any is trained.

It tries the default, then every branch, item and end of range one at a time, then pairs within one section (a rule
may relate two fields) and those of RELATED. A recipe's own rules stay in `trainables.recipe` alone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from search.space.nodes import Branches, Choice, Group, Node, Path, Pick, Range, Searched, draw
from search.space.problems import nearest
from trainables.recipe.recipe import Recipe

ALREADY_TOLD = ("missing", "union_tag_not_found", "union_tag_invalid")  # by the parser, with the nearest name
# fields of different sections that a rule of the recipe relates: these pairs are tried too
RELATED = ({"frozen", "layer_decay"}, {"frozen", "grad_checkpointing"}, {"frozen", "drop_path"})
MAX_PAIRED = 24  # of a longer choice only the first and last items are tried with those of another
MAX_INT_PROBES = 64  # a longer range of whole numbers is tried at both ends and beside them


def middle(node: Searched) -> Any:
    """The default of a searched value: the first item or branch, the middle of a range (geometric for log)."""
    if isinstance(node, Choice):
        return node.items[0]
    if isinstance(node, Branches):
        return next(iter(node.bodies))
    if node.kind == "int":
        return (int(node.low) + int(node.high)) // 2
    centre = math.sqrt(node.low * node.high) if node.kind == "log" else (node.low + node.high) / 2
    return min(max(float(f"{centre:.4g}"), node.low), node.high)


def recipe_problems(root: Group, data: Mapping[str, Any] | None = None) -> list[str]:
    """One line per broken rule, with the YAML path. Takes milliseconds: no model is built.

    With the `data`, `image_sizes` of the training images (height, width) and `num_classes`, the rules that hold
    against them are tried too.
    """
    context = dict(data or {})
    found: dict[tuple[str, str], list[str]] = {}
    waiting: deque[dict[str, Any]] = deque([{}])
    tried: set[str] = set()
    together: dict[tuple[Path, str], tuple[dict[str, Any], Searched]] = {}
    while waiting:
        picks = waiting.popleft()
        for node in _try(root, picks, found, context):
            if node.parameter in tried:
                continue
            tried.add(node.parameter)
            together[node.path[:-1], node.parameter] = (picks, node)
            waiting.extend({**picks, node.parameter: value} for value in _edges(node))
    for left, right in itertools.combinations(together, 2):
        (picks, one), (more, other) = together[left], together[right]
        paired = (left[0] == right[0] and picks == more) or _are_related(one, other)
        if paired and not isinstance(one, Branches) | isinstance(other, Branches):
            for a, b in itertools.product(_few(_ends(one)), _few(_ends(other))):
                _try(root, {**picks, **more, one.parameter: a, other.parameter: b}, found, context)
    return [_one_line(where, messages) for (where, _), messages in found.items()]


def _are_related(one: Searched, other: Searched) -> bool:
    return {node.parameter.rpartition("/")[2] for node in (one, other)} in RELATED


def _try(
    root: Group, picks: Mapping[str, Any], found: dict[tuple[str, str], list[str]], context: dict[str, Any]
) -> list[Searched]:
    """The searched nodes that this recipe asked for; its problems go to `found`."""
    asked: list[Searched] = []

    def pick(node: Searched) -> Any:
        asked.append(node)
        return picks[node.parameter] if node.parameter in picks else middle(node)

    values = draw(root, pick)
    for _ in range(3):  # a faulty field hides its section's other rules, so look again without it
        try:
            Recipe.model_validate(values, context=context)
            break
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                _drop(values, _blamed(detail["loc"], detail["msg"]))
                if detail["type"] in ALREADY_TOLD:
                    continue
                where, text = _explain(dict(detail), root, lambda node: picks.get(node.parameter, middle(node)))
                messages = found.setdefault((where, detail["type"]), [])
                if text not in messages:
                    messages.append(text)
    return asked


def slow_operators(root: Group) -> list[str]:
    """One line per augmentation operator that may starve a GPU under some recipe."""

    def most(node: Searched) -> Any:
        if isinstance(node, Range):
            return node.high if node.kind != "int" else int(node.high)
        numbers = isinstance(node, Choice) and all(isinstance(item, int | float) for item in node.items)
        return max(_edges(node)) if numbers else middle(node)

    return Recipe.model_validate(draw(root, most)).augmentation.slow_operators()


def _blamed(loc: tuple[int | str, ...], message: str) -> list[str]:
    """Where in the recipe the fault lies. A rule over several fields begins with the field that it is about, one over
    several sections with the section and the field (`optimizer.layer_decay`)."""
    rule = re.match(r"Value error, (\w+(?:\.\w+)*)", message)
    return [*map(str, loc), *(rule.group(1).split(".") if rule else [])]


def _drop(values: dict[str, Any], loc: list[str]) -> None:
    inside: Any = values
    for key in loc[:-1]:
        if isinstance(inside, dict) and key in inside:
            inside = inside[key]
    if isinstance(inside, dict):
        inside.pop(loc[-1], None)


def _explain(detail: dict[str, Any], root: Group, pick: Pick) -> tuple[str, str]:
    """A pydantic error -> (YAML path, rule with value and remedy)."""
    kind, context = detail["type"], detail.get("ctx", {})
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    path, node = _follow(root, _blamed(detail["loc"], detail["msg"]), pick)
    if kind == "value_error":
        field = re.match(r"[\w.]+", message)  # `drop_path`, or `optimizer.layer_decay`: the path says it already
        if field and field.group().rpartition(".")[2] == path[-1]:
            message = message[field.end() :].strip()
        return ".".join(path), message
    where = ".".join(path)
    if kind == "int_from_float":
        remedy = f"; write {{int: [{math.ceil(node.low)}, {math.floor(node.high)}]}}" if isinstance(node, Range) else ""
        return where, f"must be a whole number, got {detail['input']!r}{remedy}"
    bound = context.get("le", context.get("ge"))
    if bound is not None:
        return where, f"{message}, got {detail['input']!r}; use {bound:g}"
    close = nearest(detail["input"], re.findall(r"'([^']*)'", context["expected"])) if kind == "literal_error" else ""
    return where, f"{message}, got {detail['input']!r}{close if 'did you mean' in close else ''}"


def _follow(root: Group, loc: list[str], pick: Pick) -> tuple[Path, Node | None]:
    """The YAML path of the node at a recipe's location, or of the nearest one above it."""
    node: Node = root
    path: Path = ()
    for key in loc:
        while isinstance(node, Branches):
            node = node.bodies[pick(node)]
        if isinstance(node, Group) and key in node.children:
            node = node.children[key]
            path = node.path
        elif isinstance(node, Group):
            path = node.path or (key,)  # pydantic names a union's member on the way; the space does not
    return path, node


def _edges(node: Searched) -> list[Any]:
    if isinstance(node, Choice):
        return list(node.items)
    if isinstance(node, Branches):
        return list(node.bodies)
    if node.kind == "int":
        low, high = int(node.low), int(node.high)
        few = high - low < MAX_INT_PROBES
        return list(range(low, high + 1)) if few else [low, low + 1, high - 1, high]
    return [node.low, node.low + 0.381966 * (node.high - node.low), node.high]  # one that is not a whole number


def _ends(node: Searched) -> list[Any]:
    return (
        [int(node.low), int(node.high)]
        if isinstance(node, Range) and node.kind == "int"
        else ([node.low, node.high] if isinstance(node, Range) else _edges(node))
    )


def _few(values: list[Any]) -> list[Any]:
    """The first and last of many: pairs of them all would take minutes."""
    return values if len(values) <= MAX_PAIRED else [*values[: MAX_PAIRED // 2], *values[-MAX_PAIRED // 2 :]]


def _one_line(where: str, messages: list[str]) -> str:
    more = len(messages) - 1
    return f"{where}: {messages[0]}" + (f" (and {more} more value{'s' if more > 1 else ''})" if more else "")
