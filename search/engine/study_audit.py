"""The audit of early stopping in a run's study."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.trial import TrialState
from pydantic import Field, ValidationError

from analysis.search_quality import Audit, Curve, audit_curves
from search.engine.asha import bracket_in, milestones
from search.observers.trial_row import trial_name
from search.run_dir import RunDir
from search.space.options import Search
from trainables.recipe.config import Config


class TrainedOn(Config):
    """audit.json: stopped trial -> epoch -> mIoU on val, of those that were trained on to their end."""

    mious: dict[str, dict[int, float]] = Field(default_factory=dict)


def read_trained_on(run: RunDir) -> TrainedOn:
    """What audit.json holds, nothing where there is none. Raises ValueError for a broken one."""
    if not run.audit_json.is_file():
        return TrainedOn()
    try:
        return TrainedOn.model_validate_json(run.audit_json.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{run.audit_json} must hold epochs of stopped trials, got {error.errors()[0]['msg']}; remove it"
        ) from error


def audit_study(study: optuna.Study, search: Search, trained_on: Mapping[str, Mapping[int, float]]) -> Audit | None:
    """What early stopping saved, and what it may have cost; None where no trial that has ended reported an epoch.

    `trained_on`: stopped trial -> epoch -> mIoU, of those that went on to their end afterwards.
    """
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    curves = [
        Curve(
            trial_name(trial.number),
            bracket_in(trial.user_attrs["identity"]["recipe"]),
            trial.state is TrialState.COMPLETE,
            trial.intermediate_values,
            trained_on.get(trial_name(trial.number)),
        )
        for trial in ended
        if trial.intermediate_values
    ]
    if not curves:
        return None
    return audit_curves(curves, rungs(search), search.max_epochs, search.reduction_factor)


def rungs(search: Search) -> list[int]:
    """The epochs at which a trial is compared with its bracket."""
    return [int(epoch) for epoch in milestones(search.max_epochs, search.grace_epochs, search.reduction_factor)]
