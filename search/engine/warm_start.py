"""What a search begins with: trials of earlier runs, which the sampler learns from as if they had been its own.

They are kept in the run's own warm_start.json before it begins, and join its study as finished trials without a recipe:
they have numbers there, the first ones, and no row, no checkpoint and no place among `search.num_trials`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from pydantic import ValidationError

from search.engine.past_trials import PastRun, read_past_runs
from search.engine.study_file import STUDY_NAME, Storage
from search.run_dir import RunDir, read_json, write_json
from trainables.recipe.config import Config
from trainables.recipe.recipe import Recipe

OPTION = "--warm-start"
ATTRIBUTE = "warm_start"  # of a trial in the study: the run and trial that it was
Say = Callable[[str], None]
Suggest = Callable[[optuna.Trial], Recipe]


class WarmTrial(Config):
    """A trial of an earlier run as a trial of this search's space."""

    run: str
    trial: str
    miou: float
    params: dict[str, Any]  # flat, as the study stores them


class _File(Config):
    trials: tuple[WarmTrial, ...]


class HoldingSpace(Protocol):
    """A space that knows which recipes lie in it."""

    def parameters_of(self, recipe: Recipe) -> dict[str, Any]:
        """Raises ValueError, saying what lies outside."""
        ...


def read_earlier(roots: Sequence[Path], data_fingerprint: str) -> list[PastRun]:
    """The runs of `--warm-start`. Raises ValueError, with all that is wrong, for one that is none, has no finished
    trial, or was on other data: mIoU of two data sets cannot be compared."""
    runs = read_past_runs(roots, OPTION)
    others = [past for past in runs if past.data != data_fingerprint]
    if others:
        listed = "\n".join(f"  {past.run.root} ({past.data:.12})" for past in others)
        raise ValueError(
            f"{OPTION} must name runs on the same data ({data_fingerprint:.12}), since scores on other data cannot be "
            f"compared with this search's, got:\n{listed}\nleave them out; what they know goes into `points` by "
            "`segsearch portfolio`"
        )
    return runs


def prepare(run: RunDir, space: HoldingSpace, earlier: Sequence[PastRun], say: Say) -> None:
    """Write warm_start.json with the earlier trials that lie in the space; without earlier runs remove one that a run
    which never began may have left.

    Raises ValueError, naming every run of which none does, and why.
    """
    if not earlier:
        run.warm_start_json.unlink(missing_ok=True)
        return
    kept: list[WarmTrial] = []
    unrelated = []
    for past in earlier:
        inside, reasons = _inside(past, space)
        say(f"warm start: {len(inside)} of {len(past.trials)} finished trials of {past.run.root} lie in this space")
        kept += inside
        if not inside:
            [(reason, count)] = reasons.most_common(1)
            unrelated.append(f"  {past.run.root}: {reason} ({count} of {len(past.trials)} trials)")
    if unrelated:
        raise ValueError(
            f"{OPTION} must name runs of which a finished trial lies in this space, got none of:\n"
            + "\n".join(unrelated)
            + "\nwiden the space, or leave these runs out"
        )
    write_json(run.warm_start_json, _File(trials=tuple(kept)).model_dump(mode="json"))


def _inside(past: PastRun, space: HoldingSpace) -> tuple[list[WarmTrial], Counter[str]]:
    inside, reasons = list[WarmTrial](), Counter[str]()
    for one in past.trials:
        try:
            params = space.parameters_of(one.recipe)
        except ValueError as error:
            reasons[str(error)] += 1
        else:
            inside.append(WarmTrial(run=past.run.root.name, trial=one.trial, miou=one.miou, params=params))
    return inside, reasons


def join_study(storage: Storage, suggest: Suggest, run: RunDir) -> None:
    """Add the trials of warm_start.json to a study that lacks them; without that file nothing is done.

    Raises ValueError where the file is broken.
    """
    if not run.warm_start_json.is_file():
        return
    try:
        warm = _File.model_validate(read_json(run.warm_start_json)).trials
    except ValidationError as error:
        raise ValueError(
            f"{run.warm_start_json} must be as this program wrote it, got a broken one; start a new run"
        ) from error
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize", load_if_exists=True)
    there = study.get_trials(deepcopy=False)
    joined = sum(is_warm(trial) for trial in there)  # fewer than all where the driver died on the way
    assert joined in (len(there), len(warm)), "an own trial began before the earlier ones had joined"
    for one in warm[joined:]:
        study.add_trial(_frozen(one, suggest))


def _frozen(warm: WarmTrial, suggest: Suggest) -> FrozenTrial:
    """With the distributions that the space itself suggests from, whatever those of the earlier run were."""
    asked = FixedTrial(warm.params)
    suggest(cast(optuna.Trial, asked))  # it answers to the same calls
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        value=warm.miou,
        params=asked.params,
        distributions=asked.distributions,
        user_attrs={ATTRIBUTE: {"run": warm.run, "trial": warm.trial}},
    )


def is_warm(trial: FrozenTrial) -> bool:
    """Whether a trial of the study is one of an earlier run."""
    return ATTRIBUTE in trial.user_attrs
