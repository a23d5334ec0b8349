"""The few recipes that together did best on several data sets, as `points` of a space for the next one.

    segsearch portfolio RUN... --out points.yaml [--size 4]

A recipe counts on a data set by its best mIoU on val there; where it did not run to its end it counts as the worst.
Recipes are the same where their searched parameters are, so runs know the same ones where they share `points`, or begin
with the same trials: one space and one seed. A space takes the file by `extends: points.yaml`, or its list as `points`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainables.command import DebugOption, errors_to_exit, new_app
from trainables.files import write_text

if TYPE_CHECKING:
    from search.engine.past_trials import PastRun

app = new_app()
Mious = dict[str, dict[str, float]]  # data set -> parameters as JSON -> mIoU


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, on two data sets or more.", metavar="RUN")],
    out: Annotated[Path, typer.Option(help="The YAML file that is written.")] = Path("points.yaml"),
    size: Annotated[int, typer.Option(min=1, help="How many recipes at most.")] = 4,
    debug: DebugOption = False,
) -> None:
    """Choose the few recipes that together did best over several data sets."""
    with errors_to_exit(debug=debug):
        from search.engine.past_trials import read_past_runs
        from search.engine.portfolio import greedy, normalised

        mious = mious_of(read_past_runs(runs, "RUN"))
        recipes, scores = normalised(mious)
        chosen = greedy(scores, size)
        points = [json.loads(recipes[row]) for row, _ in chosen]
        write_text(out, points_file(points, chosen[-1][1], len(mious)))
        for number, (row, worth) in enumerate(chosen, 1):
            sets = int((scores[row] > 0).sum())
            typer.echo(f"{number}: above the worst on {sets} of {len(mious)} data sets; so far worth {worth:.3f} of 1")
            typer.echo(f"   {recipes[row]}")
        if max(sum(recipe in found for found in mious.values()) for recipe in recipes) < 2:
            typer.echo("note: no recipe ran to its end on two data sets, so each point is known on its own one alone")
        typer.echo(f"{len(points)} points of {len(recipes)} recipes in {out}")


def mious_of(runs: list[PastRun]) -> Mious:
    """The best mIoU of each recipe on each data set.

    Raises ValueError for runs on fewer than two data sets, and for a run whose own space does not hold its recipes.
    """
    from search.space.locate import locate
    from search.space.space import load_space

    mious: Mious = {}
    for past in runs:
        space, found = load_space(str(past.run.space_yaml)), mious.setdefault(past.data, {})
        for trial in past.trials:
            try:
                point = json.dumps(locate(space.root, trial.recipe), sort_keys=True)
            except ValueError as error:
                raise ValueError(f"{past.run.root}, trial {trial.trial}: {error}; restore space.yaml") from error
            found[point] = max(trial.miou, found.get(point, trial.miou))
    if len(mious) < 2:
        raise ValueError(
            f"a portfolio needs runs on two data sets or more, got {len(mious)} ({len(runs)} runs); for one data set "
            "give `segsearch run --warm-start`"
        )
    return mious


def points_file(points: list[dict[str, Any]], worth: float, num_data_sets: int) -> str:
    """A space that holds `points` alone."""
    from search.space.yaml_format import dump_yaml

    return (
        f"# By `segsearch portfolio`: together they are worth {worth:.3f}, the mean over {num_data_sets} data sets of\n"
        f"# the best of them there, where 1 is the mIoU of the best trial and 0 that of the worst.\n"
        f"{dump_yaml({'points': points})}"
    )


if __name__ == "__main__":
    app()
