"""Text cells of CSV files that a spreadsheet would otherwise run as a formula: file names and class names come from
others.
"""

from __future__ import annotations

import re

STARTS_FORMULA = re.compile(r"'*[=+\-@\t\r]")  # with apostrophes before it, so that every text can be read back


def escaped(value: object) -> object:
    """`value` as a cell: text that begins like a formula gets an apostrophe before it; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and STARTS_FORMULA.match(value) else value


def unescaped(cell: str) -> str:
    """The text that `escaped` made the cell from."""
    return cell[1:] if cell.startswith("'") and STARTS_FORMULA.match(cell) else cell
