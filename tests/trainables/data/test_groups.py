"""Groups by the card's regular expression, in bounded time."""

from __future__ import annotations

import pytest

from trainables.data.groups import check_pattern, groups_of


def test_a_group_is_what_the_first_brackets_match_or_all_of_it() -> None:
    names = ["batch_01/7.jpg", "other.jpg", "batch_2.jpg"]
    assert groups_of(r"^(batch_\d+)", names) == ["batch_01", None, "batch_2"]
    assert groups_of(r"batch_\d+/", names) == ["batch_01/", None, None]
    assert groups_of(r"(?<=_)\d+|é", [*names, "é"]) == ["01", None, "2", "é"]


def test_a_pattern_that_would_take_for_ever_is_stopped() -> None:
    with pytest.raises(ValueError, match=r"matches quickly, got '\(a\+\)\+\$'.* without repeats inside repeats"):
        groups_of("(a+)+$", ["a" * 60 + "!"], limit_s=0.2)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "must be a regular expression: missing"),
        ("a{99999999999}", "must be a regular expression: the repetition number is too large"),
        ("(" * 490 + ")" * 490, "must be a regular expression"),
        ("a" * 1001, "at most 1000 characters, got 1001"),
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pattern(pattern)
