"""The trials of earlier runs that ran to their end: what was trained, and what it came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState
from pydantic import ValidationError

from search.engine.study_file import open_study
from search.observers.trial_row import trial_name
from search.run_dir import RunDir, existing_run_dir, read_json
from trainables.recipe.recipe import Recipe


@dataclass(frozen=True)
class PastTrial:
    """One that ran all its epochs."""

    trial: str  # its name in its run
    recipe: Recipe
    miou: float  # of its best epoch on val


@dataclass(frozen=True)
class PastRun:
    """An earlier run, and those of its trials that were not stopped early."""

    run: RunDir
    data: str  # fingerprint of the data set
    trials: tuple[PastTrial, ...]


def read_past_runs(roots: Sequence[Path], option: str) -> list[PastRun]:
    """Each run once, in the order given. Raises ValueError, with all that is wrong, for a folder that holds no run, a
    broken study, a run of which no trial has ended yet."""
    found, problems = dict[Path, PastRun](), list[str]()
    for root in roots:
        try:
            past = _read(existing_run_dir(root.expanduser(), option))
        except ValueError as error:
            problems.append(str(error))
        else:
            found[past.run.root] = past
    if problems:
        raise ValueError("\n".join(problems))
    return list(found.values())


def _read(run: RunDir) -> PastRun:
    study, trials = open_study(run.study_db), []
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if "identity" in frozen.user_attrs and frozen.value is not None:  # others are themselves of an earlier run
            trials.append(PastTrial(trial_name(frozen.number), _recipe(frozen, run), frozen.value))
    if not trials:
        raise ValueError(f"an earlier run must have a trial that ran to its end, got none in {run.root}; name another")
    return PastRun(run, str(read_json(run.run_json).get("data_fingerprint")), tuple(trials))


def _recipe(frozen: optuna.trial.FrozenTrial, run: RunDir) -> Recipe:
    try:
        return Recipe.model_validate(frozen.user_attrs["identity"]["recipe"])
    except (ValidationError, LookupError, TypeError) as error:
        raise ValueError(
            f"{run.study_db} must hold recipes of this version, got another for trial {frozen.number}; name a run of "
            "this version"
        ) from error
