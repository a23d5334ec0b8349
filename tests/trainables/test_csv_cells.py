"""Cells that a spreadsheet would run as a formula."""

from __future__ import annotations

import pytest

from trainables.csv_cells import escaped, unescaped


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "'=1", "''-"])
def test_formulas_are_text_and_come_back(text: str) -> None:
    cell = escaped(text)
    assert cell == f"'{text}"
    assert unescaped(cell) == text


@pytest.mark.parametrize("value", ["a=b", "", "it's", "'quoted'", -1.5, 3, None, True])
def test_everything_else_stays_as_it_is(value: object) -> None:
    assert escaped(value) == value
    if isinstance(value, str):
        assert unescaped(value) == value
