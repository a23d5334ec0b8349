"""Write the report of a finished run again, or compare two runs on one page.

    segsearch report --run RUN
    segsearch report --compare A B [--out compare.html]

The first rewrites RUN/report.html and RUN/classes/ from the files of the run directory and the card's images. The
second reads the files of both runs alone, of the images nothing.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from search.run_dir import RunDir, existing_run_dir
from search.run_lock import hold
from search.run_record import read_record
from search.stages.stage import Stage
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app, run_command

app = new_app()


@app.command()
def main(
    run: Annotated[Path | None, typer.Option(help="The directory of a run whose bundle stage is done.")] = None,
    compare: Annotated[tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two runs with a verdict.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --compare: the page; default: compare-A-B.html beside run A.")
    ] = None,
    cache_dir: Annotated[Path, typer.Option(help="With --run: cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Write a run's report again, or compare two runs on one page."""
    with errors_to_exit(debug=debug):
        if (run is None) == (compare is None):
            raise ValueError(
                f"one of --run and --compare must be given, got {'none' if run is None else 'both'}; choose one"
            )
        if compare is not None:
            path = compare_runs(*compare, out)
        elif out is not None:
            raise ValueError(f"--out goes with --compare, got --run {run} --out {out}; a run's report stays in the run")
        else:
            assert run is not None
            path = rebuild(run, cache_dir.expanduser().resolve())
    typer.echo(f"report: {path}")


def rebuild(root: Path, cache_dir: Path) -> Path:
    """Write the run's report and its pages per class; -> the report.

    Raises ValueError where the run has no bundle yet, another process works on it, or its data are others by now.
    """
    run = existing_run_dir(root, "--run")
    with hold(run.root, typer.echo):
        done = _check_done(run, Stage.bundle)
        from search.stages import report
        from search.students.finished_run import open_finished

        context = open_finished(run, cache_dir, say=typer.echo, now=lambda: datetime.now().astimezone()).context
        ended = done.get(Stage.report) or done[Stage.bundle]
        report.write(run, context.space, context.data.cache, context.data.split, ended=ended)
    return run.report


def compare_runs(a: Path, b: Path, out: Path | None) -> Path:
    """Write one page on both runs; -> its path. Raises ValueError where one has no verdict, both are the same run, or
    their classes differ."""
    runs = [existing_run_dir(root, "--compare") for root in (a, b)]
    if runs[0] == runs[1]:
        raise ValueError(f"--compare needs two runs, got {a} twice; give another run")
    for run in runs:
        _check_done(run, Stage.ensemble)
    from analysis.report.comparison import write_comparison
    from search.stages.compare_runs import read_comparison

    path = out or runs[0].root.parent / f"compare-{runs[0].root.name}-{runs[1].root.name}.html"
    write_comparison(path.expanduser(), read_comparison(*runs))
    return path


def _check_done(run: RunDir, stage: Stage) -> dict[str, str]:
    """When each stage was done. Raises ValueError where this one is not."""
    done: dict[str, str] = read_record(run)["stages"]
    if not done.get(stage):
        raise ValueError(
            f"a report needs a run whose {stage} stage is done, got {run.root} without it; finish it first: "
            f"{run_command('--resume', run.root)}"
        )
    return done


if __name__ == "__main__":
    app()
