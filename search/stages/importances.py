"""Which parameters mattered for the trials' scores, in two ways.

fANOVA (Hutter et al. 2014) shares out the variance of all scores. PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255; of
branches arXiv 2601.20800) compares the best tenth with all. The second is Optuna's default, and what
optuna-dashboard shows; the dashboard had once computed it of the worst tenth where a study is maximised, as these are.
"""

from __future__ import annotations

import warnings

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

MIN_FOR_IMPORTANCE = 4  # with fewer finished trials, importances are noise


def importances(study: optuna.Study) -> tuple[dict[str, float], list[str]]:
    """Each parameter's share of the variance that parameters explain (fANOVA), of those that all finished trials have;
    and notes on why it could not be computed."""
    num_finished = _num_finished(study)
    if num_finished < MIN_FOR_IMPORTANCE:
        return {}, [f"parameter importances need {MIN_FOR_IMPORTANCE} trials that ran to the end, got {num_finished}"]
    try:
        return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))), []
    except (ValueError, RuntimeError) as error:  # all scores equal, or no parameter in common
        return {}, [f"parameter importances could not be computed: {error}"]


def top_importances(study: optuna.Study) -> dict[str, float]:
    """Each parameter's share in reaching the best tenth (PED-ANOVA), branches' own parameters too; they add up to 1.

    Empty where too few trials ran to the end.
    """
    if _num_finished(study) < MIN_FOR_IMPORTANCE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few trials, which the report says in its own words
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def _num_finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
