"""Rules of CONTRIBUTING.md that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
MAX_PARAMETERS = 7
TOO_MANY_TODAY = {  # to be emptied
    "fit_ensemble",
    "decide_on_val",
    "fit_postprocess",
    "score_val",
    "draw_sample",
    "search_path",
    "score_images",
    "fit_weights",
}


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
        (function.name, f"{path.relative_to(REPOSITORY)}:{function.lineno}")
        for path, function in functions()
        if len(parameters_of(function)) > MAX_PARAMETERS and not is_exempt(function)
    ]
    assert [one for one in found if one[0] not in TOO_MANY_TODAY] == []
    assert {name for name, _ in found} == TOO_MANY_TODAY, "take what was mended off the list"
