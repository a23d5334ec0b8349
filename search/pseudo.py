"""Train a student on a finished run's labels and on what its ensemble is sure of on the card's unlabelled images.

    segsearch pseudo --run RUN [--set schedule=continue_then_real] [--set rounds=2] [--set "share=[0.25, 0.5]"]

The keys of --set are those of a space's `pseudo`, which does the same inside a run. Written is RUN/pseudo, or --out:
per round the pseudo labels with their lineage and the students; pseudo.json with the verdict, "pseudo labels helped" or
"did not help"; and a bundle where they gained on labelled images outside the hold-out. Killed, the same command goes
on. No cluster is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.run_dir import BUNDLE, RunDir, existing_run_dir
from search.run_lock import hold
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.ensembling.pseudo_options import PseudoOptions

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a run whose ensemble stage is done.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of a space's `pseudo`; repeatable. See docs/space.md."),
    ] = None,
    trial: Annotated[
        str | None, typer.Option(help="Whose recipe the student has: a number or name; default: the best single's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder; default: RUN/pseudo.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs to train on.")] = 1,
    cache_dir: Annotated[Path, typer.Option(help="Cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Train a student on pseudo labels of the card's unlabelled images, and say whether they helped."""
    with errors_to_exit(debug=debug):
        options = options_of(assignments or (), trial)
        folder = existing_run_dir(run, "--run")
        target = out.expanduser().resolve() if out else folder.pseudo
        teach(folder, options, target, cache_dir=cache_dir.expanduser().resolve(), device=device, ranks=ranks)


def options_of(assignments: Sequence[str], trial: str | None) -> PseudoOptions:
    """Raises ValueError with everything that is wrong with the assignments."""
    from analysis.ensembling.pseudo_options import PseudoOptions
    from search.space.space import read_section

    given = read_section("pseudo", assignments).pseudo
    return PseudoOptions(**given.model_dump() if given else {}, trial=trial)


def teach(run: RunDir, options: PseudoOptions, out: Path, *, cache_dir: Path, device: str, ranks: int) -> None:
    """Label, train and judge, unless `out` holds the verdict already; says what comes of it.

    Raises ValueError where the run has no verdict, its card names no unlabelled images or labelled ones among them,
    files are gone or broken, another process works on the run, or `out` holds something else.
    """
    with hold(run.root, typer.echo):
        from analysis.report.pseudo import mark_pseudo
        from search.students import pseudo
        from search.students.finished_run import open_for_student

        now = lambda: datetime.now().astimezone()  # noqa: E731
        finished = open_for_student(run, options, out, cache_root=cache_dir, say=typer.echo, now=now)
        result = pseudo.run(finished, options, out, device=device, ranks=ranks)
        if out == run.pseudo and run.report.is_file() and not mark_pseudo(run.report, result):
            typer.echo(f"note: {run.report} is of an earlier version and does not show the student")
    for caveat in result.caveats:
        typer.echo(f"note: {caveat}")
    typer.echo(result.sentence)
    if (out / BUNDLE).is_dir():
        typer.echo(f"bundle: {out / BUNDLE}")


if __name__ == "__main__":
    app()
