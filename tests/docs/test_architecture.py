"""docs/architecture.md lists every module exactly once."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTED = re.findall(
    r"^- `((?:search|analysis|trainables)/[\w/]+\.py)`: \S",
    (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def has_code(path: Path) -> bool:
    """True for every module but an `__init__.py` that defines no function or class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return path.name != "__init__.py" or any(isinstance(node, (ast.FunctionDef, ast.ClassDef)) for node in tree.body)


def test_every_module_is_listed_once() -> None:
    assert sorted({path for path in LISTED if LISTED.count(path) > 1}) == []


def test_the_list_is_the_tree() -> None:
    rooms = ("search", "analysis", "trainables")
    paths = {
        path.relative_to(ROOT).as_posix() for room in rooms for path in (ROOT / room).rglob("*.py") if has_code(path)
    }
    assert sorted(paths - set(LISTED)) == [], "modules without a line in docs/architecture.md"
    assert sorted(set(LISTED) - paths) == [], "lines in docs/architecture.md without a module"
