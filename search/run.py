"""The front door: a space in, a finished run out.

    python search/run.py --space convnext.yaml [--data data.yaml] [--set search.num_trials=8] [--profile cpu]
    python search/run.py --resume runs/convnext-20260101-120000

Heavy imports (torch, Ray) happen only after everything that can be checked without them was checked.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from search.run_arguments import RunArguments
from search.stages.stage import Stage
from search.start import Interrupted, start
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

app = new_app()


@app.command()
def run(
    space: Annotated[str | None, typer.Option(help="A space: a path, or a name in spaces/.")] = None,
    data: Annotated[Path | None, typer.Option(help="A data card; without it, the built-in synthetic set.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override one value of the space; repeatable."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="A profile of the space; default: 'cpu' where there is no GPU.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="The run's directory, or s3://BUCKET/NAME; default: runs/<space>-<time>.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Resume the run in this directory, or at this URI.")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster ('auto'); default: this machine alone.")] = None,
    cache_dir: Annotated[
        Path, typer.Option(help="Cache of decoded images, shared by runs; on each node.")
    ] = DEFAULT_CACHE,
    until: Annotated[
        Stage, typer.Option(help="The last stage to run; 'logits' leaves the hold-out sealed.")
    ] = Stage.report,
    trackers: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker", metavar="NAME", help="wandb, mlflow or tensorboard, besides the space's; repeatable."
        ),
    ] = None,
    warm_start: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN...", help="Earlier runs on the same data: the search begins with their finished trials."
        ),
    ] = None,
    # what follows the first run of `--warm-start A B` reaches typer as arguments
    more_runs: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    dashboard: Annotated[bool, typer.Option(help="Start the Ray dashboard with a local cluster.")] = True,
    print_schema: Annotated[bool, typer.Option("--print-schema", help="Print a JSON schema of spaces.")] = False,
    debug: DebugOption = False,
) -> None:
    """Search a space, fit and judge the ensemble of its best trials, export what ships."""
    if print_schema:
        schema(debug)
        return
    with errors_to_exit(debug=debug):
        if more_runs and not warm_start:
            raise ValueError(f"run takes options alone, got {more_runs[0]}; name the space by --space")
    asked = RunArguments(
        space=space,
        data=data,
        assignments=tuple(assignments or ()),
        profile=profile,
        run_dir=run_dir,
        resume=resume,
        address=address,
        cache_dir=cache_dir.expanduser().resolve(),
        dashboard=dashboard,
        until=until,
        trackers=tuple(trackers or ()),
        warm_start=(*(warm_start or ()), *(more_runs or ())),
    )
    with errors_to_exit(debug=debug):
        try:
            start(asked, now=lambda: datetime.now().astimezone(), argv=tuple(sys.argv), say=say)
        except Interrupted as stop:
            say(str(stop))
            raise typer.Exit(stop.exit_code) from None


def schema(debug: DebugOption = False) -> None:
    """Print a JSON schema of spaces, for editors."""
    with errors_to_exit(debug=debug):
        from search.space.json_schema import json_schema

        typer.echo(json.dumps(json_schema(), indent=1))


def say(line: str) -> None:
    """One line of progress, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    app()
