"""The progress of a prediction: one line on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override


class ImagesPerSecond(ProgressColumn):
    """'12.3 images/s', over the last half minute."""

    @override
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- images/s" if speed is None else f"{speed:.1f} images/s")


@contextmanager
def progress_line(total: int, done: int = 0, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Count images on standard error, or on `console`, from `done` on; yields a function that adds to the count. The
    line is removed at the end."""
    shown = console or Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), ImagesPerSecond(), TimeRemainingColumn(compact=True), "left")
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=done)
        yield lambda count: progress.advance(task, count)
