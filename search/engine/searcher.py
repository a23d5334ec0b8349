"""An Optuna searcher for Ray Tune: TPE over the study on disk, which carries a run over a crash.

The study is the run's only durable state. A trial that was running when the driver died is still RUNNING there: it goes
on from its last checkpoint under its old number, and one whose recipe was not complete is suggested again under its old
number. So nothing finished runs again, no number is lost, and no abandoned trial is left RUNNING, which the sampler's
constant liar would count as a bad result. Ray's own snapshots are written but never read.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from typing_extensions import override

from search.engine.admission import Admission
from search.engine.asha import is_broken
from search.engine.budget import why_enough
from search.engine.study_file import STUDY_NAME, Storage, rewind_trial, root_of
from search.engine.warm_start import is_warm
from search.engine.windowed_sampler import WindowedSampler
from search.observers.trial_row import checkpoint_path
from search.space.options import Options, Search
from trainables.recipe.recipe import Recipe

SEARCHED_S = "searched_s"  # the study's attribute: seconds of all sessions, when a trial ended last
STATE_OF = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED}  # other outcomes: FAIL
MAX_STARTUP = 10  # TPE's own default of random trials before its model is trusted


def sampler_for(position: int, seed: int, num_random: int, window: int = Search().sampler_window) -> BaseSampler:
    """The sampler of one suggestion: a function of seed and position, never of what was drawn before it. TPE learns
    from at most `window` ended trials.

    So a resumed run does not draw its first trials again, and the first `num_random` are the same however many run
    at once. Later ones depend on which trials had finished when they were asked for.
    """
    draw = int(np.random.SeedSequence([seed, position]).generate_state(1)[0])
    if position < num_random:
        return RandomSampler(seed=draw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        tpe = TPESampler(multivariate=True, group=True, constant_liar=True, n_startup_trials=1, seed=draw)
    return WindowedSampler(tpe, window)


class SearchSpace(Protocol):
    """What is searched, as `search.space.space.Space` has it."""

    @property
    def options(self) -> Options:
        """Budget, seed and resources of the search."""
        ...

    def suggest(self, trial: optuna.Trial) -> Recipe:
        """Define-by-run, and cheap."""
        ...

    def defaults(self) -> Sequence[Mapping[str, Any]]:
        """Parameters of the first trials, one set per backbone family."""
        ...


class FamilySearch(OptunaSearch):
    """OptunaSearch that tells the study PRUNED and FAIL, and keeps its state in the study file alone.

    `admit` is asked of each new recipe: one that it refuses fails with the reason; where it raises, the search ends.
    `sampler_at` gives the sampler of the suggestion at a position; by default those are `sampler_for`'s.
    `outcomes` maps a finished trial's number to COMPLETE, PRUNED, FAIL or DIVERGED.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        storage: Storage,
        metric: str,
        admit: Callable[[Recipe], Admission] | None = None,
        sampler_at: Callable[[int], BaseSampler] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(space=space.suggest, metric=metric, mode="max", storage=storage, study_name=STUDY_NAME)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.set_metric_names([metric])  # what optuna-dashboard calls the score
        budget = space.options.search
        self._suggest_recipe = space.suggest
        self._admit = admit
        self._defaults = list(space.defaults())[: budget.num_trials]
        self._num_trials = budget.num_trials
        num_known = sum(is_warm(trial) for trial in self.study.get_trials(deepcopy=False))
        num_random = len(self._defaults) + max(0, min(MAX_STARTUP, budget.num_trials // 4) - num_known)
        self._sampler_at = sampler_at or partial(
            sampler_for, seed=space.options.seed, num_random=num_random, window=budget.sampler_window
        )
        self._max_epochs = budget.max_epochs
        self.outcomes: dict[int, str] = {}
        self._trials: dict[int, optuna.Trial] = {}  # number -> a trial that may still be written
        self._curves: dict[int, dict[int, float]] = {}  # number -> epoch -> metric, as the study has them
        self._live: dict[str, int] = {}  # Ray's trial id -> number
        self._waiting: deque[int] = deque()
        self.refused: deque[int] = deque()  # numbers that failed before Ray heard of them; emptied by the table
        self._position = 0  # of the next trial: the number of trials with a recipe
        self._num_lost = 0  # trials with a number and no position: of earlier runs, or FAILed without a recipe
        self._rdb = storage
        self._budget, self._clock, self._begun_s = budget, clock, clock()
        self._earlier_s = float(self.study.user_attrs.get(SEARCHED_S, 0.0))
        self._adopt()

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles its searcher into tuner.pkl, which is never read."""
        return {}

    @property
    def study(self) -> optuna.Study:
        assert self._ot_study is not None
        return self._ot_study

    @property
    def root(self) -> Path:
        """The run's directory."""
        return root_of(self._rdb)

    @property
    def is_done(self) -> bool:
        return not self._waiting and not self._live and (self._position >= self._num_trials or bool(self.enough()))

    def enough(self) -> str | None:
        """Why no further trial is suggested although there are some left to `num_trials`; None where one is."""
        if not self._budget.is_limited:
            return None  # without reading every trial for each suggestion
        searched_s = self._earlier_s + self._clock() - self._begun_s
        return why_enough(self._budget, self.study.get_trials(deepcopy=False), searched_s)

    def _adopt(self) -> None:
        """Takes over what an interrupted driver left in the study."""
        attrs = self.study.user_attrs
        for frozen in self.study.get_trials(deepcopy=False):
            number, has_recipe = frozen.number, "identity" in frozen.user_attrs
            self._position += has_recipe
            if frozen.state.is_finished():
                self._num_lost += not has_recipe
            elif not has_recipe:
                self._suggest_again(frozen)
            else:
                self.study.sampler = RandomSampler(seed=0)  # a Trial object tells its sampler; nothing is drawn here
                self._trials[number] = optuna.Trial(self.study, frozen._trial_id)
                self._curves[number] = dict(frozen.intermediate_values)
                checkpoint = frozen.user_attrs.get("checkpoint")
                if attrs.get(f"error/{number}"):
                    self._tell(number, "FAIL")  # died between a refusal and the last word
                    self.refused.append(number)
                elif checkpoint and checkpoint["epoch"] >= self._num_epochs(number):
                    self._tell(number, "COMPLETE")  # died between the last checkpoint and the last word
                else:
                    self._waiting.append(number)

    def _suggest_again(self, frozen: FrozenTrial) -> None:
        """Makes `ask` return a half-suggested trial again; one that was only enqueued is left as it is."""
        if frozen.state is TrialState.RUNNING:
            rewind_trial(self._rdb, frozen._trial_id)
            if f"error/{frozen.number}" in self.study.user_attrs:
                self.study.set_user_attr(f"error/{frozen.number}", None)  # it refused a recipe that was not stored

    def _ask(self) -> int:
        """The next trial with its whole recipe in the study."""
        if self._position < len(self._defaults) and not self.study.get_trials(False, (TrialState.WAITING,)):
            self.study.enqueue_trial(dict(self._defaults[self._position]))
        self.study.sampler = self._sampler_at(self._position)
        trial = self.study.ask()
        assert trial.number == self._position + self._num_lost
        recipe = self._suggest_recipe(trial)
        self._note_admission(trial, recipe)
        identity = {"recipe": recipe.model_dump(mode="json"), "hash": recipe.hash, "family": recipe.family}
        trial.set_user_attr("identity", identity)
        self._position += 1
        self._trials[trial.number], self._curves[trial.number] = trial, {}
        return int(trial.number)

    def _note_admission(self, trial: optuna.Trial, recipe: Recipe) -> None:
        if self._admit:
            admission = self._admit(recipe)
            trial.set_user_attr("footprint", {"params_m": admission.params_m, "memory_gb": admission.memory_gb})
            if admission.refusal:
                self.study.set_user_attr(f"error/{trial.number}", admission.refusal)
                self.refused.append(trial.number)

    @override
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        if self._waiting:
            number = self._waiting.popleft()
        else:
            asked = self._ask_admitted()
            if asked is None:
                return None if self._live else str(Searcher.FINISHED)
            number = asked
        self._live[trial_id] = number
        attrs = self._trials[number].user_attrs
        stored = attrs.get("checkpoint", {}).get("path")
        checkpoint = str(checkpoint_path(self.root, stored)) if stored else None
        if checkpoint and not Path(checkpoint).is_dir():
            warnings.warn(f"trial {number} starts over: its checkpoint {checkpoint} is missing", stacklevel=2)
            checkpoint = None
        return {"recipe": attrs["identity"]["recipe"], "number": number, "resume_from": checkpoint}

    def _ask_admitted(self) -> int | None:
        """The next new trial that is admitted; None where none is left. Those refused on the way fail."""
        while self._position < self._num_trials and not self.enough():
            number = self._ask()
            if number not in self.refused:
                return number
            self._tell(number, "FAIL")
        return None

    def is_live(self, trial_id: str) -> bool:
        """Whether Ray has the trial and it has no outcome yet."""
        return trial_id in self._live

    def frozen(self, number: int) -> FrozenTrial:
        """A running trial as the study stores it, without reading it: Optuna keeps what it has written."""
        return self._trials[number]._cached_frozen_trial

    def give_back(self, trial_id: str) -> None:
        """Queue a trial that never started, to start it later under its number."""
        self._waiting.append(self._live.pop(trial_id))

    def note(self, number: int, key: str, value: Any) -> None:
        """Write a user attribute of a running trial to the study."""
        self._trials[number].set_user_attr(key, value)

    @override
    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        number, epoch = self._live[trial_id], result.get("epoch")
        if is_broken(result, self.metric) or epoch is None or epoch in self._curves[number]:
            return
        self._trials[number].report(result[self.metric], epoch)
        self._curves[number][epoch] = float(result[self.metric])

    @override
    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._live:
            return
        if error:
            self._tell(self._live.pop(trial_id), "FAIL")
        elif result is None:
            self.give_back(trial_id)  # stopped before it started
        else:
            self.on_trial_result(trial_id, result)  # ASHA's last result is not passed on by Ray
            number = self._live.pop(trial_id)
            self._tell(number, self._outcome(number, result))

    def _outcome(self, number: int, result: Mapping[str, Any]) -> str:
        if result.get("failed") or self.metric not in result:
            return "FAIL"
        if is_broken(result, self.metric):
            return "DIVERGED"
        return "COMPLETE" if result["epoch"] >= self._num_epochs(number) else "PRUNED"

    def _num_epochs(self, number: int) -> int:
        recipe = self._trials[number].user_attrs["identity"]["recipe"]
        return min(self._max_epochs, int(recipe["train"]["num_epochs"]))

    def _tell(self, number: int, outcome: str) -> None:
        """End a trial in the study. COMPLETE gets the value of the best epoch, whose weights are kept, PRUNED that of
        the last one, as Optuna has it. `Study.tell` would read the whole trial twice for it."""
        if self._budget.until_hours is not None:  # a write to disk per trial, for those who ask
            self.study.set_user_attr(SEARCHED_S, round(self._earlier_s + self._clock() - self._begun_s, 3))
        curve, trial_id = self._curves.pop(number), self._trials.pop(number)._trial_id
        values: list[float] | None = None
        if outcome == "COMPLETE":
            values = [max(curve.values())]
        elif outcome == "PRUNED" and curve:
            values = [curve[max(curve)]]
        self.study._storage.set_trial_state_values(trial_id, STATE_OF.get(outcome, TrialState.FAIL), values)
        self.outcomes[number] = outcome

    @override
    def save(self, checkpoint_path: str) -> None:
        """Ray asks for a file; the study is the state."""
        Path(checkpoint_path).write_text(f"{STUDY_NAME}: the state is in the run's study\n", encoding="utf-8")

    @override
    def restore(self, checkpoint_path: str) -> None:
        raise RuntimeError("a search resumes from its study; run it again with --resume, not with Tuner.restore")
