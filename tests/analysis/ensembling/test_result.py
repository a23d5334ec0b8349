"""ensemble.json as it is written and read again, and what is said of a file that is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from factories import as_json, make_ensemble, make_gain, make_member

from analysis.ensembling.result import EnsembleResult, FittedOn
from analysis.postprocess.options import Postprocess

CLASSES = ["Background", "Paper", "Glass"]


@pytest.fixture
def result() -> EnsembleResult:
    """With everything that a file may leave out: a soup, a post-processed rule, scores that are not known."""
    soup = make_member("soup-0000", ingredients=("0000 epoch 4", "0000 epoch 3"))
    plain = make_ensemble(CLASSES, [make_member(), soup])
    sizes = Postprocess(min_component=(0.0, 0.1, 0.0), max_hole=(0.0,) * 3)
    changes = {"name": "postprocessed", "of": "member_class", "postprocess": sizes}
    rule = plain.rules[-1].model_copy(update=changes | {"gain_holdout": make_gain(0.0, None, None)})
    return plain.model_copy(update={"rules": (*plain.rules, rule), "latency_budget_ms": 7.5})


def test_a_result_is_read_as_it_was_written_and_written_as_it_was_read(result: EnsembleResult, tmp_path: Path) -> None:
    result.write(tmp_path / "a.json")
    again = EnsembleResult.read(tmp_path / "a.json")
    assert again == result
    again.write(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()


def test_keys_that_do_not_apply_are_left_out_and_unknown_scores_are_null(result: EnsembleResult) -> None:
    values = as_json(result)
    assert ["ingredients" in member for member in values["members"]] == [False, True]
    assert [("of" in rule, "postprocess" in rule) for rule in values["rules"]] == [(False, False)] * 4 + [(True, True)]
    assert values["rules"][-1]["gain_holdout"]["low"] is None
    assert values["postprocess"]["steps"] is None


def test_a_nan_is_not_written(result: EnsembleResult, tmp_path: Path) -> None:
    verdict = result.verdict.model_copy(update={"gain": make_gain(float("nan"))})
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.model_copy(update={"verdict": verdict}).write(tmp_path / "ensemble.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"got no whole file \(FileNotFoundError"),
        ('{"format": "segsearch-ens', r"got no whole file \(ValueError"),
        ("[]", "must have the format 'segsearch-ensemble/1', got None"),
        ('{"format": "segsearch-ensemble/9"}', "got 'segsearch-ensemble/9'; use the segsearch that wrote it"),
        ('{"format": "segsearch-ensemble/1"}', r"classes: Field required \(16 problems in all\)"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "ensemble.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        EnsembleResult.read(path)
    assert str(path) in str(error.value)


def test_a_verdict_on_a_rule_that_is_not_there_and_weights_of_another_shape_are_refused(
    result: EnsembleResult, tmp_path: Path
) -> None:
    for change, message in (({"classes": ["a"]}, "weights per member and class"), ({"rules": []}, "one of the rules")):
        (tmp_path / "ensemble.json").write_text(json.dumps(as_json(result) | change))
        with pytest.raises(ValueError, match=message):
            EnsembleResult.read(tmp_path / "ensemble.json")


def test_the_fitted_rule_of_the_members_in_use(result: EnsembleResult) -> None:
    fitted = result.shipped.fitted
    assert fitted.used == (0,)
    used = fitted.of_used()
    assert (used.views, used.temperatures, used.weights) == (
        fitted.views[:1],
        fitted.temperatures[:1],
        fitted.weights[:1],
    )


def test_reading_a_verdict_loads_no_arrays_and_no_networks() -> None:
    code = (
        "import sys; import analysis.ensembling.result; "
        "print([name for name in ('numpy', 'torch', 'numba', 'plotly', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_of_before_there_were_folds_was_fitted_on_val() -> None:
    values = as_json(make_ensemble(["a", "b"], [make_member()]))
    del values["fitted_on"]
    assert EnsembleResult.model_validate(values).fitted_on == FittedOn(kind="val", images=values["num_val"], folds=0)
