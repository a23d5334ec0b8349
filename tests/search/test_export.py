"""Another rule than the verdict's ships from the files of a run directory alone, marked as the user's choice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from factories import TinyRun, make_tiny_run, with_shipped
from typer.testing import CliRunner

from analysis.bundle.manifest import read_bundle
from analysis.ensembling.result import NO_GAIN, FittedOn, FormResult
from analysis.report.exports import exports_markup
from search.engine.study_file import STUDY_NAME, open_storage
from search.export import app
from search.run_dir import RunDir
from search.run_lock import hold
from search.stages import bundle
from search.stages.stage import Context
from trainables.recipe.recipe import Recipe

TRIALS = ("00000", "soup-0", "00001")
AT = "2026-05-01T12:00:00+00:00"
RECORD: dict[str, Any] = {
    "format": "segsearch-run/1",
    "command": ["/usr/bin/segsearch", "run", "--space", "convnext.yaml"],
    "asked": {"space": "convnext.yaml", "data": None, "assignments": [], "profile": None},
    "card": "/data/data.yaml",
    "data_fingerprint": "data",
    "split_fingerprint": "split",
    "started": AT,
    "versions": {},
    "stages": dict.fromkeys(("search", "soups", "folds", "logits", "ensemble"), AT),
}
DATA: dict[str, Any] = {"card": "/data/data.yaml", "name": "trash", "fingerprint": "data", "licences": ["CC BY 4.0"]}
DATA |= {"split_fingerprint": "split", "flip_pairs": [[1, 2]], "train": ["c"], "val": ["a", "b"], "holdout": ["d"]}


def write_study(run: RunDir, tiny: TinyRun) -> None:
    """Trials 0 and 1, with the checkpoints of members 0 and 2."""
    storage = open_storage(run.study_db)
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize")
    for trial in (TRIALS[0], TRIALS[2]):
        [weights] = tiny.weights[trial]
        recipe = Recipe.model_validate(json.loads(weights.with_suffix(".json").read_text())["recipe"])
        identity = {"hash": recipe.hash, "family": recipe.family, "recipe": recipe.model_dump(mode="json")}
        checkpoint = {"path": str(weights.parent.relative_to(run.root))}
        attrs = {"identity": identity, "checkpoint": checkpoint, "progress": {"best_miou": 0.5}}
        study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs=attrs))
    storage.engine.dispose()


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ensemble stage is done: two trials and a soup."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "judged")
    tiny = make_tiny_run(run.tune, TRIALS)
    shutil.move(run.tune / TRIALS[1], run.soups / TRIALS[1])
    write_study(run, tiny)
    tiny.ensemble.write(run.ensemble_json)
    run.run_json.write_text(json.dumps(RECORD))
    run.data_json.write_text(json.dumps(DATA))
    return run.root


@pytest.fixture
def run(judged: Path, tmp_path: Path) -> RunDir:
    return RunDir(Path(shutil.copytree(judged, tmp_path / "run")).resolve())


def export(run: RunDir, rule: str, *more: object) -> Any:
    return CliRunner().invoke(app, ["--run", str(run.root), "--rule", rule, *map(str, more)])


def refused(run: RunDir, rule: str, *more: object) -> str:
    done = export(run, rule, *more)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    return str(done.stderr)


def test_another_rule_ships_and_is_marked_as_the_users_choice(run: RunDir) -> None:
    done = export(run, "hard_vote")
    assert done.exit_code == 0, done.output
    manifest = read_bundle(run.root / "bundle-hard_vote").manifest
    assert (manifest.rule, manifest.vote, len(manifest.members)) == ("hard_vote", "hard", 3)
    assert manifest.sentence == "Ship it."
    assert manifest.flip_pairs == ((1, 2),)
    assert manifest.licences[0] == "images of trash: CC BY 4.0"
    choice = manifest.user_choice
    assert choice is not None
    assert choice.verdict_rule == "member_class"
    assert "on 3 held-out images its mIoU is 0.500 [0.480, 0.520], +0.010 mIoU [-0.005, +0.020]" in choice.sentence
    assert done.stdout.splitlines() == [
        choice.sentence,
        "the verdict: Ship it.",
        f"bundle: {run.root / 'bundle-hard_vote'}",
    ]


def test_the_verdicts_own_rule_is_the_bundle_stages_output_byte_for_byte(run: RunDir) -> None:
    bundle.run(Context(run, *[None] * 4))  # type: ignore[arg-type]  # it reads the run directory alone
    assert export(run, "member_class").exit_code == 0
    first, second = (
        {p.name: p.read_bytes() for p in d.iterdir()} for d in (run.bundle, run.root / "bundle-member_class")
    )
    assert first == second
    assert "user_choice" not in json.loads(first["bundle.json"])
    assert "exports" not in json.loads(run.run_json.read_text())


def test_the_report_of_the_run_names_what_was_exported(run: RunDir) -> None:
    run.report.write_text(f"<p>before</p>{exports_markup([])}<p>after</p>")
    for _ in range(2):  # the second replaces the first, here and in the report
        assert export(run, "best_single", "--out", run.root / "<b>").exit_code == 0
    text = run.report.read_text()
    assert text.count("the user ships best_single instead of member_class") == 1
    assert "/run/&lt;b&gt;</code>" in text
    assert text.startswith("<p>before</p>")
    assert text.endswith("<p>after</p>")
    [noted] = json.loads(run.run_json.read_text())["exports"]
    assert (noted["rule"], noted["out"]) == ("best_single", str(run.root / "<b>"))


def test_a_report_without_a_place_for_it_is_said(run: RunDir) -> None:
    run.report.write_text("<p>old</p>")
    assert "is of an earlier version and does not show the choice" in export(run, "best_single").stdout
    assert run.report.read_text() == "<p>old</p>"


def test_the_mean_of_fold_models_ships_whole(run: RunDir, tmp_path: Path) -> None:
    tiny = make_tiny_run(tmp_path / "made", ("folds-00000", "folds-00001", "folds-00002"))
    for trial, [weights] in tiny.weights.items():
        run.fold_models(trial).mkdir(parents=True)
        for fold in range(2):
            for suffix in (".safetensors", ".json"):
                shutil.copy(weights.with_suffix(suffix), run.fold_models(trial) / f"fold-{fold}{suffix}")
    fitted_on = FittedOn(kind="out_of_fold", images=3, folds=2)
    tiny.ensemble.model_copy(update={"fitted_on": fitted_on}).write(run.ensemble_json)
    run.study_db.unlink()
    assert export(run, "best_single", "--out", tmp_path / "out").exit_code == 0
    [member] = read_bundle(tmp_path / "out").manifest.members
    assert [file.weights for file in member.files] == ["member-0-fold-0.safetensors", "member-0-fold-1.safetensors"]


def test_refits_ship_in_place_of_the_means_where_the_verdict_judged_them(run: RunDir, tmp_path: Path) -> None:
    tiny = make_tiny_run(tmp_path / "made", ("folds-00000", "folds-00001", "folds-00002"))
    for trial, [weights] in tiny.weights.items():
        run.fold_models(trial).mkdir(parents=True)
        for name in ("fold-0", "fold-1", "refit"):
            for suffix in (".safetensors", ".json"):
                shutil.copy(weights.with_suffix(suffix), run.fold_models(trial) / f"{name}{suffix}")
    run.study_db.unlink()
    shipped = tiny.ensemble.shipped
    score = shipped.holdout.model_copy(update={"miou": 0.625, "low": 0.5, "high": 0.75})
    refit = FormResult(form="refit", cost=2.0, holdout=score, gain=shipped.gain_holdout, gain_over_shipped=NO_GAIN)
    judged = {"fitted_on": FittedOn(kind="out_of_fold", images=3, folds=2), "form": "mean"}
    tiny.ensemble.model_copy(update={**judged, "other_forms": (refit,)}).write(run.ensemble_json)
    done = CliRunner().invoke(app, ["--run", str(run.root), "--form", "refit"])
    assert done.exit_code == 0, done.output
    manifest = read_bundle(run.root / f"bundle-{shipped.name}-refit").manifest
    assert all(not member.more_weights for member in manifest.members)
    assert manifest.scores.holdout == score
    assert manifest.user_choice is not None
    assert f"ships {shipped.name} of refits instead of {shipped.name} of means of fold models" in done.stdout
    assert "0.625 [0.500, 0.750]" in manifest.user_choice.sentence
    other = next(rule.name for rule in tiny.ensemble.rules if rule.name != shipped.name)
    assert f"--form refit must go with the verdict's rule, {shipped.name}" in refused(run, other, "--form", "refit")
    tiny.ensemble.model_copy(update=judged).write(run.ensemble_json)
    assert "in a form that the verdict judged (mean), got refit" in refused(run, shipped.name, "--form", "refit")


def test_an_unknown_rule_names_all_of_them_with_their_scores(run: RunDir) -> None:
    said = refused(run, "softvote")
    for name in ("best_single", "hard_vote", "geometric_mean", "member_class"):
        assert f"\n  {name}: 0.500 [0.480, 0.520]" in said


def test_weights_that_prune_deleted_are_told_with_the_rules_that_are_whole(run: RunDir) -> None:
    (run.soups / "soup-0" / "best.safetensors").unlink()
    said = refused(run, "hard_vote")
    assert f"got no {run.soups / 'soup-0' / 'best.safetensors'}; `segsearch prune` deleted them" in said
    assert "choose one of: best_single, member_class" in said
    [checkpoint] = run.tune.rglob("00000/best.safetensors")
    checkpoint.unlink()
    assert "segsearch prune" not in refused(run, "best_single")


def test_what_is_no_run_and_what_has_no_verdict_are_refused(run: RunDir, tmp_path: Path) -> None:
    assert "--run needs a run directory with a run.json" in refused(RunDir(tmp_path / "nowhere"), "hard_vote")
    run.run_json.write_text(json.dumps({**RECORD, "stages": {"search": AT}}))
    assert "once the ensemble stage is done" in refused(run, "hard_vote")


def test_only_a_bundle_is_replaced_and_never_the_runs_own(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert export(run, "best_single", "--out", tmp_path / "photos").exit_code == 0  # an empty folder
    assert "bundle, replaced: " in export(run, "best_single", "--out", tmp_path / "photos").stdout
    (tmp_path / "photos" / "a.png").touch()
    assert "nothing else, got" in refused(run, "hard_vote", "--out", tmp_path / "photos")
    assert (tmp_path / "photos" / "a.png").exists()
    assert "must leave the verdict's own bundle as it is" in refused(run, "hard_vote", "--out", run.bundle)
    assert not run.bundle.exists()


def test_a_run_that_another_process_works_on_is_refused(run: RunDir) -> None:
    with hold(run.root, print):
        assert "one process at a time may work on a run" in refused(run, "hard_vote")


def test_a_member_or_rule_whose_name_leads_out_of_the_run_is_refused(run: RunDir) -> None:
    text = run.ensemble_json.read_text()
    run.ensemble_json.write_text(text.replace('"soup-0"', '"../soup-0"'))
    assert "must be named like a folder, got '../soup-0'" in refused(run, "hard_vote")
    run.ensemble_json.write_text(text.replace('"hard_vote"', '"../hard_vote"'))
    assert "rules/1/name: String should match pattern" in refused(run, "../hard_vote")


def test_the_data_of_an_older_run_are_read_from_its_card(run: RunDir, tmp_path: Path) -> None:
    from trainables.data.card import read_card
    from trainables.data.reader import read
    from trainables.data.synthetic.dataset import write_synthetic

    card = write_synthetic(tmp_path / "data", num_images=18, image_px=64, seed=0)
    index = read(read_card(card))
    old = {key: value for key, value in DATA.items() if key not in ("licences", "flip_pairs")}
    run.data_json.write_text(json.dumps({**old, "card": str(card), "fingerprint": index.fingerprint}))
    assert bundle.facts_of(run).licences == index.licences
    run.data_json.write_text(json.dumps({**old, "card": str(card)}))
    with pytest.raises(ValueError, match=r"must be those that it began with \(data\)"):
        bundle.facts_of(run)


def test_a_verdict_for_the_single_model_may_be_overruled(run: RunDir, judged: Path) -> None:
    from analysis.ensembling.result import EnsembleResult

    with_shipped(EnsembleResult.read(run.ensemble_json), "best_single").write(run.ensemble_json)
    assert "instead of best_single, the verdict's" in export(run, "member_class").stdout


def test_no_cluster_is_imported(run: RunDir) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from search.export import app;"
        "print(CliRunner().invoke(app, sys.argv[1:]).exit_code, 'ray' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "--run", str(run.root), "--rule", "best_single"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["0", "False"]


def of_trial(run: RunDir, trial: str, *more: object) -> Any:
    return CliRunner().invoke(app, ["--run", str(run.root), "--trial", trial, *map(str, more)])


def test_one_trial_ships_alone_and_is_marked(run: RunDir) -> None:
    done = of_trial(run, "1")  # the number of 00001
    assert done.exit_code == 0, done.output
    manifest = read_bundle(run.root / "bundle-trial-00001").manifest
    assert [(member.trial, member.views) for member in manifest.members] == [("00001", ("s1.00-none",))]
    assert manifest.scores.holdout.miou is None
    assert manifest.user_choice is not None
    assert "the user ships trial 00001 alone instead of member_class, the verdict's: in validation" in done.stdout
    readme = (run.root / "bundle-trial-00001" / "README.md").read_text(encoding="utf-8")
    assert "segsearch export --run RUN --trial 00001" in readme
    assert "nan" not in readme


def test_the_best_single_models_trial_ships_with_its_scores(run: RunDir) -> None:
    assert of_trial(run, "0").exit_code == 0
    manifest = read_bundle(run.root / "bundle-trial-00000").manifest
    assert (manifest.rule, manifest.scores.holdout.miou) == ("best_single", 0.5)


def test_a_trial_that_is_no_candidate_ships_from_its_checkpoint(run: RunDir) -> None:
    ensemble = json.loads(run.ensemble_json.read_text())
    ensemble["members"][2]["trial"] = "soup-9"
    shutil.copytree(run.soups / "soup-0", run.soups / "soup-9")
    run.ensemble_json.write_text(json.dumps(ensemble))
    done = of_trial(run, "00001")
    assert done.exit_code == 0, done.output
    [member] = read_bundle(run.root / "bundle-trial-00001").manifest.members
    assert member.trial == "00001"


def test_a_trial_that_is_not_there_or_comes_with_a_rule_is_refused(run: RunDir) -> None:
    done = of_trial(run, "7")
    assert done.exit_code == 2
    assert "a trial with a checkpoint, got '7'; choose one of: 00000, soup-0, 00001" in done.stderr
    done = of_trial(run, "1", "--rule", "hard_vote")
    assert done.exit_code == 2
    assert "--trial must go without a rule and a form, got --trial 1 --rule hard_vote" in done.stderr


def test_onnx_of_a_trial_is_written_and_replaced(run: RunDir) -> None:
    for replaced in ("", ", replaced"):
        done = of_trial(run, "1", "--format", "onnx")
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines()[-1] == f"onnx{replaced}: {run.root / 'onnx-trial-00001'}"
    assert "member-0.onnx: largest difference of a logit" in done.stdout
    index = json.loads((run.root / "onnx-trial-00001" / "networks.json").read_text(encoding="utf-8"))
    assert index["user_choice"]["verdict_rule"] == "member_class"
    assert [path.name for path in run.root.glob(".export-*")] == []
    assert "nothing else, got" in of_trial(run, "1", "--out", run.root / "onnx-trial-00001").stderr


def test_half_precision_is_for_onnx_alone(run: RunDir) -> None:
    for file_format in ("bundle", "torch_export"):
        done = of_trial(run, "1", "--fp16", "--format", file_format)
        assert f"--fp16 must go with --format onnx, got --format {file_format}" in done.stderr
