"""docs/architecture.md lists every module exactly once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_module_is_listed_once() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\* `((?:search|analysis|trainables)/[\w/]+\.py)`: \S", text, re.MULTILINE)
    modules = [
        path.relative_to(ROOT).as_posix()
        for room in ("search", "analysis", "trainables")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert sorted(listed) == sorted(modules)
