"""Applies the diffs of docs/extending.md to modules in memory, for the length of a test."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
ROOMS = ("search", "analysis", "trainables")
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = [section.partition("\n") for section in TEXT.split("\n## ")[1:]]
DIFFS = {title: text.partition("```diff\n")[2].partition("\n```")[0] + "\n" for title, _, text in SECTIONS}


def patched_files(diff: str) -> dict[str, str]:
    """Path -> content after the diff. Hunks have no line numbers: their old lines must occur exactly once."""
    files = {}
    for part in re.split("^--- ", diff, flags=re.MULTILINE)[1:]:
        old, new, *lines = part.splitlines(keepends=True)
        path = new.strip().removeprefix("+++ b/")
        text = "" if old.strip() == "/dev/null" else (ROOT / path).read_text(encoding="utf-8")
        for hunk in "".join(lines).split("@@\n"):
            text = patched(text, hunk.splitlines(keepends=True), path)
        files[path] = text
    return files


def patched(text: str, lines: Sequence[str], path: str) -> str:
    """The text after one hunk. Raises ValueError where its old lines do not occur exactly once."""
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    if not before:
        return text + after
    if f"\n{text}".count(f"\n{before}") != 1:
        raise ValueError(f"docs/extending.md: {path} must have these lines exactly once\n{before}")
    return f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class PatchedFinder(MetaPathFinder, Loader):
    """Imports these modules from memory."""

    def __init__(self, files: dict[str, str]) -> None:
        self.paths = {module_name(path): path for path in files}
        self.files = files

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self.paths:
            return None
        file = ROOT / self.paths[name]
        spec = spec_from_loader(name, self, origin=str(file), is_package=file.name == "__init__.py")
        if spec is not None and spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(file.parent))
        return spec

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        path = self.paths[module.__name__]
        exec(compile(self.files[path], str(module.__spec__.origin), "exec"), module.__dict__)  # noqa: S102


@contextmanager
def applied(heading: str, reload: Sequence[str] = ()) -> Iterator[None]:
    """The change under this heading is imported inside, and undone after. `reload` names modules and packages that
    import what the change replaces."""
    finder = PatchedFinder(patched_files(DIFFS[heading]))

    def touched(name: str) -> bool:
        return name in finder.paths or any(name == each or name.startswith(f"{each}.") for each in reload)

    for name in [*finder.paths, *reload]:
        importlib.import_module(name.rpartition(".")[0])  # parents stay
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in ROOMS}
    for name in filter(touched, before):
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        new = [
            name
            for name in sys.modules
            if name.partition(".")[0] in ROOMS and sys.modules[name] is not before.get(name)
        ]
        for name in new:  # also those that hold on to what was replaced
            parent, _, child = name.rpartition(".")
            vars(sys.modules[parent] if parent in sys.modules else before[parent]).pop(child, None)
        for name in new:
            del sys.modules[name]
        sys.modules.update(before)
        for name in filter(touched, before):
            parent, _, child = name.rpartition(".")
            setattr(before[parent], child, before[name])
