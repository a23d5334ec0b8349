"""Print a space as a run would read it: resolved, with its ranges, and what it asks for in epochs.

    segsearch space --show convnext.yaml [--profile cpu] [--set search.num_trials=8] [--data data.yaml]

The output is YAML that stands alone and reads back as the same space; what is counted stands in comments. Cost is told
in epochs; with a data card also in time on this machine, by a few training steps of the recipes that are tried first.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, cast

import typer

from trainables.command import DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from search.space.space import Space

app = new_app()


@app.command()
def main(
    show: Annotated[str, typer.Option(help="A file in spaces/, or a path.")],
    profile: Annotated[str | None, typer.Option(help="A profile of the space, such as 'cpu'.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the space, by YAML path.", metavar="KEY=VALUE")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A data card: measure what the search would cost on this machine.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Print a space as a run would read it, with its ranges and what it asks for."""
    with errors_to_exit(debug=debug):
        from search.space.space import load_space

        space = load_space(show, profile=profile, overrides=assignments or ())
        typer.echo(space.to_yaml().rstrip("\n"))
        typer.echo("\n".join(f"# {line}" for line in describe(space)))
        if data is not None:
            for line in measure(space, data):
                typer.echo(f"# {line}")


def describe(space: Space) -> Iterator[str]:
    """What is searched, where the search begins, and how many epochs it may take."""
    parameters = space.parameters()
    yield f"searched: {len(parameters)} parameters, of which a trial has those of its own branches"
    for parameter in parameters:
        low_high = parameter.kind in ("float", "int", "log")
        joint = " to " if low_high else ", "
        yield f"  {parameter.name} ({parameter.kind}): {joint.join(f'{value}' for value in parameter.values)}"
    yield f"tried first: {len(space.defaults())} recipes (points, then a default per backbone family)"
    search = space.options.search
    most, expected = search.num_trials * search.max_epochs, search.num_trials * search.expected_epochs
    yield f"at most {search.num_trials} trials x {search.max_epochs} epochs = {most} epochs"
    yield f"about {expected:.0f} where ASHA keeps 1 of {search.reduction_factor} at each rung"
    if space.options.folds.num:
        folds = space.options.folds
        models = folds.recipes * (folds.num + folds.refit)
        yield f"then {models} models of folds and refits, of at most {search.max_epochs} epochs each"
    if space.profile is None and space.profiles:
        yield f"profiles: {', '.join(space.profiles)} (--profile); cpu is taken by itself where there is no GPU"


def measure(space: Space, card: Path) -> Iterator[str]:
    """Seconds per training image of each recipe that is tried first, and the time of the search that follows from
    their mean. Raises ValueError for a wrong card."""
    import torch
    from optuna.trial import FixedTrial, Trial

    from analysis.bundle.predictor import resolve_device
    from search.observers.progress import duration
    from trainables.data.card import read_card
    from trainables.data.reader import read
    from trainables.training.step_time import train_image_s

    index = read(read_card(card))
    num_images = len(index.ids("train"))
    device = resolve_device("auto")
    if device == "cpu":
        torch.set_num_threads(1)  # as a trial has it
    found = []
    for params in space.defaults():
        recipe = space.suggest(cast(Trial, FixedTrial(params)))  # it answers to the same calls
        found.append(train_image_s(recipe, index.num_classes, device, time.perf_counter))
        yield f"  {recipe.backbone.name} + {recipe.head.name}: {1000 * found[-1]:.3g} ms per training image"
    search = space.options.search
    seconds = search.num_trials * search.expected_epochs * num_images * mean(found)
    where = "one core" if device == "cpu" else torch.cuda.get_device_name()
    yield (
        f"so about {duration(seconds)} of {where} for the search on {num_images} images, without loading, "
        "validation and the later stages"
    )


if __name__ == "__main__":
    app()
