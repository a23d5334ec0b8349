"""Find labels that look wrong to models that have not seen them, and write corrected COCO files or masks.

    python analysis/cleanse.py --run runs/folds --out suspects/
    python analysis/cleanse.py --data data.yaml --logits DIR --out suspects/
    python analysis/cleanse.py --data data.yaml --apply list.csv --out corrected/

Writes suspects.html, suspects.csv and suspects.json, or corrected COCO files or masks with a data card. A run judges
only its val images, which its models did not train on: one run per fold (analysis/split.py --folds) judges every image
outside the hold-out. Exit code 2 for what the user can correct.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.label_errors.find import rank_suspects
from trainables.command import DEFAULT_CACHE, DebugOption, errors_to_exit, new_app

app = new_app()


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="The folder to write to; made if absent.")],
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A run with logits, or a folder of such runs; repeatable."),
    ] = None,
    logits: Annotated[list[Path] | None, typer.Option(help="A folder of one trial's val logits; repeatable.")] = None,
    data: Annotated[Path | None, typer.Option(help="The data card; default: the run's own.")] = None,
    apply: Annotated[Path | None, typer.Option(help="A list of corrections to apply: rows of suspects.csv.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of suspects on the page; the list has all.")] = 60,
    cache_dir: Annotated[Path, typer.Option(help="Cache of decoded images.")] = DEFAULT_CACHE,
    debug: DebugOption = False,
) -> None:
    """Rank suspicious labels, or apply the corrections that a person agreed with."""
    with errors_to_exit(debug=debug):
        if apply is not None:
            lines = _apply(data, apply, out)
        else:
            lines = rank_suspects(list(run or ()), list(logits or ()), data, out, top, cache_dir.expanduser())
    typer.echo("\n".join(lines))


def _apply(data: Path | None, listed: Path, out: Path) -> list[str]:
    from analysis.label_errors.corrections import apply_list, read_list
    from trainables.data.card import read_card
    from trainables.data.reader import read

    if data is None:
        raise ValueError("--apply needs the data card whose files it corrects; give --data data.yaml")
    card = read_card(data)
    index = read(card)
    done = apply_list(card, index, read_list(listed, index), out)
    said = ", ".join(f"{count} {action}" for action, count in sorted(done.items())) or "nothing"
    return [f"applied: {said}", f"written: {out / 'data.yaml'} (the original files are as they were)"]


if __name__ == "__main__":
    app()
