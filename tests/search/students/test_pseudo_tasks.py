"""Students of several folds at once come to what they come to one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import torch

from analysis.ensembling.pseudo_options import PseudoOptions
from search.run_dir import RunDir
from search.students import pseudo
from search.students.finished_run import open_finished
from search.students.pseudo_steps import InSequence, Setting
from search.students.pseudo_tasks import AsTasks

OPTIONS = PseudoOptions(
    rule="soft_vote", target_precision=0.0, min_certain=0.01, cap=1000.0, epochs=1, schedule="continue"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a task of one CPU has: the order of a sum depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_at_once_as_in_sequence_and_each_takes_up_what_the_other_left(
    folded_run: Path, tmp_path: Path, local_ray: None
) -> None:
    shutil.copytree(folded_run, tmp_path / "run")
    lines: list[str] = []
    run, cache = RunDir(tmp_path / "run"), folded_run.parent / "cache"
    finished = open_finished(run, cache, say=lines.append, now=lambda: datetime(2026, 1, 31))
    at_once, in_sequence = tmp_path / "at-once", tmp_path / "in-sequence"
    pseudo.run(AsTasks.of(finished, OPTIONS, {"cpu": 1.0, "gpu": 0.0}), at_once)
    assert any(line.startswith("round-1/fold-1: epoch 1 of 1") for line in lines)
    pseudo.run(InSequence(Setting(finished, OPTIONS, "cpu", 1)), in_sequence)
    found = files_of(at_once)
    assert found == files_of(in_sequence)
    (at_once / "pseudo.json").unlink()
    (at_once / "round-1/fold-1/student/best.safetensors").unlink()
    lines.clear()
    pseudo.run(InSequence(Setting(finished, OPTIONS, "cpu", 1)), at_once)
    assert files_of(at_once) == found
    assert [line.partition(":")[0] for line in lines if ": epoch" in line] == ["round-1/fold-1"]
