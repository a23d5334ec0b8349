"""Networks on a device of which autocast thinks as of a GPU: see `fake_gpu.py`, which runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def outcomes() -> list[dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"}
    script = [sys.executable, str(TESTS / "fake_gpu.py")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_step_copies_nothing_between_host_and_device(outcomes: list[dict[str, Any]]) -> None:
    """A tensor of the host would not run, or wait for the device in each step; so would a value that is read back."""
    assert {one["case"]: one["crossings"] for one in outcomes if one["crossings"]} == {}


def test_losses_and_stored_logits_are_float32(outcomes: list[dict[str, Any]]) -> None:
    wanted = ["torch.float32", "fakegpu"]
    assert {one["case"] for one in outcomes if one["loss"] != wanted or one["logits"] != wanted} == set()


def test_the_estimate_counts_what_autocast_of_a_gpu_takes(outcomes: list[dict[str, Any]]) -> None:
    """That of a CPU takes less in float32: maps that are resized, layer norms."""
    for one in outcomes:
        assert one["estimated"] == pytest.approx(one["bytes"], rel=0.1), one["case"]
