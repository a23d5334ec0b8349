"""Finds a recipe in a space: the values of the searched parameters that draw it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from search.space.initial_trials import holds
from search.space.nodes import Branches, Choice, Fixed, Group, Node, draw
from search.space.recipe_checks import middle
from trainables.recipe.recipe import Recipe

FREE = frozenset({"seed", "train.num_epochs"})  # of a run, not of what is searched
MAX_TOLD = 4
Picks = dict[str, Any]  # parameter -> number, item or branch


def locate(root: Group, recipe: Recipe) -> Picks:
    """The picks that draw the recipe, but for its seed and number of epochs.

    Raises ValueError, naming the values that lie outside, for a recipe that the space does not hold.
    """
    wanted = recipe.model_dump(mode="json")
    nearest: list[str] | None = None
    for picks in _candidates(root, wanted, {}):
        try:
            drawn = Recipe.model_validate(draw(root, lambda node, of=picks: of[node.parameter]))  # type: ignore[misc]
        except ValidationError:
            continue
        outside = _differences(wanted, drawn.model_dump(mode="json"))
        if not outside:
            return picks
        nearest = outside if nearest is None or len(outside) < len(nearest) else nearest
    told = nearest or [f"backbone.name {recipe.backbone.name!r}"]
    more = f" and {len(told) - MAX_TOLD} more" if len(told) > MAX_TOLD else ""
    raise ValueError(f"a space must hold a recipe's values, got none with {', '.join(told[:MAX_TOLD])}{more}")


def _candidates(node: Node, wanted: Any, picks: Picks) -> Iterator[Picks]:
    """Picks for every way to take branches of the names in `wanted`; what the node does not hold is at its default."""
    if isinstance(node, Fixed):
        yield picks
    elif isinstance(node, Group):
        yield from _of_children(list(node.children.items()), wanted if isinstance(wanted, Mapping) else {}, picks)
    elif isinstance(node, Branches):
        named = [name for name, body in node.bodies.items() if _may_be(body, wanted)] or list(node.bodies)
        for name in [picks[node.parameter]] if node.parameter in picks else named:
            yield from _candidates(node.bodies[name], wanted, {**picks, node.parameter: name})
    else:
        value = wanted if holds(node, wanted) else middle(node)
        yield picks if node.parameter in picks else {**picks, node.parameter: value}


def _of_children(children: list[tuple[str, Node]], wanted: Mapping[str, Any], picks: Picks) -> Iterator[Picks]:
    if not children:
        yield picks
        return
    (key, child), *rest = children
    for found in _candidates(child, wanted.get(key), picks):
        yield from _of_children(rest, wanted, found)


def _may_be(body: Node, wanted: Any) -> bool:
    """Whether a branch has the name that is wanted, as far as it has one."""
    name = body.children.get("name") if isinstance(body, Group) else None
    if isinstance(name, Fixed):
        return bool(name.value == wanted["name"])
    return not isinstance(name, Choice) or wanted["name"] in name.items


def _differences(wanted: Mapping[str, Any], drawn: Mapping[str, Any], above: str = "") -> list[str]:
    """'optimizer.lr 0.1' for each value of `wanted` that `drawn` has not."""
    found = []
    for key, value in wanted.items():
        path, other = f"{above}{key}", drawn.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            named = value.get("name") != other.get("name")  # the other keys of another head say nothing
            found += [f"{path}.name {value['name']!r}"] if named else _differences(value, other, f"{path}.")
        elif value != other and path not in FREE:
            found.append(f"{path} {value!r:.60}")
    return found
