"""Writes rows as a table for a terminal, CSV, Markdown or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search.run_table.choose import NUMBERS
from search.run_table.rows import Row
from trainables.csv_cells import escaped

Line = Mapping[str, Any]  # column -> value
COUNT = "rows"  # of a group
COUNTS = ("trials", "epochs", COUNT)


def lines_of(rows: Sequence[tuple[Row, int]], *, grouped: bool) -> list[Line]:
    """Rows as plain values; of groups with their size."""
    return [{**row.model_dump(), **({COUNT: count} if grouped else {})} for row, count in rows]


def as_csv(lines: Sequence[Line]) -> bytes:
    """Every column, whole numbers; text that a spreadsheet would run has an apostrophe before it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), restval="", lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: "" if value is None else escaped(value) for key, value in line.items()})
    return text.getvalue().encode()


def as_markdown(lines: Sequence[Line]) -> bytes:
    """The columns that have a value, rounded."""
    columns = _filled(lines)
    rows = [columns, ["---:" if key in NUMBERS or key == COUNT else "---" for key in columns]]
    rows += [[_plain_markdown(_rounded(key, line[key])) for key in columns] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).encode()


def as_terminal(lines: Sequence[Line]) -> bytes:
    """The columns that have a value, rounded; as wide as they are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = _filled(lines)
    for key in columns:
        table.add_column(key, justify="right" if key in NUMBERS or key == COUNT else "left", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(_printable(_rounded(key, line[key]))) for key in columns))
    text = io.StringIO()
    Console(file=text, width=10_000, force_terminal=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()).encode()


def as_parquet(lines: Sequence[Line]) -> bytes:
    """Every column with its type, for pandas, Polars and DuckDB."""
    import pyarrow
    from pyarrow import parquet

    kinds = {**dict.fromkeys(NUMBERS, pyarrow.float64()), **dict.fromkeys(COUNTS, pyarrow.int64())}
    schema = pyarrow.schema([(key, kinds.get(key, pyarrow.string())) for key in lines[0]])
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist([dict(line) for line in lines], schema=schema), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


FORMATS: dict[str, Callable[[Sequence[Line]], bytes]] = {
    "rich": as_terminal,
    "csv": as_csv,
    "md": as_markdown,
    "parquet": as_parquet,
}


def _filled(lines: Sequence[Line]) -> list[str]:
    return [key for key in lines[0] if any(line[key] not in (None, "") for line in lines)]


def _rounded(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}" if key.endswith("_hours") else f"{value:.4f}"
    return str(value)


def _printable(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def _plain_markdown(text: str) -> str:
    """Text that stays in its cell and begins no markup."""
    for sign in "\\|`*_<>[]":
        text = text.replace(sign, f"\\{sign}")
    return _printable(text)
