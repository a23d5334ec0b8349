"""Finds and reads a space file and merges it with what it extends, its profile and the `--set` overrides.

Merging goes key by key into mappings; a search expression ({choice|float|int|log: ...}) replaces and is
replaced whole, and so is a head of another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from search.space.problems import SpaceProblems, nearest
from search.space.yaml_format import parse_yaml
from trainables.bounded_yaml import read_bounded
from trainables.files import user_path

SEARCH_KEYS = ("choice", "float", "int", "log")
NOT_OVERRIDDEN = ("extends", "profiles")


@dataclass(frozen=True)
class SpaceFile:
    name: str  # the file's stem
    tree: dict[str, Any]  # resolved: neither `extends` nor `profiles`
    profile: str | None  # the one that was applied
    profiles: tuple[str, ...]  # those that could be
    problems: tuple[str, ...]  # with the profile and the overrides; the tree's own are not looked for here


def is_search(value: object) -> bool:
    """Whether this is a search expression, and not a plain section."""
    return isinstance(value, dict) and any(key in value for key in SEARCH_KEYS)


def read_space_file(spec: str, *, profile: str | None = None, overrides: Sequence[str] = ()) -> SpaceFile:
    """The resolved tree of a space. Raises SpaceProblems: not found, not YAML, no such profile or base."""
    source = _find(spec, beside=None)
    name = Path(source.name).stem
    problems: list[str] = []
    tree = _with_base(_read(source, name), source, name)
    profiles = tree.pop("profiles", None) or {}
    if not isinstance(profiles, dict) or not all(isinstance(body, dict) for body in profiles.values()):
        raise SpaceProblems(name, ["profiles: must map a name to the sections that it overrides"])
    if profile is not None:
        if profile not in profiles:
            has = nearest(profile, profiles) if profiles else "; this space has no profiles"
            raise SpaceProblems(name, [f"profiles: unknown profile {profile!r}{has}"])
        body = dict(profiles[profile])
        problems += [
            f"profiles.{profile}.{key}: a profile cannot hold this; move it to the top of the file"
            for key in NOT_OVERRIDDEN
            if body.pop(key, None) is not None
        ]
        tree = merge(tree, body)
    for override in overrides:
        tree = apply_override(tree, override, problems)
    return SpaceFile(name, tree, profile, tuple(profiles), tuple(problems))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if not isinstance(old, dict) or not isinstance(value, dict) or _replaces(key, old, value):
            merged[key] = value
        else:
            merged[key] = merge(old, value)
    return merged


def _replaces(key: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    # heads share no parameters, so another head must not inherit the first one's
    other_head = key == "head" and "name" in new and old.get("name") != new["name"]
    return is_search(old) or is_search(new) or other_head


def shipped_spaces() -> list[str]:
    """File names in spaces/."""
    return sorted(item.name for item in resources.files("spaces").iterdir() if item.name.endswith(".yaml"))


def _find(spec: str, beside: Traversable | None) -> Traversable:
    try:
        path = user_path(spec)
    except ValueError as error:
        raise SpaceProblems(
            f"{spec!r:.80}", [f"{error}; give a path, or one of {', '.join(shipped_spaces())}"]
        ) from error
    local = beside.parent / path if isinstance(beside, Path) else path
    shipped = resources.files("spaces")
    candidates: list[Traversable] = [local]
    if not path.is_absolute() and len(path.parts) == 1:
        candidates += [shipped / spec, shipped / f"{spec}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise SpaceProblems(
        spec, [f"no such file, and no space of this name is shipped, got {spec!r}{nearest(spec, shipped_spaces())}"]
    )


def _read(source: Traversable, name: str) -> dict[str, Any]:
    try:
        text = read_bounded(source)
    except UnicodeDecodeError as error:
        raise SpaceProblems(name, [f"{source}: must be UTF-8 text, got {error}"]) from error
    except OSError as error:
        raise SpaceProblems(name, [f"{source}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise SpaceProblems(name, [f"{source}: cannot be read: {error}"]) from error
    tree = parse_yaml(text, str(source))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SpaceProblems(name, [f"{source}: must be a mapping at the top, got a {type(tree).__name__}"])
    return tree


def _with_base(tree: dict[str, Any], source: Traversable, name: str) -> dict[str, Any]:
    base_name = tree.pop("extends", None)
    if base_name is None:
        return tree
    if not isinstance(base_name, str):
        raise SpaceProblems(name, [f"extends: must be one file name, got {base_name!r}"])
    base_file = _find(base_name, beside=source)
    base = _read(base_file, name)
    if "extends" in base:
        raise SpaceProblems(
            name, [f"extends: goes one level, but {base_name} extends {base['extends']!r}; extend that file instead"]
        )
    return merge(base, tree)


def apply_override(tree: dict[str, Any], override: str, problems: list[str]) -> dict[str, Any]:
    """The tree with one `path.to.key=value` laid on it; what is wrong with that is added to the problems."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        problems.append(f"--set: must read path.to.key=value, got {override!r}")
        return tree
    if keys[0] in NOT_OVERRIDDEN:
        problems.append(f"--set {dotted}: cannot be set from the command line; edit the file or use --profile")
        return tree
    try:
        value = parse_yaml(text, f"--set {dotted}")
    except SpaceProblems as error:
        problems += error.problems
        return tree
    return _set(tree, keys, value, dotted, problems)


def _set(tree: dict[str, Any], keys: list[str], value: Any, dotted: str, problems: list[str]) -> dict[str, Any]:
    key, rest = keys[0], keys[1:]
    if not rest:
        return merge(tree, {key: value})
    inner = tree.get(key, {})
    if is_search(inner) and rest[0] not in SEARCH_KEYS:
        problems.append(
            f"--set {dotted}: {key} is searched, so {rest[0]!r} has no place in it; replace {key} whole, or go "
            f"through {key}.{next(iter(inner))}"
        )
        return tree
    inner = inner if isinstance(inner, dict) else {}  # a scalar gives way to a section
    return {**tree, key: _set(inner, rest, value, dotted, problems)}
