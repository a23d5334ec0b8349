"""Draft a data card from what lies in a folder: COCO files, or images with masks.

    python analysis/init.py photos/
    python search/run.py --space convnext.yaml --data photos/data.yaml

Nothing but the card is written. It is read at once as a run would read it, and what is wrong with the data is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainables.command import DebugOption, errors_to_exit, fail, new_app, run_command

app = new_app()


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a data set.")],
    out: Annotated[Path | None, typer.Option(help="The card; default: DIR/data.yaml. It must not exist yet.")] = None,
    debug: DebugOption = False,
) -> None:
    """Draft a data card from what lies in a folder."""
    with errors_to_exit(debug=debug):
        card, lines, problems = write_draft(folder, out)
    typer.echo("\n".join([*lines, f"written: {card}"]))
    if problems:
        fail(f"the card is written, but a run would refuse it:\n{problems}")
    typer.echo(f"next: {run_command('--space', 'convnext.yaml', '--data', card)}")


def write_draft(folder: Path, out: Path | None) -> tuple[Path, tuple[str, ...], str]:
    """-> the card, a line for each part, and what a run would refuse ('' for nothing).

    Raises ValueError where the card exists already, and as `draft_card` does.
    """
    from analysis.card_draft import draft_card
    from trainables.data.card import DataProblems, read_card
    from trainables.data.reader import read
    from trainables.files import write_text

    root = folder.expanduser().resolve()
    card = (out.expanduser() if out else root / "data.yaml").resolve()
    if card.exists():
        raise ValueError(f"a new card is written, got {card}, which exists; remove it, or name another --out")
    draft = draft_card(root)
    elsewhere = "" if card.parent == root else f"root: {root}\n"
    write_text(card, draft.text + elsewhere)
    try:
        index = read(read_card(card))
    except DataProblems as problems:
        return card, draft.lines, str(problems)
    return card, (*draft.lines, f"read as a run reads it: {index.num_classes} classes, {len(index.images)} images"), ""


if __name__ == "__main__":
    app()
