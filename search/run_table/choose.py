"""Which rows are shown, and in which order: filters, sorting, the best row of each group."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from search.run_table.rows import Row

NUMBERS = frozenset(key for key, field in Row.model_fields.items() if field.annotation in (int | None, float | None))
CONDITION = re.compile(r"(?P<key>\w+)(?P<sign>>=|<=|!=|=|>|<)(?P<value>.*)", re.DOTALL)
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}


def check_key(key: str, option: str) -> str:
    """`key` where it is a column. Raises ValueError with the nearest one."""
    if key in Row.model_fields:
        return key
    near = difflib.get_close_matches(key, Row.model_fields, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "choose one"
    raise ValueError(f"{option} must name a column ({', '.join(Row.model_fields)}), got {key!r}; {hint}")


def condition(text: str) -> Callable[[Row], bool]:
    """'backbone=convnext*' (a pattern), 'val>=0.5' (a number) -> whether a row meets it; one without a number does not.

    Raises ValueError for text that is no condition.
    """
    found = CONDITION.fullmatch(text)
    if found is None:
        raise ValueError(f"--filter must be KEY=PATTERN or KEY>=NUMBER, got {text!r}; for example backbone=convnext*")
    key, sign, value = check_key(found["key"], "--filter"), found["sign"], found["value"]
    if key in NUMBERS:
        try:
            bound = float(value)
        except ValueError:
            rule = f"--filter {key} must be compared with a number"
            raise ValueError(f"{rule}, got {value!r}; write for example {key}>=0.5") from None
        return lambda row: getattr(row, key) is not None and COMPARISONS[sign](getattr(row, key), bound)
    if sign not in ("=", "!="):
        raise ValueError(f"--filter {key} is text and takes = or !=, got {sign}; write {key}=PATTERN")
    return lambda row: fnmatchcase(str(getattr(row, key) or ""), value) == (sign == "=")


def ordered(rows: Sequence[Row], key: str) -> list[Row]:
    """By a column, numbers from high to low, text from a to z, '-' before the key turns that; unknown values last."""
    name = check_key(key.removeprefix("-"), "--sort")
    known = [row for row in rows if getattr(row, name) not in (None, "")]
    turned = key.startswith("-") != (name in NUMBERS)
    known.sort(key=lambda row: _comparable(getattr(row, name)), reverse=turned)
    return [*known, *(row for row in rows if getattr(row, name) in (None, ""))]


def first_of_each(rows: Sequence[Row], key: str) -> list[tuple[Row, int]]:
    """The first row of each value of a column, and how many rows have that value."""
    check_key(key, "--group")
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(getattr(row, key), []).append(row)
    return [(group[0], len(group)) for group in groups.values()]


def _comparable(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else value
