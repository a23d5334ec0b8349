"""Optuna's plots of a run's study: parallel coordinates, and a slice plot per parameter.

Optuna plots trials that ran to the end. Here those that were stopped early are drawn too, at the best score that they
had: few trials of a search with early stopping run to the end, and the others say where it is not good.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import plot_parallel_coordinate, plot_slice

from analysis.report.search_charts import parallel_figure, slice_figure
from search.engine.study_window import StudyWindow

MAX_SLICES, MAX_AXES = 6, 7
MIN_TRIALS = 3  # a plot of fewer shows nothing that the table does not


def search_figures(study: optuna.Study, importances: Mapping[str, float]) -> dict[str, str]:
    """`parallel`, and `slice-<n>` of the most important parameters; none where fewer than MIN_TRIALS are scored."""
    scored = _with_stopped(study)
    trials = scored.get_trials(deepcopy=False)
    if len(trials) < MIN_TRIALS:
        return {}
    names = parameters(trials, importances)
    if not names:
        return {}
    figures = {"parallel": parallel_figure(plot_parallel_coordinate(scored, names[:MAX_AXES], target_name="val mIoU"))}
    for n, name in enumerate(names[:MAX_SLICES]):
        figures[f"slice-{n}"] = slice_figure(plot_slice(scored, [name]), name)
    return figures


def parameters(trials: Sequence[FrozenTrial], importances: Mapping[str, float]) -> list[str]:
    """Those that took several values, the most important first; of equals those that more trials have."""
    values: dict[str, list[object]] = {}
    for trial in trials:
        for name, value in trial.params.items():
            values.setdefault(name, []).append(value)
    varied = [name for name, found in values.items() if len(set(map(repr, found))) > 1]
    return sorted(varied, key=lambda name: (-importances.get(name, 0.0), -len(values[name]), name))


def _with_stopped(study: optuna.Study) -> optuna.Study:
    """Every trial that has a score, as one that ran to the end: with the best of its epochs."""
    scored = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        best = trial.user_attrs.get("progress", {}).get("best_miou")
        if best is not None:
            shown = copy.copy(trial)
            shown.state, shown.value = TrialState.COMPLETE, best
            scored.append(shown)
    return StudyWindow(study, scored)
