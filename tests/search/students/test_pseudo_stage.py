"""The pseudo stage of a run: what is refused before the first trial, and what it writes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.ensembling.pseudo_options import Pseudo, PseudoOptions
from analysis.ensembling.pseudo_result import PseudoResult
from search.run_dir import RunDir
from search.space.problems import SpaceProblems
from search.space.space import load_space
from search.students import pseudo_stage
from search.students.finished_run import open_finished

MODEL = "model: {backbone: test_resnet, pretrained: false, head: segformer}\n"


def space_of(folder: Path, text: str) -> Any:
    (folder / "space.yaml").write_text(MODEL + text, encoding="utf-8")
    return load_space(str(folder / "space.yaml"))


def data_of(unlabelled: tuple[str, ...] = ()) -> Any:
    index = SimpleNamespace(classes=("paper", "plastic bag", "log"), name="trash", ids=lambda role: unlabelled)
    return SimpleNamespace(index=index)


def test_all_that_could_not_begin_is_told_with_its_path(tmp_path: Path) -> None:
    asked = "pseudo: {rule: soft_votes, target_precision: {plastic bug: 0.9, log: 0.8}}\n"
    asked += "train: {batch_size: {choice: [4, 1]}}"
    with pytest.raises(SpaceProblems) as refused:
        pseudo_stage.check(space_of(tmp_path, asked), data_of(("a.jpg",)))
    assert refused.value.problems == [
        "pseudo.target_precision.plastic bug: unknown class; did you mean 'plastic bag'?",
        "pseudo.rule: unknown rule 'soft_votes'; did you mean 'soft_vote'?",
        "train.batch_size: must be at least 2 with pseudo labels, got 1; raise it, or leave `pseudo` out",
    ]


def test_a_card_without_unlabelled_images_is_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    pseudo_stage.check(space_of(tmp_path, "pseudo: null"), data_of())
    with pytest.raises(ValueError, match="pseudo labels need unlabelled images, got none in the card of trash"):
        pseudo_stage.check(space_of(tmp_path, "pseudo: {}"), data_of())


@pytest.mark.parametrize(("unlabelled", "said"), [((), "pseudo: off"), (("a", "b"), "from 2 unlabelled images")])
def test_off_is_said(tmp_path: Path, unlabelled: tuple[str, ...], said: str) -> None:
    lines: list[str] = []
    context: Any = SimpleNamespace(space=space_of(tmp_path, ""), data=data_of(unlabelled), say=lines.append)
    pseudo_stage.run(context)
    assert lines[0].endswith(said)


def test_the_stage_does_what_the_command_does(finished_run: Path, tmp_path: Path, local_ray: None) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    run, lines = RunDir(tmp_path / "run"), list[str]()
    finished = open_finished(run, finished_run.parent / "cache", say=lines.append, now=datetime.now)
    asked = Pseudo(rule="soft_vote", target_precision=0.0, min_certain=0.01, cap=1000.0, epochs=1, schedule="continue")
    options = finished.context.space.options.model_copy(update={"pseudo": asked})
    context = replace(finished.context, space=replace(finished.context.space, options=options))
    lines.clear()
    pseudo_stage.run(context)
    result = PseudoResult.read(run.pseudo_json)
    assert result.options == PseudoOptions(**asked.model_dump())
    assert lines[0] == "pseudo: 4 unlabelled images, at most 1 rounds of 1 students"
    assert f"round 1: {result.rounds[0].reason}" in lines  # as the task says it
    assert lines[-1] == result.sentence
