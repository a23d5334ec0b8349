"""YAML within bounds: every fault has a reason and a place, and none takes long."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trainables.bounded_yaml import load_yaml, read_bounded, why_not_yaml

LAUGHS = "\n".join(["a0: &a0 [ha, ha]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))])
MERGES = "\n".join(["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40))])


def test_aliases_and_merges_are_read() -> None:
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, y: [*a]}")["b"] == {"x": 1, "y": [{"x": 1}]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "with its aliases written out"),
        (MERGES, "with its aliases written out"),
        ("a: &a '" + "x" * 9999 + "'\nb: [" + "*a, " * 999 + "]", "with its aliases written out"),
        ("a: &a [*a]", "must not contain itself; write the value out, in line 1, column 8"),
        ("[" * 3000, "nested at most 60 deep"),
        ("{a: " * 3000, "nested at most 60 deep"),
        ("a: 2026-13-45", r"'2026-13-45' is no timestamp \(month must be in 1..12\); correct it, or put it in quotes"),
        ("a: !!timestamp x", "'x' is no timestamp"),
        ("a: !!bool x", "'x' is no bool"),
        ("a: !!int x", "'x' is no int"),
        ("a: 0b_", "'0b_' is no int"),
        ("a: " + "9" * 400, "at most 64 characters"),
        ("a: " + "9" * 20, "must fit 64 bits"),
        ("a: 0x" + "f" * 5000, "at most 64 characters"),
        ("a: -.inf", "must be finite, got '-.inf'"),
        ("a: .nan", "must be finite"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("? [[1]]\n: 2", "unhashable key"),
        ("a: b: c", "mapping values are not allowed here, in line 1, column 5"),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, reason: str) -> None:
    with pytest.raises(yaml.YAMLError) as error:
        load_yaml(text)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(why_not_yaml(error.value))


def test_a_long_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * 2**18 + b"x")
    with pytest.raises(ValueError, match="more than 256 KiB"):
        read_bounded(tmp_path / "a.yaml")
