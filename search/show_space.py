"""Print a space as a run would read it: resolved, with its ranges, and what it asks for in epochs.

    segsearch space --show convnext.yaml [--profile cpu] [--set search.num_trials=8]

The output is YAML that stands alone and reads back as the same space; what is counted stands in comments. Nothing is
trained and no data is read, so cost is told in epochs: what one takes, the first trial of a run shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

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
    debug: DebugOption = False,
) -> None:
    """Print a space as a run would read it, with its ranges and what it asks for."""
    with errors_to_exit(debug=debug):
        from search.space.space import load_space

        space = load_space(show, profile=profile, overrides=assignments or ())
    typer.echo(space.to_yaml().rstrip("\n"))
    typer.echo("\n".join(f"# {line}" for line in describe(space)))


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


if __name__ == "__main__":
    app()
