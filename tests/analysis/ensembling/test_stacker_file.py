"""A stacker's file: read back to the last bit, refused where it is not what the JSON says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save

from analysis.ensembling.fitted_rule import FittedRule, StackerFile
from analysis.ensembling.stacker_file import read_stacker, write_stackers
from analysis.voting.stacker import Stacker
from analysis.voting.votes import Vote

M, K, H = 2, 3, 4


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"weight.0": (H, M * K), "bias.0": (H,), "weight.1": (K, H), "bias.1": (K,)}
    found: dict[str, np.ndarray] = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {**found, "fitted": np.array([1, 1, 0], np.uint8)}


def written(folder: Path, changes: dict[str, Any] | None = None) -> StackerFile:
    raw = save({**tensors(), **(changes or {})})
    (folder / "s.safetensors").write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    return StackerFile(file="s.safetensors", num_bytes=len(raw), sha256=digest, num_hidden=H, strength=0.75)


def test_it_is_read_back_to_the_last_bit_and_written_once_for_all_strengths(tmp_path: Path) -> None:
    stacker = read_stacker(tmp_path, written(tmp_path), M, K)
    votes = {f"rule{n}": Vote("stacked", np.ones((M, K), np.float32), stacker.at_strength(n / 4)) for n in (2, 4)}
    files = write_stackers(tmp_path, {"plain": Vote("soft", np.ones((M, K), np.float32)), **votes})
    assert {(rule, file.file, file.strength) for rule, file in files.items()} == {
        ("rule2", "rule2.safetensors", 0.5),
        ("rule4", "rule2.safetensors", 1.0),
    }
    again = read_stacker(tmp_path, files["rule2"], M, K)
    assert again.map_key == stacker.map_key
    assert again.strength == 0.5
    before = (tmp_path / "rule2.safetensors").read_bytes()
    write_stackers(tmp_path, votes)
    assert (tmp_path / "rule2.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight.0": np.zeros((H, M * K + 1), np.float32)}, "must hold a stacker of the shapes"),
        ({"more": np.zeros(1, np.float32)}, "must hold a stacker of the shapes"),
        ({"bias.1": np.array([0, np.nan, 0], np.float32)}, "must hold finite float32 numbers"),
        ({"bias.1": np.zeros(K, np.float64)}, "must hold finite float32 numbers"),
        ({"fitted": np.zeros(K, np.uint8)}, "at least one"),
        ({"fitted": np.full(K, 2, np.uint8)}, "by 0 and 1"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_stacker(tmp_path, written(tmp_path, changes), M, K)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "got no file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "has grown"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"), "was changed"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    file = written(tmp_path)
    damage(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match=message):
        read_stacker(tmp_path, file, M, K)


def test_bytes_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    raw = b"\xff" * 64
    (tmp_path / "s.safetensors").write_bytes(raw)
    digest = hashlib.sha256(raw).hexdigest()
    file = StackerFile(file="s.safetensors", num_bytes=64, sha256=digest, num_hidden=H, strength=1.0)
    with pytest.raises(ValueError, match="must be a safetensors file"):
        read_stacker(tmp_path, file, M, K)


@pytest.mark.parametrize(
    "change", [{"file": "../s.safetensors"}, {"file": "s.pkl"}, {"num_bytes": 2**40}, {"strength": 1.5}]
)
def test_a_record_that_leads_elsewhere_or_is_too_large_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StackerFile.model_validate(written(tmp_path).model_dump() | change)


def test_a_stacked_rule_alone_has_a_stacker_and_one_row_of_class_weights(tmp_path: Path) -> None:
    values: dict[str, Any] = {"views": (("a",), ("a",)), "temperatures": (1.0, 1.0), "weights": ((1.0, 2.0),) * 2}
    FittedRule(kind="stacked", stacker=written(tmp_path), **values)
    for change in (
        {"kind": "stacked"},
        {"kind": "soft", "stacker": written(tmp_path)},
        {"kind": "stacked", "stacker": written(tmp_path), "weights": ((1.0, 2.0), (1.0, 1.0))},
    ):
        with pytest.raises(ValidationError, match="stacked vote"):
            FittedRule(**(values | change))
    with pytest.raises(AssertionError):
        Vote("soft", np.ones((M, K), np.float32), Stacker((), np.ones(K, bool)))
