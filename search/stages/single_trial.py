"""One trial alone, in its plain view, as a rule that can be exported: a candidate of the ensemble, or any trial of the
study that left a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.bundle.manifest import SINGLE_TRIAL
from analysis.ensembling.result import EnsembleResult, Gain, MemberResult, RuleResult, Score
from search.engine.study_file import open_study
from search.observers.trial_row import TrialRow, study_rows
from search.run_dir import RunDir
from trainables.logits.view import View
from trainables.models.weights_file import BEST_WEIGHTS

BEST_SINGLE = "best_single"
PLAIN = View().name
UNKNOWN = Gain(gain=math.nan, low=None, high=None, p_positive=0.0)
Weights = dict[str, tuple[Path, ...]]


def with_trial_alone(
    run: RunDir, ensemble: EnsembleResult, weights: Mapping[str, Sequence[Path]], name: str
) -> tuple[EnsembleResult, RuleResult, Weights]:
    """The ensemble with the trial among its members, the trial's rule, and the weights with its own. `name` is a
    candidate's, or a trial's number. Where the trial is the best single model, its rule is that one, which has scores
    on the hold-out.

    Raises ValueError where no candidate and no trial with a checkpoint has this name.
    """
    found = {trial: tuple(paths) for trial, paths in weights.items()}
    names = [member.trial for member in ensemble.members]
    if name not in names:
        rows = study_rows(open_study(run.study_db), run.root) if run.study_db.is_file() else []
        row = _row(rows, name, names)
        if row.trial not in names:
            ensemble = ensemble.model_copy(update={"members": (*ensemble.members, _member(row))})
            found[row.trial] = (Path(str(row.checkpoint)) / BEST_WEIGHTS,)
        name, names = row.trial, [member.trial for member in ensemble.members]
    place = names.index(name)
    best = ensemble.rule(BEST_SINGLE)
    return ensemble, best if best.fitted.used == (place,) else _rule(ensemble, place), found


def _row(rows: Sequence[TrialRow], name: str, candidates: Sequence[str]) -> TrialRow:
    scored = [row for row in rows if row.checkpoint is not None and row.best_miou is not None]
    for row in scored:
        if name == row.trial or (name.isdecimal() and int(name) == row.number):
            return row
    listed = ", ".join(dict.fromkeys([*candidates, *(row.trial for row in scored)]))
    raise ValueError(f"--trial must be a candidate or a trial with a checkpoint, got {name!r}; choose one of: {listed}")


def _member(row: TrialRow) -> MemberResult:
    assert row.best_miou is not None  # as `_row` asks
    return MemberResult(
        trial=row.trial,
        recipe_hash=row.recipe_hash,
        family=row.family,
        views=(PLAIN,),
        val_miou=row.best_miou,
        costs={},
    )


def _rule(ensemble: EnsembleResult, place: int) -> RuleResult:
    num_classes, members = len(ensemble.classes), ensemble.members
    return RuleResult(
        name=SINGLE_TRIAL,
        vote="soft",
        weights=tuple((float(m == place),) * num_classes for m in range(len(members))),
        views=tuple((PLAIN,) if m == place else () for m in range(len(members))),
        cost=members[place].costs.get(PLAIN, 0.0),  # 0: not measured; it goes into no bundle
        temperatures=(1.0,) * len(members),
        val_fitted=unscored(num_classes),
        val_crossfit=unscored(num_classes),
        holdout=unscored(num_classes),
        gain_crossfit=UNKNOWN,
        gain_over_rival_crossfit=UNKNOWN,
        gain_holdout=UNKNOWN,
        gain_over_rival_holdout=UNKNOWN,
    )


def unscored(num_classes: int) -> Score:
    """Of a model that was not scored on some images."""
    none = (None,) * num_classes
    return Score(miou=None, low=None, high=None, iou=none, iou_low=none, iou_high=none)
