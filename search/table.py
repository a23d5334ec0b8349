"""One table over runs: a row per run or per trial, for a terminal, a spreadsheet, a README or pandas.

    segsearch table runs/ [--by trial] [--sort val] [--filter 'backbone=convnext*'] [--group family] [--format csv]

Read are the files that a run leaves (run.json, space.yaml, trials.csv, ensemble.json) and the ledger of submissions
beside it. A run that is broken is named and left out; exit code 2 where none is left.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.run_dir import check_is_here
from trainables.command import DebugOption, errors_to_exit, new_app
from trainables.files import write_atomically

if TYPE_CHECKING:
    from search.run_table.rows import RunFiles

app = new_app()


class Format(StrEnum):
    rich = "rich"
    csv = "csv"
    md = "md"
    parquet = "parquet"


class By(StrEnum):
    run = "run"
    trial = "trial"


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.", metavar="RUN")],
    by: Annotated[By, typer.Option(help="What a row is.")] = By.run,
    sort: Annotated[
        str | None, typer.Option(help="A column, best first; '-' before it turns that. Default: holdout, or val.")
    ] = None,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="KEY=PATTERN, KEY!=PATTERN, KEY>=NUMBER, ...; repeatable.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Show the first row of each value of this column.")] = None,
    file_format: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.rich,
    out: Annotated[Path | None, typer.Option(help="A file; default: standard output.")] = None,
    debug: DebugOption = False,
) -> None:
    """Show runs or trials side by side: models, scores with intervals, submissions, hours, commits."""
    with errors_to_exit(debug=debug):
        if file_format is Format.parquet and out is None:
            raise ValueError("--format parquet must go to a file, got no --out; add --out runs.parquet")
        from search.run_table.choose import condition, first_of_each, ordered
        from search.run_table.formats import FORMATS, lines_of
        from search.run_table.rows import row_of_run, rows_by_trial

        conditions = [condition(text) for text in filters or []]
        default = "val" if by is By.trial else "holdout"
        ordered([], sort or default)
        first_of_each([], group or "run")
        found = read_runs(runs)
        rows = [row for run in found for row in (rows_by_trial(run) if by is By.trial else [row_of_run(run)])]
        kept = ordered([row for row in rows if all(holds(row) for holds in conditions)], sort or default)
        if not kept:
            raise ValueError(f"at least one row must be left, got none of {len(rows)}; filter less, or wait for trials")
        chosen = first_of_each(kept, group) if group else [(row, 1) for row in kept]
        content = FORMATS[file_format](lines_of(chosen, grouped=group is not None))
        if out is None:
            sys.stdout.write(content.decode())
        else:
            write_atomically(out, lambda path: path.write_bytes(content))
            typer.echo(f"{len(chosen)} rows in {out}")


def read_runs(paths: Sequence[Path]) -> list[RunFiles]:
    """The runs that can be read, each once; what is broken or unfinished is named on standard error.

    Raises ValueError where there is none.
    """
    from search.run_table.rows import read_run

    found, broken = [], []
    for root in _roots(paths):
        try:
            run = read_run(root)
        except (ValueError, OSError) as error:
            broken.append(str(error))
            typer.echo(f"warning: {root} is left out: {error}", err=True)
            continue
        found.append(run)
        if run.unfinished:
            typer.echo(f"note: {root} is unfinished: {run.unfinished}", err=True)
    if not found:
        raise ValueError(f"at least one run must be readable, got none ({len(broken)} are broken); give others")
    return found


def _roots(paths: Sequence[Path]) -> list[Path]:
    """Run directories in the order given; of a folder those in it, by name.

    Raises ValueError, with all of them at once, for what is neither.
    """
    roots: dict[Path, None] = {}
    wrong = []
    for path in paths:
        check_is_here(path, "RUN")
        inside = [path] if (path / "run.json").is_file() else sorted(one.parent for one in path.glob("*/run.json"))
        if not inside:
            wrong.append(str(path))
        roots |= {one.resolve(): None for one in inside}
    if wrong:
        raise ValueError(f"RUN must be a run's directory or a folder of them, got {', '.join(wrong)}; correct the path")
    return list(roots)


if __name__ == "__main__":
    app()
