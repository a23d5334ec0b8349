"""Fit and judge ensembles of predictions that any tool saved.

    python analysis/ensemble.py --logits A B C --labels data.yaml [--out OUT] [--allow-missing]

Reads one folder per member and a data card; writes ensemble.json and confusions.safetensors under OUT, and prints a
table of all rules. Exit code 2 where the input is wrong. Heavy imports come late, so that --help answers at once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from analysis.ensembling.options import EnsembleOptions
from trainables.command import DebugOption, errors_to_exit, new_app

app = new_app()
DEFAULTS = EnsembleOptions()


@app.command()
def main(
    logits: Annotated[
        list[Path],
        typer.Option(
            metavar="FOLDER...",
            help="Folders of predictions, one per member, of one model or with fold_0, fold_1, ... in it.",
        ),
    ],
    labels: Annotated[Path, typer.Option(help="The data card (YAML).")],
    # what follows the first folder of `--logits A B C` reaches typer as arguments
    more_logits: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    out: Annotated[Path, typer.Option(help="Where the result is written.")] = Path("ensemble"),
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="Skip images that a member lacks.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of sample, folds and bootstrap.")] = 0,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-fit.")] = DEFAULTS.folds,
    sample_mb: Annotated[
        int, typer.Option(min=1, help="Memory for the pixels that weights are fitted to.")
    ] = DEFAULTS.sample_mb,
    postprocess: Annotated[
        Literal["off", "auto"], typer.Option(help="Remove small components and holes where that pays.")
    ] = DEFAULTS.postprocess,
    debug: DebugOption = False,
) -> None:
    """Fit and judge every way to combine these members."""
    with errors_to_exit(debug=debug):
        from analysis.external.members import collect, judge_members, read_labels

        options = EnsembleOptions(folds=folds, sample_mb=sample_mb, postprocess=postprocess)
        card = read_labels(labels)
        folders = [*logits, *(more_logits or ())]
        members = collect(folders, card, out, seed=seed, allow_missing=allow_missing, say=typer.echo)
        opened_at = datetime.now(UTC).isoformat(timespec="seconds")
        result = judge_members(members, out, options, opened_at=opened_at, seed=seed, say=typer.echo)
    typer.echo(f"{'rule':20} {'val, fitted':>12} {'cross-fitted':>13} {'hold-out':>9}")
    for rule in result.rules:
        mious = [score.miou for score in (rule.val_fitted, rule.val_crossfit, rule.holdout)]
        scores = [float("nan") if miou is None else miou for miou in mious]
        typer.echo("{:20} {:12.4f} {:13.4f} {:9.4f}".format(rule.name, *scores))
    typer.echo(result.verdict.sentence)


if __name__ == "__main__":
    app()
