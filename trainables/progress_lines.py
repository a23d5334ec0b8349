"""Progress of a long loop: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LINE_EVERY_S = 30.0


def duration(seconds: float) -> str:
    """'2h05m', '3m07s' or '12s'."""
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{rest_minutes:02d}m"
    return f"{minutes}m{rest_s:02d}s" if minutes else f"{rest_s}s"


@contextmanager
def progress(
    total: int, unit: str, stream: TextIO, *, clock: Callable[[], float], every_s: float = LINE_EVERY_S
) -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many more are done. `clock` gives seconds."""
    started_s = shown_s = clock()
    done = 0

    def line() -> str:
        spent_s = clock() - started_s
        rate = done / spent_s if spent_s > 0 else 0.0
        left = f", about {duration((total - done) / rate)} left" if rate and done < total else ""
        return f"{done}/{total} {unit}, {rate:.2f} {unit}/s, {duration(spent_s)}{left}"

    if stream.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = BarColumn(), TextColumn("{task.description}")
        with Progress(*columns, console=Console(file=stream)) as bar:
            task = bar.add_task(line(), total=total)

            def advance(count: int) -> None:
                nonlocal done
                done += count
                bar.update(task, completed=done, description=line())

            yield advance
        return

    def advance_in_lines(count: int) -> None:
        nonlocal done, shown_s
        done += count
        if clock() - shown_s >= every_s:
            shown_s = clock()
            print(line(), file=stream, flush=True)

    yield advance_in_lines
    print(line(), file=stream, flush=True)
