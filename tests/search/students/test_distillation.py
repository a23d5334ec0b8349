"""A student of a finished run: trained, judged, shipped; gone on with where it was killed; refused in plain words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.ensembling.distilled_result import DistilledResult
from search import export
from search.distil import app
from search.run_dir import RunDir
from search.students import distillation
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.models.weights_file import load_weights
from trainables.training.checkpoint import newest_epoch

TAUGHT = ("--rule", "soft_vote", "--device", "cpu")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> RunDir:
    shutil.copytree(finished_run, tmp_path / "run")
    return RunDir(tmp_path / "run")


def distil(run: RunDir, cache: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["--run", str(run.root), "--cache-dir", str(cache), *TAUGHT, *more])


@pytest.fixture(scope="session")
def distilled(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with its student, and what the command said."""
    root = tmp_path_factory.mktemp("distilled") / "run"
    shutil.copytree(finished_run, root)
    done = distil(RunDir(root), finished_run.parent / "cache")
    assert done.exit_code == 0, done.output
    return root, done.stdout


def test_a_student_is_judged_beside_its_teacher_and_the_single_model(distilled: tuple[Path, str], card: Path) -> None:
    root, said = distilled
    result = DistilledResult.read(root / "distilled" / "distilled.json")
    index = read(read_card(card))
    assert result.comparison.num_images == len(index.ids("holdout"))
    assert (result.teacher.rule, len(result.teacher.members)) == ("soft_vote", 3)
    assert (result.teacher.out_of_fold, result.teacher.unlabelled) == (0, 4)
    assert result.teacher.in_sample == len(index.ids("train"))
    assert result.student.changes == ("augmentation.cutmix off: a mixed image has no soft labels",)
    ensemble = json.loads((root / "ensemble.json").read_text())
    scores = {rule["name"]: rule["holdout"]["miou"] for rule in ensemble["rules"]}
    assert result.comparison.single.miou == pytest.approx(scores["best_single"])
    assert result.comparison.ensemble.miou == pytest.approx(scores["soft_vote"])
    assert said.splitlines()[-2] == result.sentence
    assert "of its cost" in result.sentence
    assert [one.by.partition(",")[0] for one in result.holdout_opened] == ["a test", "segsearch distil"]


def test_its_bundle_predicts_what_was_judged(distilled: tuple[Path, str], card: Path) -> None:
    from trainables.data.cache import Cache
    from trainables.metrics import confusion, miou

    root, _ = distilled
    result = DistilledResult.read(root / "distilled" / "distilled.json")
    bundle = read_bundle(root / "distilled" / "bundle")
    assert (bundle.manifest.rule, bundle.manifest.sentence) == ("distilled", result.sentence)
    assert bundle.manifest.user_choice is None
    index = read(read_card(card))
    cache = Cache.open(index, root.parent / "cache")
    predictor = Predictor(bundle, device="cpu")
    counts = sum(
        confusion(cache.label(name), predictor.predict(np.array(cache.image(name))), index.num_classes)
        for name in index.ids("holdout")
    )
    assert float(miou(np.asarray(counts))) == pytest.approx(result.comparison.distilled.miou)


def test_it_is_exported_for_other_runtimes(distilled: tuple[Path, str]) -> None:
    root, _ = distilled
    asked = ["--run", str(root), "--trial"]
    done = CliRunner().invoke(export.app, [*asked, "distilled", "--format", "onnx"])
    assert done.exit_code == 0, done.output
    index = json.loads((root / "onnx-distilled" / "networks.json").read_text(encoding="utf-8"))
    assert index["rule"] == "distilled"
    assert done.stdout.splitlines()[-1] == f"onnx: {root / 'onnx-distilled'}"
    done = CliRunner().invoke(export.app, [*asked, "distilled"])
    assert "is a bundle already, got --format bundle; it lies in" in done.stderr
    done = CliRunner().invoke(export.app, [*asked, "pseudo", "--format", "onnx"])
    assert "needs a student that was trained, got no" in done.stderr


