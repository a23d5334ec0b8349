"""The YAML that spaces are written in: YAML 1.2's scalars, plain data only, no key twice.

What is written reads the same in YAML 1.1, the dialect of PyYAML and of most tools: `off` gets quotes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from search.space.problems import SpaceProblems
from trainables.bounded_yaml import BoundedLoader, load_yaml


def parse_yaml(text: str, where: str) -> Any:
    """Plain data from YAML 1.2 scalars. Raises SpaceProblems with line and column."""
    if unprintable := _Loader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, unprintable.start()) + 1
        column = unprintable.start() - text.rfind("\n", 0, unprintable.start())
        at = f"{where}:{line}:{column}"
        raise SpaceProblems(where, [f"{at}: not valid YAML: character {unprintable.group()!r}; remove it"])
    try:
        data = load_yaml(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise SpaceProblems(where, [f"{at}: not valid YAML: {error.problem or error.context}"]) from error
    problems: list[str] = []
    _check_plain(data, (), problems)
    if problems:
        raise SpaceProblems(where, problems)
    return data


def dump_yaml(tree: dict[str, Any]) -> str:
    """YAML that `parse_yaml` reads back as the same tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _check_plain(value: Any, path: tuple[str, ...], problems: list[str]) -> None:
    here = ".".join(path) or "top"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                problems.append(f"{here}: keys must be text, got {key!r}; put it in quotes")
            _check_plain(item, (*path, str(key)), problems)
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check_plain(item, (*path, str(position)), problems)
    elif not isinstance(value, str | int | float | None):
        problems.append(f"{here}: must be text, a number, true, false, null, a list or a mapping, got {value!r}")


class _Loader(BoundedLoader):
    """YAML 1.2's scalars (1e-5 is a number, `off` is a word), and no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's contract)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} appears twice; keep one", key_node.start_mark
                )
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that `_Loader` or a YAML 1.1 reader would take for something else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012 (PyYAML's contract)
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (PyYAML's contract)
        return True


for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
        ("merge", r"<<", ["<"]),
    ):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)

# A plain y or n is true or false to some YAML 1.1 readers, 0o17 a number to some of YAML 1.2; PyYAML knows neither.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^0o[0-7]+$"), ["0"])
