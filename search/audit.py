"""Audit early stopping: what it saved in a run, and what it may have cost.

    segsearch audit RUN [--json]

Reads the learning curves in the run's study; nothing is trained or written. Told are, by ASHA's brackets (backbone
families, mask heads apart), how the scores at each rung ranked the trials that ran to the end, which stopped trials
would probably have become the best of their bracket, the epochs saved, and a grace period by which nothing would have
been lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.run_dir import existing_run_dir
from trainables.command import DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.search_quality import Audit

MAX_NAMED = 5  # stopped trials, the most promising first

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Argument(help="The directory of a run whose search is done.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as one JSON object.")] = False,
    debug: DebugOption = False,
) -> None:
    """Tell what early stopping saved in a run, and what it may have cost."""
    with errors_to_exit(debug=debug):
        found = audit_run(run)
    typer.echo(found.model_dump_json(indent=2) if as_json else "\n".join(describe(found)))


def audit_run(root: Path) -> Audit:
    """Raises ValueError where `root` is no run with a study, or no trial of it reported an epoch."""
    from search.engine.study_audit import audit_study
    from search.engine.study_file import open_study
    from search.space.space import load_space

    run = existing_run_dir(root, "RUN")
    study = open_study(run.study_db)
    found = audit_study(study, load_space(str(run.space_yaml), profile=None, overrides=()).options.search)
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
        yield f"  trial {one.trial} ({one.bracket}): {one.win_probability:.0%}, {reached}"
    yield found.advice


if __name__ == "__main__":
    app()
