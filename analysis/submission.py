"""Submissions to a competition: the CSV file, and the ledger of leaderboard scores beside the runs' own scores.

    python analysis/submission.py write --bundle RUN/bundle --out OUT --expected sample.csv INPUT...
    python analysis/submission.py record --run RUN --public 0.8205 [--private 0.7475] [--note "..."]
    python analysis/submission.py show --run RUN

`write` predicts as `predict --format csv` does, or takes label maps that `predict` has written, and leaves
OUT/submission.csv. `record` appends a line to submissions.jsonl beside the run (runs in one folder share a ledger); it
and `show` print a table, the rank correlation of local and public scores, and a warning where the public score is being
chosen on: a maximum over many readings of one small public part flatters itself, as every maximum does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import pstdev
from typing import Annotated, Any

import typer

from analysis.prediction.job import Execution, Format, Job, csv_layout, given_inputs
from analysis.prediction.outcome import report
from trainables.command import DebugOption, errors_to_exit, new_app
from trainables.plain_json import parse_json

LEDGER = "submissions.jsonl"
FEWEST = 4  # submissions from which a rank correlation is printed
OFTEN = 5  # submissions from which the best public score is mostly luck

app = new_app()


def local_scores(run: Path) -> dict[str, Any]:
    """A run's shipped rule, its cross-fitted and its hold-out mIoU. Raises ValueError where there is no verdict."""
    from analysis.ensembling.result import EnsembleResult

    shipped = EnsembleResult.read(run / "ensemble.json").shipped
    return {"rule": shipped.name, "val_crossfit": shipped.val_crossfit.miou, "holdout": shipped.holdout.miou}


def record(run: Path, public: float, at: str, private: float | None = None, note: str = "") -> list[dict[str, Any]]:
    """Adds a line to the ledger beside `run` and returns all of it, oldest first. Scores lie in [0, 1]."""
    for name, score in (("public", public), ("private", private)):
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"{name} must be a mIoU in [0, 1], got {score}; write 82.05% as 0.8205")
    run = run.resolve()
    line = {"at": at, "run": run.name, **local_scores(run), "public": public, "private": private, "note": note}
    with (run.parent / LEDGER).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return read_ledger(run.parent)


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's ledger, oldest first; none where there is no ledger. Raises ValueError naming a broken
    line."""
    path = folder / LEDGER
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(parse_json(line))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}, must be JSON, got a broken one ({error}); correct or delete it"
            ) from None
    return rows


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho, equal values sharing their mean rank; None where one side does not vary."""
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def correlations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How well the local scores predict the public ones, one sentence each; none while there are too few."""
    words = []
    for key, name in (("holdout", "hold-out"), ("val_crossfit", "cross-fitted val")):
        known = [row for row in rows if row[key] is not None]
        found = rank_correlation([row[key] for row in known], [row["public"] for row in known]) if known else None
        if len(known) >= FEWEST and found is not None:
            words.append(f"rank correlation of {name} and public over {len(known)} submissions: {found:+.2f}")
    return words


def warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Signs that the public score is being chosen on, one sentence each."""
    words = []
    if len(rows) >= OFTEN:
        spread = pstdev(row["public"] for row in rows)
        words.append(
            f"{len(rows)} submissions were scored on one public part: the best of them is the luckiest as well as the "
            f"best (their spread is {spread:.4f}); choose by the hold-out"
        )
    known = [row for row in rows if row["holdout"] is not None]
    if len(known) >= 2:
        publicly, locally = (max(known, key=lambda row, key=key: row[key]) for key in ("public", "holdout"))  # type: ignore[misc]
        if publicly["holdout"] < locally["holdout"] and publicly["public"] > locally["public"]:
            words.append(
                f"the highest public score, {publicly['public']:.4f}, is that of {publicly['run']}, but "
                f"{locally['run']} is higher on the hold-out ({locally['holdout']:.4f} against "
                f"{publicly['holdout']:.4f}): choosing it means choosing by the public part"
            )
    return words


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per submission, oldest first."""
    lines = [f"{'at':25}  {'run':32} {'rule':18} {'cross-fitted':>12} {'hold-out':>9} {'public':>8} {'private':>8}"]
    for row in rows:
        scores = [_written(row[key]) for key in ("val_crossfit", "holdout", "public", "private")]
        lines.append("{:25}  {:32} {:18} {:>12} {:>9} {:>8} {:>8}".format(row["at"], row["run"], row["rule"], *scores))
    return lines


def _written(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    for line in [*table(rows), *correlations(rows), *(f"warning: {words}" for words in warnings(rows))]:
        typer.echo(line)


@app.command("write")
def write_command(
    bundle: Annotated[Path, typer.Option(help="The bundle/ folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="The folder for submission.csv; made if absent.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Images, folders, patterns, COCO files, zip archives.", metavar="INPUT")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="In place of inputs: a folder that `predict --format png` wrote with the bundle."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="What the names in COCO files are relative to.")] = None,
    expected: Annotated[
        Path | None, typer.Option(help="A COCO file, sample CSV or data card that names the rows it must have.")
    ] = None,
    csv_size: Annotated[str | None, typer.Option(help="A mask's size, 256 (default) or HEIGHTxWIDTH.")] = None,
    csv_columns: Annotated[str | None, typer.Option(help="Default: image_id,PredictionString.")] = None,
    csv_separator: Annotated[str | None, typer.Option(help="What stands between numbers; default a space.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes a GPU where there is one.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace predictions of other settings in --out.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Write the CSV file that a competition takes, checked row by row."""
    with errors_to_exit(debug=debug):
        layout = csv_layout(csv_size, csv_columns, csv_separator)
        if predictions is not None:
            if inputs or images is not None or expected is None:
                raise ValueError(
                    f"--predictions goes with --expected, which names the rows, and without inputs, got {predictions} "
                    "otherwise; correct the command"
                )
            from analysis.prediction.join_predictions import submission_of_folder

            typer.echo(f"written: {submission_of_folder(predictions, bundle, out, layout, expected)}")
            return
        given, coco_images = given_inputs(inputs or [], images)
        how = Execution(device, batch_size, workers)
        job = Job(bundle, given, out, Format.csv, how, coco_images, layout, expected, overwrite)
        from analysis.prediction.predict_images import predict_images

        outcome = predict_images(job)
    report(outcome, out)


RunOption = Annotated[Path, typer.Option(help="The directory of a finished run.")]


@app.command("record")
def record_command(
    run: RunOption,
    public: Annotated[float, typer.Option(help="The public score, as a mIoU in [0, 1].")],
    private: Annotated[float | None, typer.Option(help="The private score, once it is known.")] = None,
    note: Annotated[str, typer.Option(help="What was different, in a few words.")] = "",
    debug: DebugOption = False,
) -> None:
    """Record the score of one submission."""
    with errors_to_exit(debug=debug):
        _show(record(run, public, datetime.now(UTC).isoformat(timespec="seconds"), private, note))


@app.command("show")
def show_command(run: RunOption, debug: DebugOption = False) -> None:
    """Print the ledger that the run belongs to."""
    with errors_to_exit(debug=debug):
        _show(read_ledger(run.resolve().parent))


if __name__ == "__main__":
    app()
