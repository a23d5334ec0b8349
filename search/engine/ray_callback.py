"""Converts Ray Tune callbacks to trial records: rows of the study, handed to every observer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from typing_extensions import override

from search.engine.asha import is_broken
from search.engine.searcher import FamilySearch
from search.observers.trial_row import PROGRESS, Observer, TrialRow, finite, row_of, study_rows

ERROR_LINES = 6


class TrialTable(tune.Callback):
    """The one Ray callback: keeps rows, writes them to the study, tells the observers.

    The process of a trial that ends no epoch for `timeout_s` seconds is killed; Ray then restarts it from its last
    checkpoint, as after a lost node, or fails it where it was restarted often enough.
    An actor's next trial that Ray dropped is given back to the searcher through `limiter`.
    An observer's exception ends the search and is kept in `failure`, since Ray passes on only its text.
    """

    def __init__(
        self,
        search: FamilySearch,
        limiter: Searcher,
        observers: Sequence[Observer],
        metric: str,
        *,
        timeout_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.search, self.limiter, self.observers, self.metric = search, limiter, observers, metric
        self.timeout_s, self.clock = timeout_s, clock
        self.signs_s: dict[str, float] = {}  # Ray's trial id -> when it started or last ended an epoch
        self.stuck: set[int] = set()  # numbers of trials whose process was killed since they last started
        self.live: list[Any] = []  # Ray's trials without an outcome; it hands over all that there ever were, several
        self.num_seen = 0  # times a second
        self.rows: dict[int, TrialRow] = {row.number: row for row in study_rows(search.study, search.root)}
        self.failure: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Ray pickles its callbacks into tuner.pkl, which is never read, and observers may hold a terminal."""
        return {}

    def tell(self, method: str, *args: Any) -> None:
        """Calls one method of every observer."""
        try:
            for observer in self.observers:
                getattr(observer, method)(*args)
        except Exception as error:
            self.failure = error
            raise

    @override
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.live += trials[self.num_seen :]
        self.num_seen = len(trials)
        for trial in self.live:
            self._kill_if_stuck(trial)
            # an actor that could not be reset in time: Ray marks the next trial ERROR and tells nobody
            if trial.status == "ERROR" and self.search.is_live(trial.trial_id):
                self.limiter.on_trial_complete(trial.trial_id)
        self.live = [trial for trial in self.live if self.search.is_live(trial.trial_id)]
        self.take_refused()
        self.tell("tick")

    def _kill_if_stuck(self, trial: Any) -> None:
        begun_s = self.signs_s.get(trial.trial_id)
        if self.timeout_s is None or begun_s is None or trial.status != "RUNNING":
            return
        if self.clock() - begun_s > self.timeout_s:
            self.stuck.add(trial.config["number"])
            del self.signs_s[trial.trial_id]  # once; its restart counts anew
            ray.kill(trial.temporary_state.ray_actor)

    def take_refused(self) -> None:
        """Rows of the trials that failed before Ray heard of them."""
        while self.search.refused:
            number = self.search.refused.popleft()
            frozen = self.search.study.get_trials(deepcopy=False)[number]
            row = self.rows[number] = row_of(frozen, self.search.study.user_attrs, self.search.root)
            self.tell("trial_started", row)
            self.tell("trial_ended", row)

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.stuck.discard(number)
        self.signs_s[trial.trial_id] = self.clock()
        if number not in self.rows:
            self.rows[number] = row_of(self.search.frozen(number), {}, self.search.root)
        self.rows[number].device, _ = share_of(trial)
        self.tell("trial_started", self.rows[number])

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        row = self.rows[trial.config["number"]]
        self.signs_s[trial.trial_id] = self.clock()
        self._update(row, result, seconds=result.get("time_this_iter_s", 0.0) * share_of(trial)[1])
        if not is_broken(result, self.metric):
            self.tell("epoch", row, result)  # a broken report's numbers stand for nothing; `trial_ended` says why

    def _update(self, row: TrialRow, result: Mapping[str, Any], seconds: float) -> None:
        row.device_s += seconds
        row.epochs = max(row.epochs, int(result.get("epoch", 0)))
        row.accumulate = int(result.get("accumulate") or 0) or row.accumulate
        row.peak_gb = result.get("peak_gb", row.peak_gb)
        diverged = False
        if is_broken(result, self.metric):
            diverged = self.metric in result and not result.get("failed")
            missing = f"{self.metric} is not finite" if diverged else f"an epoch was reported without {self.metric}"
            row.error = str(result.get("failed") or result.get("error") or missing)
        elif row.best_miou is None or result[self.metric] > row.best_miou:
            row.best_miou, row.best_epoch = float(result[self.metric]), int(result["epoch"])
            row.iou = finite(list(result.get("val/iou", [])))
        self.search.note(row.number, "progress", {key: getattr(row, key) for key in PROGRESS} | {"diverged": diverged})

    @override
    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """Deletes the trial's earlier checkpoints after the study has named this one, so that always names one that
        exists."""
        row = self.rows[trial.config["number"]]
        row.checkpoint = str(checkpoint.path)
        path = Path(row.checkpoint)
        stored = path.relative_to(self.search.root) if path.is_relative_to(self.search.root) else path
        self.search.note(row.number, "checkpoint", {"path": str(stored), "epoch": row.epochs})
        folder = Path(row.checkpoint).parent  # <tune>/<session>/<trial>
        for old in folder.parent.parent.glob(f"*/{folder.name}/checkpoint_*"):
            if old.parent != folder or old.name < path.name:
                shutil.rmtree(old, ignore_errors=True)

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, error=None)

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        stuck = f"stuck: no epoch ended within {self.timeout_s} s (search.trial_timeout_s), as often as it was tried"
        self._end(trial, error=stuck if trial.config["number"] in self.stuck else error_tail(trial))

    def _end(self, trial: Any, error: str | None) -> None:
        row = self.rows.get(trial.config["number"])
        self.signs_s.pop(trial.trial_id, None)
        if row is None or row.number not in self.search.outcomes:
            return  # stopped before it started: it waits for the next session
        row.state = self.search.outcomes[row.number]
        if row.state == "FAIL":
            row.error = error or row.error or "the trial ended without reporting an epoch"
            self.search.study.set_user_attr(f"error/{row.number}", row.error)
        self.tell("trial_ended", row)


def share_of(trial: Any) -> tuple[str, float]:
    """('gpu', how many) or ('cpu', how many) of what a trial holds."""
    resources = trial.placement_group_factory.required_resources
    gpus = float(resources.get("GPU", 0.0))
    return ("gpu", gpus) if gpus else ("cpu", float(resources.get("CPU", 1.0)))


def error_tail(trial: Any) -> str:
    """The last lines of a failed trial's error: what was raised, without Ray's frames."""
    path = Path(trial.error_file or "")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "no error file was written"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-ERROR_LINES:])
