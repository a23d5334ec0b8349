"""The report's table of trials. It fits a page however many parameters a space has: a trial's line has what all trials
have, and its settings are folded under it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The columns that lead the table, in this order; a device's seconds and ties follow.
LEADING_COLUMNS = ("trial", "state", "best mIoU", "best epoch", "epochs", "backbone", "head")
FOLDED = ("recipe", "error")
NAME_COLUMNS = ("trial", "recipe", "state", "error")  # never numbers, even where all hashes look like some
MAX_TOLD = 4  # settings that a folded line tells


@dataclass(frozen=True)
class Column:
    """A column of the table; a cell is (text, sort key)."""

    name: str
    numeric: bool
    cells: list[tuple[str, str]]


@dataclass(frozen=True)
class Folded:
    """What stands under a trial's line: its settings as (name, text), and its error."""

    settings: list[tuple[str, str]]
    error: str

    @property
    def summary(self) -> str:
        """'lr 0.001, channels 256 and 7 more'."""
        told = ", ".join(f"{name.rpartition('/')[2]} {text}" for name, text in self.settings[:MAX_TOLD])
        more = len(self.settings) - MAX_TOLD
        return f"{told} and {more} more" if more > 0 else told


@dataclass(frozen=True)
class TrialTable:
    """Columns of cells, and per trial what is folded."""

    columns: list[Column]
    folded: list[Folded]


def trial_table(trials: Sequence[Mapping[str, Any]], importances: Mapping[str, float]) -> TrialTable:
    """The table of `trials`; a parameter has a "/" in its name, which no other key has. The most important come first.

    Left out is what no trial has, and parameters that repeat a leading column (model/backbone).
    """
    names = list(dict.fromkeys(key for row in trials for key in row))
    names = [name for name in names if any(_filled(row.get(name)) for row in trials)]
    leading = [name for name in LEADING_COLUMNS if name in names]
    told = [[row.get(name) for row in trials] for name in leading]
    parameters = [name for name in names if "/" in name and [row.get(name) for row in trials] not in told]
    parameters.sort(key=lambda name: -importances.get(name, 0.0))
    plain = [name for name in names if name not in (*leading, *FOLDED) and "/" not in name]
    columns = {name: _column(name, [row.get(name) for row in trials]) for name in (*names, *FOLDED)}
    texts = [{name: column.cells[n][0] for name, column in columns.items()} for n in range(len(trials))]
    return TrialTable(
        [columns[name] for name in (*leading, *plain)],
        [Folded([(name, row[name]) for name in (*parameters, "recipe") if row[name]], row["error"]) for row in texts],
    )


def _column(name: str, values: Sequence[Any]) -> Column:
    numbers = [_as_number(value) for value in values]
    numeric = name not in NAME_COLUMNS and all(
        number is not None or not _filled(value) for number, value in zip(numbers, values, strict=True)
    )
    if not numeric:
        return Column(name, False, [(str(v), str(v)) if _filled(v) else ("", "") for v in values])
    return Column(name, True, [("", "") if n is None else (_write_number(n), repr(n)) for n in numbers])


def _write_number(value: float) -> str:
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not _filled(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _filled(value: Any) -> bool:
    return value is not None and value != "" and not (isinstance(value, float) and math.isnan(value))
