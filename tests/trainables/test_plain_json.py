"""JSON of others: text, and within reach."""

from __future__ import annotations

import pytest

from trainables.plain_json import parse_json


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbf[1]", "\ufeff[1]", b"[1]"])
def test_a_byte_order_mark_is_passed_over(raw: bytes | str) -> None:
    assert parse_json(raw) == [1]


def test_a_whole_pair_is_a_character() -> None:
    assert parse_json(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe\xfa", "no UTF-8 text"),
        (b"[" * 100_000, "nested too deep"),
        (b"9" * 5000, "thousands of digits"),
        (rb'{"a": ["\ud800"]}', "half a surrogate pair"),
        (rb'{"\udc80": 1}', "half a surrogate pair"),
        ('"\\ud800"', "half a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused(raw: bytes | str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(raw)
