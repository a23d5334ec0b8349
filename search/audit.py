"""Audit early stopping: what it saved in a run, and what it may have cost.

    segsearch audit RUN [--train-on 4 [--address auto]] [--json]

Reads the learning curves in the run's study. Told are, by ASHA's brackets (backbone families, mask heads apart), how
the scores at each rung ranked the trials that ran to the end, which stopped trials would probably have become the best
of their bracket, the epochs saved, and a grace period by which nothing would have been lost. With --train-on, so many
stopped trials, drawn at random, are first trained on to their end; RUN/audit.json keeps what they come to.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.run_dir import RunDir, existing_run_dir
from search.run_lock import hold
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.search_quality import Audit

MAX_NAMED = 5  # stopped trials, the most promising first

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="The directory of a run whose search is done.")],
    num_trials: Annotated[
        int, typer.Option("--train-on", min=0, help="Train so many stopped trials on to their end first.", metavar="N")
    ] = 0,
    address: Annotated[
        str | None, typer.Option(help="With --train-on: a Ray cluster, 'auto' or HOST:PORT; default: this machine.")
    ] = None,
    cache_dir: Annotated[Path, typer.Option(help="With --train-on: cache of decoded images.")] = DEFAULT_CACHE,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as one JSON object.")] = False,
    debug: DebugOption = False,
) -> None:
    """Tell what early stopping saved in a run, and what it may have cost."""
    with errors_to_exit(debug=debug):
        if address is not None and not num_trials:
            raise ValueError(f"--address goes with --train-on, got {address} without it; give --train-on 4 as well")
        folder = existing_run_dir(run, "RUN")
        if num_trials:
            train_on(folder, num_trials, address, cache_dir.expanduser().resolve())
        found = audit_run(folder)
    typer.echo(found.model_dump_json(indent=2) if as_json else "\n".join(describe(found)))


def train_on(run: RunDir, num_trials: int, address: str | None, cache_dir: Path) -> None:
    """Train stopped trials on, and say so on standard error, since the audit alone goes to standard output.

    Raises ValueError where the search is not done, no trial was stopped, the data are others by now, another process
    works on the run, or the cluster has no room for a trial.
    """
    from search.run_record import read_record
    from search.stages.stage import Stage
    from trainables.command import run_command

    if not read_record(run)["stages"].get(Stage.search):
        raise ValueError(
            f"--train-on needs a run whose search is done, got {run.root}; finish it first: "
            f"{run_command('--resume', run.root)}"
        )

    def say(line: str) -> None:
        typer.echo(line, err=True)

    with hold(run.root, say):
        from search.stages import stopped_trials
        from search.stages.prepare_cluster import in_cluster
        from search.students.finished_run import open_begun

        context = open_begun(run, cache_dir, say=say, now=lambda: datetime.now().astimezone())
        stopped_trials.in_random_order(context)  # there is one, before Ray starts
        with in_cluster(context, Stage.search, address) as inside:
            stopped_trials.run(inside, num_trials)


def audit_run(run: RunDir) -> Audit:
    """Raises ValueError where the run has no study, no trial of it reported an epoch, or audit.json is broken."""
    from search.engine.study_audit import audit_study, read_trained_on
    from search.engine.study_file import open_study
    from search.space.space import load_space

    study = open_study(run.study_db)
    options = load_space(str(run.space_yaml), profile=None, overrides=()).options.search
    found = audit_study(study, options, read_trained_on(run).mious)
    if found is None:
        raise ValueError(f"an audit needs trials that have ended, got none in {run.study_db}; let the search go on")
    return found


def describe(found: Audit) -> Iterator[str]:
    """The lines of the terminal."""
    whole = found.epochs_run + found.epochs_saved
    yield f"epochs: {found.epochs_run} trained, {found.epochs_saved} of {whole} saved by stopping early"
    for rung in found.rungs:
        told = "too few to tell" if rung.rank_correlation is None else f"rank correlation {rung.rank_correlation:+.2f}"
        yield f"{rung.bracket}, epoch {rung.epoch} against the final score: {told} ({rung.num_known} trials)"
    if found.missed_wins is not None:
        yield f"stopped trials that would have become the best of their bracket: {found.missed_wins:.2f} expected"
    likely = sorted((one for one in found.stopped if one.win_probability), key=lambda one: -(one.win_probability or 0))
    for one in likely[:MAX_NAMED]:
        reached = f"mIoU {one.miou:.4f} at epoch {one.epoch}"
        came_to = "" if one.final is None else f", trained on to {one.final:.4f}"
        yield f"  trial {one.trial} ({one.bracket}): {one.win_probability:.0%}, {reached}{came_to}"
    if found.trained_on:
        yield found.trained_on
    yield found.advice


if __name__ == "__main__":
    app()
