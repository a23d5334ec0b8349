"""What became of the images of a prediction, and how a command says it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import typer

from trainables.command import fail

MAX_NAMED = 20


@dataclass
class Outcome:
    """What became of the images."""

    names: list[str]  # of images
    finished_before: int = 0  # images, by an earlier run
    predicted: int = 0  # images, by this one
    wall_s: float = 0.0
    unreadable: list[str] = field(default_factory=list)  # images that could not be read, a line each
    warnings: dict[str, list[str]] = field(default_factory=dict)  # rule -> the files that bend it
    note: str = ""  # on the bundle
    written: Path | None = None  # the file of a format that has one
    withheld: str = ""  # why there is no such file


def report(outcome: Outcome, out: Path) -> None:
    """Print warnings and the count; exit with code 2, naming them, where images could not be read."""
    if outcome.note:
        typer.echo(f"note: {outcome.note}", err=True)
    for rule, names in outcome.warnings.items():
        more = ", ..." if len(names) > MAX_NAMED else ""
        typer.echo(f"warning: {rule} ({', '.join(names[:MAX_NAMED])}{more}): {len(names)}", err=True)
    typer.echo(_count(outcome, out))
    if outcome.unreadable:
        lines = "\n".join(f"  {problem}" for problem in outcome.unreadable)
        fail(f"{len(outcome.unreadable)} images could not be read{outcome.withheld}:\n{lines}")


def _count(outcome: Outcome, out: Path) -> str:
    """'3 of 3 images labelled, in OUT; 1 before, 2 now at 5.1 images/s'."""
    done = f"{outcome.finished_before + outcome.predicted} of {len(outcome.names)} images labelled"
    rate = f" at {outcome.predicted / outcome.wall_s:.1f} images/s" if outcome.predicted and outcome.wall_s else ""
    before = f"{outcome.finished_before} before, " if outcome.finished_before else ""
    return f"{done}, in {outcome.written or out}; {before}{outcome.predicted} now{rate}"
