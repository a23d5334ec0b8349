"""Rules of CONTRIBUTING.md that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
MAX_PARAMETERS = 7


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for room in ("search", "analysis", "trainables"):
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
