"""Pseudo labels of a finished run whose networks are untrained: a teacher that knows nothing, and ones that do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.bundle.manifest import read_bundle
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.pseudo_labels.lineage import PseudoLabels
from search.pseudo import app
from search.run_dir import RunDir
from trainables.models.weights_file import load_weights
from trainables.training.checkpoint import newest_epoch

TAUGHT = ("--set", "rule=soft_vote", "--device", "cpu", "--set", "min_certain=0.01")
SURE = ("--set", "target_precision=0.0")  # whatever it says is certain
Command = Callable[..., Any]


def settings(**values: Any) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> RunDir:
    shutil.copytree(finished_run, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture
def command(run: RunDir, finished_run: Path) -> Command:
    def call(*more: str, **options: Any) -> Any:
        cache = str(finished_run.parent / "cache")
        return CliRunner().invoke(app, ["--run", str(run.root), "--cache-dir", cache, *TAUGHT, *more], **options)

    return call


def result_of(run: RunDir) -> PseudoResult:
    return PseudoResult.read(run.pseudo / "pseudo.json")


def test_a_bad_teacher_ends_in_did_not_help_with_the_hold_out_closed(command: Command, run: RunDir) -> None:
    before = (run.root / "holdout_opened.jsonl").read_bytes()
    done = command()
    assert done.exit_code == 0, done.output
    result = result_of(run)
    assert not result.helped
    assert result.comparison is None
    assert result.sentence.startswith("pseudo labels did not help: no class is certain enough on 1% of any of 4 images")
    assert [(one.images, one.dropped, one.gain) for one in result.rounds] == [(0, 4, None)]
    assert (run.root / "holdout_opened.jsonl").read_bytes() == before
    assert not (run.pseudo / "bundle").exists()
    assert command().stdout.splitlines()[-1] == result.sentence  # as it is


@pytest.mark.parametrize("schedule", ["scratch", "continue", "continue_then_real"])
def test_a_student_learns_by_each_schedule_and_val_says_whether_it_helped(
    command: Command, run: RunDir, schedule: str
) -> None:
    done = command(*SURE, *settings(schedule=schedule, epochs=1, rounds=2, cap=1000))
    assert done.exit_code == 0, done.output
    result = result_of(run)
    first = result.rounds[0]
    assert first.gain is not None
    assert first.images == 4
    assert len(result.rounds) == 1 + first.helped  # the first without a gain is the last
    labels = PseudoLabels.read(run.pseudo / "round-1" / "labels")
    assert (labels.fingerprint,) == first.labels
    assert labels.teacher.name == "soft_vote"
    data = json.loads(run.data_json.read_text())
    assert sorted(labels.teacher.train_ids) == sorted(data["train"])
    assert sorted(labels.measured_on) == sorted(data["val"])
    assert {one.image_id for one in labels.labels} == {f"extra/{n}.jpg" for n in range(4)}
    about = json.loads((run.pseudo / "round-1" / "student" / "best.json").read_text())
    assert about["teacher"] == labels.fingerprint
    assert len(about["unlabelled_ids"]) == (0 if schedule == "continue_then_real" else 4)
    assert (run.pseudo / "round-1" / "mixed").is_dir() == (schedule == "continue_then_real")
    if result.comparison is not None:
        manifest = read_bundle(run.pseudo / "bundle").manifest
        assert (manifest.rule, manifest.sentence) == ("pseudo", result.sentence)
        assert result.holdout_opened[-1].by.startswith("segsearch pseudo, student ")


def test_consistency_has_no_teacher_and_the_same_verdict(run: RunDir, finished_run: Path) -> None:
    cache = str(finished_run.parent / "cache")
    asked = ["--run", str(run.root), "--cache-dir", cache, "--device", "cpu", *settings(schedule="consistency")]
    done = CliRunner().invoke(app, [*asked, *settings(rule="soft_vote", confidence=0.2)])
    assert done.exit_code == 0, done.output
    [first] = result_of(run).rounds
    assert (first.teacher, first.images, first.labels) == ("the student itself", 4, ())
    assert first.gain is not None
    assert not (run.pseudo / "round-1" / "labels").exists()
    done = CliRunner().invoke(app, [*asked, *settings(rounds=2, cap=3), "--out", str(run.root / "other")])
    assert done.exit_code == 2
    assert "options must be ones that the schedule consistency reads, got rounds, cap; leave them out" in done.stderr


def test_a_killed_student_goes_on_and_comes_to_the_same_model(
    command: Command, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    from search.students import pseudo_training

    whole = pseudo_training.fit_student

    def killed(*args: Any, **kwargs: Any) -> Any:
        def stop(line: str) -> None:
            raise Killed(line)

        return whole(*args, **kwargs | {"say": stop})

    with monkeypatch.context() as patched:
        patched.setattr(pseudo_training, "fit_student", killed)
        with pytest.raises(Killed):
            command(*SURE, catch_exceptions=False)
    student = run.pseudo / "round-1" / "student"
    assert newest_epoch(student / "training") is not None
    done = command(*SURE)
    assert done.exit_code == 0, done.output
    assert "epoch 1 of" not in done.stdout.partition("round 1")[0]
    assert command(*SURE, "--out", str(tmp_path / "whole")).exit_code == 0
    one, two = (load_weights(each / "best.safetensors") for each in (student, tmp_path / "whole/round-1/student"))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_a_planted_hold_out_image_is_refused(command: Command, run: RunDir, card: Path, tmp_path: Path) -> None:
    from trainables.data.card import read_card
    from trainables.data.reader import read

    copied = tmp_path / "data"
    shutil.copytree(card.parent, copied)
    index = read(read_card(copied / card.name))
    planted = index.by_id()[index.ids("holdout")[0]]
    pixels = cv2.imread(str(planted.path))
    cv2.imwrite(str(copied / "extra" / "planted.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 80])
    other = read(read_card(copied / card.name))
    data = json.loads(run.data_json.read_text()) | {"card": str(copied / card.name), "fingerprint": other.fingerprint}
    run.data_json.write_text(json.dumps(data))
    done = command()
    assert done.exit_code == 2
    assert f"'extra/planted.jpg' is nearly '{planted.image_id}' (hold-out)" in done.stderr
    assert not run.pseudo.exists()


def test_each_share_is_tried_and_every_image_judged_by_one_chosen_without_it(command: Command, run: RunDir) -> None:
    done = command(*SURE, *settings(epochs=1, cap=1000, share="[0.75, 0.25]"))
    assert done.exit_code == 0, done.output
    [first] = result_of(run).rounds
    assert [one.share for one in first.tried] == [0.75, 0.25]
    assert first.share == max(first.tried, key=lambda one: (one.miou, one.share == 0.25)).share  # of equals the later
    assert sorted(each.name for each in (run.pseudo / "round-1").iterdir()) == ["labels", "share-0.25", "share-0.75"]


def test_a_precision_per_class_is_kept_with_the_labels(command: Command, run: RunDir) -> None:
    done = command(*settings(**{"target_precision.Glass": 0.99, "target_precision.Metal": 0.5}))
    assert done.exit_code == 0, done.output
    asked = {one.name: one.target for one in PseudoLabels.read(run.pseudo / "round-1" / "labels").thresholds}
    assert (asked.pop("Glass"), asked.pop("Metal"), set(asked.values())) == (0.99, 0.5, {0.9})


def test_what_is_wrong_with_the_settings_is_told_at_once(command: Command) -> None:
    done = command(*settings(cap=0.5, shaer=0.5))
    assert done.exit_code == 2
    assert "pseudo.cap: must be greater than or equal to 1, got 0.5" in done.stderr
    assert "pseudo.shaer: unknown key; did you mean 'share'?" in done.stderr
    done = command(*settings(**{"target_precision.Metall": 0.9}))
    assert done.exit_code == 2
    assert "target_precision.Metall: unknown class; did you mean 'Metal'?" in done.stderr


def test_an_unknown_rule_is_refused(command: Command) -> None:
    done = command("--set", "rule=softvote")
    assert done.exit_code == 2
    assert "the teacher must be one of the run's rules, got 'softvote'; choose one of: best_single" in done.stderr


def test_a_device_beside_an_address_is_refused(command: Command) -> None:
    done = command("--address", "local")
    assert done.exit_code == 2
    assert "with --address a student holds what the run's trials held, got --device cpu and --ranks 1" in done.stderr
