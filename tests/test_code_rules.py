"""Rules of CONTRIBUTING.md that no linter knows."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("search", "analysis", "trainables")
MAX_PARAMETERS = 7


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for room in ROOMS:
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield path, node


def parameters_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    given = function.args
    each = (*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg)
    return [one.arg for one in each if one is not None and one.arg not in ("self", "cls")]


def is_exempt(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A numba kernel takes arrays, not objects; a typer command has one parameter per option."""
    names = [ast.unparse(decorator).partition("(")[0].rpartition(".")[2] for decorator in function.decorator_list]
    return bool({"njit", "command"} & set(names))


def test_no_function_takes_more_than_seven_parameters() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{function.lineno} {function.name}"
        for path, function in functions()
        if len(parameters_of(function)) > MAX_PARAMETERS and not is_exempt(function)
    ]
    assert found == []


def test_every_kernel_says_whether_its_sums_may_be_rounded_otherwise() -> None:
    """A kernel that does not takes the fastmath of whichever kernel is the first to call it, and keeps it in numba's
    cache for all others: the exact search then counted other pixels than the vote."""
    found = [
        f"{path.relative_to(REPOSITORY)}:{function.lineno} {function.name}"
        for path, function in functions()
        for decorator in map(ast.unparse, function.decorator_list)
        if "njit" in decorator and "fastmath=" not in decorator
    ]
    assert found == []


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """The names that a module has of this project, and what they are."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ROOMS:
            module = import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):
                    import_module(f"{node.module}.{name.name}")
                yield name.asname or name.name, getattr(module, name.name)


def plain_calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Calls by a name, without * and **."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            starred = any(isinstance(given, ast.Starred) for given in node.args)
            if not starred and all(keyword.arg for keyword in node.keywords):
                yield node.func.id, node


@pytest.mark.parametrize("path", sorted((REPOSITORY / "tests/benchmarks").rglob("*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_import_exists_and_takes_what_they_give(path: Path) -> None:
    """They run for minutes, and only when somebody asks: nothing else would notice a name that has moved."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known = dict(imported(tree))
    for name, call in plain_calls(tree):
        if inspect.isfunction(known.get(name)) or inspect.isclass(known.get(name)):
            named = {str(keyword.arg): keyword.value for keyword in call.keywords}
            inspect.signature(known[name]).bind(*call.args, **named)
