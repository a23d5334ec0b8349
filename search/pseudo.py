"""Train a student on a finished run's labels and on what its ensemble is sure of on the card's unlabelled images.

    segsearch pseudo --run RUN [--schedule continue_then_real] [--rounds 2] [--target-precision 0.9]

Written is RUN/pseudo, or --out: per round the pseudo labels with their lineage and the student; pseudo.json with the
verdict, "pseudo labels helped" or "did not help"; and a bundle where they did on val. Killed, the same command goes on.
No cluster is started.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from search.run_dir import BUNDLE, RunDir, existing_run_dir
from search.run_lock import hold
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from analysis.ensembling.pseudo_result import PseudoOptions

Schedule = Literal["scratch", "continue", "continue_then_real", "consistency"]

app = new_app()


@app.command()
def main(
    run: Annotated[Path, typer.Option(help="The directory of a run whose ensemble stage is done.")],
    schedule: Annotated[
        Schedule, typer.Option(help="Anew on all labels; from the trial's weights; then real labels alone; UniMatch.")
    ] = "scratch",
    rounds: Annotated[int, typer.Option(help="Each student teaches the next; ends with the first without gain.")] = 1,
    rule: Annotated[str | None, typer.Option(help="The rule that labels, by default the verdict's.")] = None,
    trial: Annotated[
        str | None, typer.Option(help="Whose recipe the student has: a number or name; default: the best single's.")
    ] = None,
    target_precision: Annotated[float, typer.Option(help="Of every class's pseudo labels, as measured.")] = 0.9,
    min_certain: Annotated[float, typer.Option(help="Share of an image that must be certain.")] = 0.1,
    cap: Annotated[float, typer.Option(help="Times the median class's certain pixels that a class may have.")] = 20.0,
    share: Annotated[float, typer.Option(help="Share of a batch: images with pseudo labels.")] = 0.5,
    epochs: Annotated[int | None, typer.Option(help="Of each training; default: the recipe's.")] = None,
    lr_factor: Annotated[float, typer.Option(help="Of the learning rate where weights are gone on with.")] = 0.3,
    confidence: Annotated[float, typer.Option(help="Of consistency: of a pixel whose prediction is its label.")] = 0.95,
    consistency_weight: Annotated[float, typer.Option(help="Of the unlabelled images' loss.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="The folder; default: RUN/pseudo.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs to train on.")] = 1,
    cache_dir: Annotated[Path, typer.Option(help="Cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Train a student on pseudo labels of the card's unlabelled images, and say whether they helped."""
    with errors_to_exit(debug=debug):
        from analysis.ensembling.pseudo_result import PseudoOptions

        options = PseudoOptions(
            schedule=schedule,
            rounds=rounds,
            rule=rule,
            trial=trial,
            target_precision=target_precision,
            min_certain=min_certain,
            cap=cap,
            share=share,
            epochs=epochs,
            lr_factor=lr_factor,
            confidence=confidence,
            consistency_weight=consistency_weight,
        )
        folder = existing_run_dir(run, "--run")
        target = out.expanduser().resolve() if out else folder.pseudo
        teach(folder, options, target, cache_dir=cache_dir.expanduser().resolve(), device=device, ranks=ranks)


def teach(run: RunDir, options: PseudoOptions, out: Path, *, cache_dir: Path, device: str, ranks: int) -> None:
    """Label, train and judge, unless `out` holds the verdict already; says what comes of it.

    Raises ValueError where the run has no verdict, its card names no unlabelled images or labelled ones among them,
    files are gone or broken, another process works on the run, or `out` holds something else.
    """
    with hold(run.root, typer.echo):
        from search.students import pseudo
        from search.students.finished_run import open_for_student

        now = lambda: datetime.now().astimezone()  # noqa: E731
        finished = open_for_student(run, options, out, cache_root=cache_dir, say=typer.echo, now=now)
        result = pseudo.run(finished, options, out, device=device, ranks=ranks)
    for caveat in result.caveats:
        typer.echo(f"note: {caveat}")
    typer.echo(result.sentence)
    if (out / BUNDLE).is_dir():
        typer.echo(f"bundle: {out / BUNDLE}")


if __name__ == "__main__":
    app()
