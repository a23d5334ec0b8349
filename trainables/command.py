"""What all commands share: the typer application, the error format, the default cache folder."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from trainables.worker_process import is_out_of_memory

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "segsearch"
DebugOption = Annotated[bool, typer.Option(help="Show tracebacks.")]


def new_app() -> typer.Typer:
    """An application whose errors are the project's own."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run_command(*arguments: str | Path) -> str:
    """The search's command with these arguments, quoted for a shell; a script or a subcommand, whichever the user
    called of the others."""
    command = ("python", "search/run.py") if sys.argv[0].endswith(".py") else ("segsearch", "run")
    return shlex.join([*command, *map(str, arguments)])


def fail(message: str, code: int = 2) -> NoReturn:
    """Print `segsearch: <message>` to standard error and exit with `code`."""
    typer.secho(f"segsearch: {message}", err=True, fg=typer.colors.RED)
    raise typer.Exit(code)


@contextmanager
def errors_to_exit(*, debug: bool = False) -> Iterator[None]:
    """End with exit code 2 on what the user can correct: ValueError, OSError, too little memory.

    With `debug` the exception is raised.
    """
    try:
        yield
    except Exception as error:
        if debug or not (isinstance(error, (ValueError, OSError)) or is_out_of_memory(error)):
            raise
        fail(str(error))
