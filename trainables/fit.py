"""Trains one recipe on one data set from the shell, without Ray. The cache and the checkpoints go to --out.

python -m trainables.fit --recipe recipe.json --data data.yaml --out DIR [--resume DIR/epoch-0003]
    [--device cuda] [--ranks 4]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainables.command import DebugOption, errors_to_exit, fail, new_app

if TYPE_CHECKING:
    from trainables.training.attempt import EpochReport

app = new_app()


@app.command()
def main(
    recipe: Annotated[Path, typer.Option(help="A recipe (JSON).")],
    data: Annotated[Path, typer.Option(help="A data card (YAML).")],
    out: Annotated[Path, typer.Option(help="Where the cache and the checkpoints go; made if absent.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")] = "auto",
    ranks: Annotated[int, typer.Option(min=1, help="GPUs to train on.")] = 1,
    resume: Annotated[Path | None, typer.Option(help="An epoch's folder in --out to go on from.")] = None,
    debug: DebugOption = False,
) -> None:
    """Train one recipe on one data set. Exit code 2 for what the user can correct, 3 for a trial that diverged."""
    with errors_to_exit(debug=debug):  # pydantic's ValidationError is a ValueError
        import torch  # here, so that --help is there at once

        from trainables.data.cache import Cache
        from trainables.data.card import read_card
        from trainables.data.reader import read
        from trainables.data.splits.make_split import decode_facts, make_split
        from trainables.recipe.recipe import Recipe
        from trainables.training.fit import Diverged, Trial, fit

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        checked = Recipe.model_validate_json(recipe.read_bytes())
        index = read(read_card(data))
        cache = Cache.open(index, out / "cache")
        split = make_split(index, seed=checked.seed, known=decode_facts(index, cache))
        try:
            fit(Trial(checked, cache, split, out, device), _print_epoch, resume_from=resume, num_ranks=ranks)
        except Diverged as error:
            if debug:
                raise
            fail(f"the trial diverged: {error}", code=3)


def _print_epoch(done: EpochReport) -> None:
    """Print one line per epoch; of the checkpoints only the newest is kept."""
    from trainables.training.checkpoint import drop_older_epochs

    m = done.metrics
    print(
        f"epoch {done.epoch:3d}  loss {m['train/loss']:.4f}  val {m['val/loss']:.4f}  mIoU {m['val/miou']:.4f}  "
        f"best {m['best/miou']:.4f} ({m['best/epoch']})  {m['images_per_s']:.1f} images/s",
        flush=True,
    )
    drop_older_epochs(done.checkpoint_dir)


if __name__ == "__main__":
    app()
