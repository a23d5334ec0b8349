"""Train a student on a finished run's labels and on what its ensemble is sure of on the card's unlabelled images.

    segsearch pseudo --run RUN [--set schedule=continue_then_real] [--set rounds=2] [--set "share=[0.25, 0.5]"]

The keys of --set are those of a space's `pseudo`, which does the same inside a run. Written is RUN/pseudo, or --out:
per round the pseudo labels with their lineage and the students; pseudo.json with the verdict, "pseudo labels helped" or
"did not help"; and a bundle where they gained on labelled images outside the hold-out. Killed, the same command goes
on. Students are trained one after the other, without a cluster; with --address several at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.run_dir import BUNDLE, RunDir, existing_run_dir
from search.run_lock import hold
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.ensembling.pseudo_options import PseudoOptions
    from search.students.finished_run import FinishedRun
    from search.students.pseudo_steps import Runner

LOCAL = "local"  # in place of an address: a cluster of this machine's own
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
    address: Annotated[
        str | None,
        typer.Option(
            help="Train several students at once, as tasks of Ray: 'local' (on this machine), 'auto' or HOST:PORT."
        ),
    ] = None,
    cache_dir: Annotated[Path, typer.Option(help="Cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Train a student on pseudo labels of the card's unlabelled images, and say whether they helped."""
    with errors_to_exit(debug=debug):
        options = options_of(assignments or (), trial)
        folder = existing_run_dir(run, "--run")
        target = out.expanduser().resolve() if out else folder.pseudo
        where = given_place(device, ranks, address)
        teach(folder, options, target, cache_dir=cache_dir.expanduser().resolve(), where=where)


def options_of(assignments: Sequence[str], trial: str | None) -> PseudoOptions:
    """Raises ValueError with everything that is wrong with the assignments."""
    from analysis.ensembling.pseudo_options import PseudoOptions
    from search.space.space import read_section

    given = read_section("pseudo", assignments).pseudo
    return PseudoOptions(**given.model_dump() if given else {}, trial=trial)


@dataclass(frozen=True)
class Place:
    """Where students are trained: one after the other in this process, or in a cluster."""

    device: str = "auto"
    ranks: int = 1
    address: str | None = None


def given_place(device: str, ranks: int, address: str | None) -> Place:
    """Raises ValueError for a device beside an address."""
    place = Place(device, ranks, address)
    if address is not None and place != Place(address=address):
        raise ValueError(
            f"with --address a student holds what the run's trials held, got --device {device} and --ranks {ranks} "
            "beside it; leave them out"
        )
    return place


def teach(run: RunDir, options: PseudoOptions, out: Path, *, cache_dir: Path, where: Place) -> None:
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
        with _runner(finished, options, where) as runner:
            result = pseudo.run(runner, out)
        if out == run.pseudo and run.report.is_file() and not mark_pseudo(run.report, result):
            typer.echo(f"note: {run.report} is of an earlier version and does not show the student")
    for caveat in result.caveats:
        typer.echo(f"note: {caveat}")
    typer.echo(result.sentence)
    if (out / BUNDLE).is_dir():
        typer.echo(f"bundle: {out / BUNDLE}")


@contextmanager
def _runner(finished: FinishedRun, options: PseudoOptions, where: Place) -> Iterator[Runner]:
    from search.students.pseudo_steps import InSequence, Setting

    if where.address is None:
        from analysis.bundle.predictor import resolve_device

        yield InSequence(Setting(finished, options, resolve_device(where.device), where.ranks))
        return
    from search.stages.prepare_cluster import in_cluster
    from search.stages.stage import Stage
    from search.students.pseudo_stage import tasks_of

    address = None if where.address == LOCAL else where.address
    with in_cluster(finished.context, Stage.pseudo, address) as inside:
        yield tasks_of(replace(finished, context=inside), options)


if __name__ == "__main__":
    app()
