"""Train one model on what a finished run's ensemble says, and judge it against the ensemble and the single model.

    segsearch distil --run RUN [--rule soft_vote] [--trial 3] [--alpha 0.5] [--temperature 2] [--epochs 60]

The recipe is the best single model's. It learns from the labels and from the ensemble's soft labels (Hinton et al.
2015), on the card's unlabelled images too. Written is RUN/distilled, or --out: the weights, distilled.json with the
verdict, and a bundle. Killed, the same command goes on and comes to the same model. No cluster is started.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.run_dir import BUNDLE, RunDir, existing_run_dir
from search.run_lock import hold
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.ensembling.distilled_result import DistilOptions

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a run whose ensemble stage is done.")],
    rule: Annotated[str | None, typer.Option(help="The ensemble that teaches, by default the verdict's.")] = None,
    trial: Annotated[
        str | None, typer.Option(help="Whose recipe the student has: a number or name; default: the best single's.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Share of the labels' loss, 0 to 1; the rest is the teacher's.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="Divides the logits of both; above 1 softens them.")] = 2.0,
    epochs: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    unlabelled: Annotated[bool, typer.Option(help="Learn from the card's unlabelled images too.")] = True,
    out: Annotated[Path | None, typer.Option(help="The folder; default: RUN/distilled.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs to train on.")] = 1,
    cache_dir: Annotated[Path, typer.Option(help="Cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Train one model on what the ensemble says, and judge it against the ensemble and the single model."""
    with errors_to_exit(debug=debug):
        from analysis.ensembling.distilled_result import DistilOptions

        options = DistilOptions(
            rule=rule, trial=trial, alpha=alpha, temperature=temperature, epochs=epochs, unlabelled=unlabelled
        )
        folder = existing_run_dir(run, "--run")
        target = out.expanduser().resolve() if out else folder.distilled
        distil(folder, options, target, cache_dir=cache_dir.expanduser().resolve(), device=device, ranks=ranks)


def distil(run: RunDir, options: DistilOptions, out: Path, *, cache_dir: Path, device: str, ranks: int) -> None:
    """Train and judge the student, unless `out` holds its verdict already; says what comes of it.

    Raises ValueError where the run has no verdict, its files are gone or broken, the rule is one model alone, another
    process works on the run, or `out` holds something else.
    """
    with hold(run.root, typer.echo):
        from search.students import distillation
        from search.students.finished_run import open_for_student

        now = lambda: datetime.now().astimezone()  # noqa: E731
        finished = open_for_student(run, options, out, cache_root=cache_dir, say=typer.echo, now=now)
        result = distillation.run(finished, options, out, device=device, ranks=ranks)
    for line in distillation.describe(result):
        typer.echo(line)
    typer.echo(f"bundle: {out / BUNDLE}")


if __name__ == "__main__":
    app()