def test_what_is_judged_is_left_as_it_is(distilled: tuple[Path, str], finished_run: Path) -> None:
    root, _ = distilled
    before = (root / "distilled" / "distilled.json").read_bytes()
    done = distil(RunDir(root), finished_run.parent / "cache")
    assert done.exit_code == 0
    assert "holds its verdict already" in done.stdout
    assert (root / "distilled" / "distilled.json").read_bytes() == before
    assert "soft_vote" not in (root / "run.json").read_text()
    done = distil(RunDir(root), finished_run.parent / "cache", "--alpha", "0.75")
    assert done.exit_code == 2
    assert "must hold a student of the same options" in done.stderr
    assert "alpha 0.5 and not 0.75" in done.stderr


def test_a_killed_student_goes_on_and_comes_to_the_same_model(
    run: RunDir, distilled: tuple[Path, str], finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    whole = distillation.fit_student

    def killed(*args: Any, **kwargs: Any) -> Any:
        def stop(line: str) -> None:
            raise Killed(line)

        return whole(*args, **kwargs | {"say": stop})

    with monkeypatch.context() as patched:
        patched.setattr(distillation, "fit_student", killed)
        with pytest.raises(Killed):
            CliRunner().invoke(
                app,
                ["--run", str(run.root), "--cache-dir", str(finished_run.parent / "cache"), *TAUGHT],
                catch_exceptions=False,
            )
    assert newest_epoch(run.distilled / "training") is not None
    assert not (run.distilled / "distilled.json").exists()
    done = distil(run, finished_run.parent / "cache")
    assert done.exit_code == 0, done.output
    assert "epoch 1 of" not in done.stdout
    one, two = (load_weights(folder / "distilled" / "best.safetensors") for folder in (distilled[0], run.root))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    mine, other = (DistilledResult.read(each / "distilled" / "distilled.json") for each in (run.root, distilled[0]))
    assert mine.comparison == other.comparison
    assert mine.teacher == other.teacher


def test_one_model_alone_teaches_nobody(run: RunDir, finished_run: Path) -> None:
    done = CliRunner().invoke(
        app, ["--run", str(run.root), "--cache-dir", str(finished_run.parent / "cache"), "--rule", "best_single"]
    )
    assert done.exit_code == 2
    assert "got best_single, one model alone; choose one with --rule:" in done.stderr
    assert "soft_vote (cross-fitted " in done.stderr


def test_a_folder_with_something_else_is_refused(run: RunDir, tmp_path: Path, finished_run: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    done = distil(run, finished_run.parent / "cache", "--out", str(tmp_path / "photos"))
    assert done.exit_code == 2
    assert "which holds something else; choose another" in done.stderr


def test_a_run_whose_files_are_broken_or_whose_data_changed_is_refused(run: RunDir, finished_run: Path) -> None:
    data = json.loads(run.data_json.read_text())
    run.data_json.write_text(json.dumps({**data, "fingerprint": "another"}))
    done = distil(run, finished_run.parent / "cache")
    assert done.exit_code == 2
    assert "the data of the run must be those that it began with (another)" in done.stderr
    run.data_json.write_text(json.dumps({key: value for key, value in data.items() if key != "val"}))
    assert "must describe the run's data, got val: Field required" in distil(run, finished_run.parent / "cache").stderr
    run.data_json.write_text(json.dumps(data))
    (run.root / "confusions.safetensors").unlink()
    done = distil(run, finished_run.parent / "cache")
    assert done.exit_code == 2
    assert "must hold the hold-out's counts of best_single, best_single_class, soft_vote, got none" in done.stderr
    record = json.loads(run.run_json.read_text())
    run.run_json.write_text(json.dumps({**record, "stages": {}}))
    done = distil(run, finished_run.parent / "cache")
    assert "a student learns from a run whose ensemble stage is done" in done.stderr
