"""The audit of early stopping in a run's study."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from analysis.search_quality import Audit, Curve, audit_curves
from search.engine.asha import bracket_in, milestones
from search.observers.trial_row import trial_name
from search.space.options import Search


def audit_study(study: optuna.Study, search: Search) -> Audit | None:
    """What early stopping saved, and what it may have cost; None where no trial that has ended reported an epoch."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    curves = [
        Curve(
            trial_name(trial.number),
            bracket_in(trial.user_attrs["identity"]["recipe"]),
            trial.state is TrialState.COMPLETE,
            trial.intermediate_values,
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
