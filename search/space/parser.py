"""Parses a plain tree into the nodes of a space and collects every problem on the way.

A value is itself or one of {choice|float|int|log: ...}. A section with a `name` is a name, a mapping, a choice between
names, or a choice between branches that bring their own keys.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from search.space.allowed_keys import Section, places_of
from search.space.nodes import Branches, Choice, Fixed, Group, Node, Path, Range
from search.space.problems import nearest, nearest_three
from search.space.space_file import SEARCH_KEYS, is_search

MAX_ITEMS = 500  # of a choice: each of them is checked


def parse_section(section: Section, tree: Any, path: Path, problems: list[str]) -> Group | Branches | None:
    """Nodes of a section. Problems go to `problems`; what is faulty is left out, so that the rest is still checked."""
    if section.has_name and is_search(tree):
        return _parse_named_choice(section, tree, path, problems)
    if section.has_name and isinstance(tree, str):
        tree = {"name": tree}
    if tree is None:
        tree = {}  # `augmentation:` with every line under it commented out
    if not isinstance(tree, dict):
        _add(problems, path, f"must be a mapping, got {tree!r}")
        return None
    if is_search(tree):
        _add(problems, path, f"is not searched as a whole; search its keys: {', '.join(section.keys)}")
        return None
    children: dict[str, Node] = {}
    keys = section.keys
    if section.has_name:
        name = parse_value(tree.get("name"), (*path, "name"), problems) if "name" in tree else None
        words = _names(name)
        if section.needs_name and "name" not in tree:
            _add(problems, path, f"must have a `name`, got {tree!r}")
        names = [word for word in words if _name_is_known(section, word, (*path, "name"), problems)]
        if name is not None and len(names) == len(words):
            children["name"] = name
        keys = section.under(names)
    for key, value in tree.items():
        if key == "name" and section.has_name:
            continue
        inside = keys.get(key)
        if inside is None:
            _unknown_key(key, path, [*keys, *(["name", "choice"] if section.has_name else [])], problems)
            continue
        node = _parse(inside, value, (*path, key), problems)
        if node is not None:
            children[key] = node
    return Group(path, children)


def _parse(inside: Section | FieldInfo, value: Any, path: Path, problems: list[str]) -> Node | None:
    if isinstance(inside, Section):
        return parse_section(inside, value, path, problems)
    return parse_value(value, path, problems)


def parse_value(value: Any, path: Path, problems: list[str]) -> Node | None:
    """A value, or a search expression for one."""
    if not isinstance(value, dict):
        return Fixed(path, value)
    if not is_search(value):
        key = next(iter(value), None)
        _add(problems, path, f"must be a value or one of {_forms()}, got {value!r}{nearest(key, SEARCH_KEYS)}")
        return None
    kind = _the_one_key(value, path, problems)
    if kind is None:
        return None
    if kind == "choice":
        return _parse_choice(value[kind], path, problems)
    return _parse_range(kind, value[kind], path, problems)


def _parse_choice(items: Any, path: Path, problems: list[str]) -> Choice | None:
    if isinstance(items, dict):
        _add(
            problems,
            path,
            "branches are allowed only where a name is chosen, such as model.head; write {choice: [...]} here",
        )
        return None
    if not isinstance(items, list) or not items:
        _add(problems, path, f"a choice must be a list with one item or more, got {items!r}")
        return None
    if len(items) > MAX_ITEMS:
        _add(problems, path, f"a choice must have at most {MAX_ITEMS} items, got {len(items)}; give a range, or fewer")
        return None
    flat = [inner for item in items for inner in (item if isinstance(item, list) else [item])]
    if any(isinstance(inner, dict | list) for inner in flat):
        _add(problems, path, f"a choice is between values or lists of values, got {items!r}")
        return None
    # equality, not identity: Optuna would take 1, 1.0 and true for the same category
    twice = [item for position, item in enumerate(items) if item in items[:position]]
    if twice:
        _add(problems, path, f"a choice must name each item once, got {twice[0]!r} again; remove it")
        return None
    return Choice(path, _parameter(path), tuple(items))


def _parse_range(kind: str, ends: Any, path: Path, problems: list[str]) -> Range | None:
    rule = f"{{{kind}: [low, high]}} must have two {'whole ' if kind == 'int' else ''}numbers, low below high"
    numbers = isinstance(ends, list) and len(ends) == 2 and all(_is_number(end, kind) for end in ends)
    if not numbers:
        _add(problems, path, f"{rule}, got {ends!r}")
        return None
    low, high = ends
    if low >= high:
        remedy = f"write {low} to fix it" if low == high else f"write [{high}, {low}]"
        _add(problems, path, f"{rule}, got {ends!r}; {remedy}")
        return None
    if kind == "log" and low <= 0:
        _add(problems, path, f"{{log: [low, high]}} must begin above 0, got {ends!r}; use {{float: ...}} or raise it")
        return None
    if kind == "int":
        return Range(path, _parameter(path), "int", low, high)
    return Range(path, _parameter(path), "log" if kind == "log" else "float", float(low), float(high))


def _parse_named_choice(section: Section, tree: Any, path: Path, problems: list[str]) -> Group | Branches | None:
    if _the_one_key(tree, path, problems) != "choice":
        if len(tree) == 1:
            _add(problems, path, f"is a name, not a number; write {{choice: [...]}}, got {tree!r}")
        return None
    options = tree["choice"]
    if not isinstance(options, dict):
        choice = _parse_choice(options, path, problems)
        if choice is None:
            return None
        known = [_name_is_known(section, name, (*path, "choice"), problems) for name in choice.items]
        return Group(path, {"name": choice}) if all(known) else None
    if not options:
        _add(problems, path, "a choice must have one branch or more, got {}")
    if len(options) > MAX_ITEMS:
        _add(problems, path, f"a choice must have at most {MAX_ITEMS} branches, got {len(options)}; leave some out")
        return None
    bodies: dict[str, Group] = {}
    for name, body in options.items():
        if not _name_is_known(section, name, (*path, "choice"), problems):
            continue
        parsed = parse_section(Section(section.under([name])), body, (*path, "choice", name), problems)
        if isinstance(parsed, Group):
            bodies[name] = Group(parsed.path, {"name": Fixed(parsed.path, name), **parsed.children})
    return Branches((*path, "choice"), f"{_parameter(path)}/name", bodies) if bodies else None


def _names(node: Node | None) -> tuple[str, ...]:
    if isinstance(node, Fixed):
        return (node.value,)
    return node.items if isinstance(node, Choice) else ()


def _name_is_known(section: Section, name: Any, path: Path, problems: list[str]) -> bool:
    if not isinstance(name, str):
        _add(problems, path, f"must be a name, got {name!r}")
        return False
    if section.check_name is not None:
        try:
            section.check_name(name)
        except ValueError as error:
            _add(problems, path, str(error))
            return False
    elif section.named is not None and name not in section.named:
        _add(problems, path, f"unknown name {name!r}{nearest_three(name, section.named)}")
        return False
    return True


def _the_one_key(value: Mapping[str, Any], path: Path, problems: list[str]) -> str | None:
    if len(value) == 1:
        return next(iter(value))
    _add(problems, path, f"a search expression has one key, {_forms()}, got {', '.join(value)}")
    return None


def _unknown_key(key: str, path: Path, known: list[str], problems: list[str]) -> None:
    if (*path, key) == ("train", "num_epochs"):
        _add(problems, (*path, key), "is set by search.max_epochs; move the value there")
        return
    belongs = [".".join(place) for place in places_of(key, path[:1])]
    elsewhere = f"; it belongs under {' or '.join(belongs)}" if 0 < len(belongs) <= 2 else ""
    _add(problems, (*path, key), f"unknown key{elsewhere or nearest(key, known)}")


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else int | float):
        return False
    return math.isfinite(value)


def _parameter(path: Path) -> str:
    return "/".join(key for key in path if key != "choice")


def _forms() -> str:
    return "{choice|float|int|log: ...}"


def _add(problems: list[str], path: Path, text: str) -> None:
    problems.append(f"{'.'.join(path)}: {text}")
