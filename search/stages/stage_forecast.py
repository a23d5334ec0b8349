"""About how long each stage after the search takes, from what the search's trials have shown: how long an epoch of each
takes, and how long an image that is predicted does."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from search.cluster.nodes import Node, live_nodes, num_holders
from search.engine.study_file import open_study
from search.observers.event_log import read_events
from search.observers.trial_row import Observer, TrialRow, study_rows
from search.space.options import Options
from search.stages.logits import offered_views
from search.stages.prepare_cluster import share_of
from search.stages.run_data import Data
from search.stages.stage import Context, Stage

# Of the ensemble stage nothing is measured beforehand: seconds that it takes at least, and of one core by member, class
# and pixel of an image that is fitted on or judged, as docs/LOG.md has it for 800 images
ENSEMBLE_S, ENSEMBLE_VALUE_S = 15.0, 0.5e-6
PICTURES = 12  # images of the hold-out that the report shows, and as many again per class


@dataclass(frozen=True)
class Sizes:
    """How many images of which size and of how many classes."""

    train: int
    val: int
    holdout: int
    pixels: float  # of an image, mean
    classes: int

    @classmethod
    def of(cls, data: Data) -> Sizes:
        split, images = data.split, data.index.images
        pixels = sum(image.height * image.width for image in images) / max(1, len(images))
        return cls(len(split.train_ids), len(split.val_ids), len(split.holdout_ids), pixels, data.index.num_classes)


@dataclass
class Mean:
    """Of the values so far; None of none."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class StageForecast(Observer):
    """Told of trials as they run, or of their events afterwards."""

    options: Options
    sizes: Sizes
    nodes: Sequence[Node]
    predict_s: Mean = field(default_factory=Mean)  # of one image in its plain view
    epoch_s: dict[str, Mean] = field(default_factory=dict)  # trial -> seconds of its epochs

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        self.note(row.trial, metrics)

    def note(self, trial: str, metrics: Mapping[str, Any]) -> None:
        """One epoch: what it took beyond its pass over the images to train on went into predicting those to tune on."""
        took_s, images_per_s = (metrics.get(key) or math.nan for key in ("time_this_iter_s", "images_per_s"))
        if math.isfinite(took_s + images_per_s):
            self.epoch_s.setdefault(trial, Mean()).add(took_s)
            self.predict_s.add(max(0.0, took_s - self.sizes.train / images_per_s) / self.sizes.val)

    def seconds(self, rows: Iterable[TrialRow]) -> dict[str, float]:
        """Stage -> about how many seconds it takes; a stage of which nothing is known is left out."""
        scored = [row for row in rows if row.best_miou is not None]
        if not scored or self.predict_s.value is None:
            return {}
        best = heapq.nlargest(self.options.folds.recipes, scored, key=lambda row: row.best_miou or 0.0)
        found = {
            Stage.noise: self._training(best[:1], self.options.search.noise_repeats, Stage.noise),
            Stage.folds: self._folds(best),
            Stage.soups: self._soups(len(scored)),
            Stage.logits: self._logits(len(scored)),
            Stage.ensemble: self._ensemble(len(scored)),
            Stage.report: self._predicted(self._pictures()) * self._members(len(scored)),
        }
        return {stage.value: round(took_s, 1) for stage, took_s in found.items() if took_s}

    def _training(self, best: Sequence[TrialRow], times: float, stage: Stage) -> float:
        """The recipes of these trials, each trained so many times for the epochs of its best one."""
        every = [mean.value for mean in self.epoch_s.values() if mean.value is not None]
        usual = sum(every) / len(every)
        took = [(self.epoch_s.get(row.trial, Mean()).value or usual) * (row.best_epoch or 1) for row in best]
        return sum(took) * times / self._width(stage, len(best) * max(1, round(times)))

    def _folds(self, best: Sequence[TrialRow]) -> float:
        folds = self.options.folds
        if not folds.num:
            return 0.0
        images = (self.sizes.train + self.sizes.val) / self.sizes.train * (folds.num - 1) / folds.num
        refit = images * folds.num / (folds.num - 1) if folds.refit else 0.0
        return self._training(best, images * folds.num + refit, Stage.folds)

    def _soups(self, num_scored: int) -> float:
        options = self.options
        if options.folds.num or options.ensemble.soups == "off":
            return 0.0
        num = self._members(num_scored)
        return num * options.ensemble.soup_epochs * self._predicted(self.sizes.val) / self._width(Stage.soups, num)

    def _logits(self, num_scored: int) -> float:
        folds, num = self.options.folds, self._members(num_scored)
        images = self.sizes.val + self.sizes.holdout
        if folds.num:
            images = self.sizes.train + self.sizes.val + self.sizes.holdout * (folds.num + folds.refit)
        views = sum(view.scale**2 for view in offered_views(self.options))
        return num * self._predicted(images) * views / self._width(Stage.logits, num)

    def _ensemble(self, num_scored: int) -> float:
        images = self.sizes.val + self.sizes.holdout + (self.sizes.train if self.options.folds.num else 0)
        values = images * self._members(num_scored) * self.sizes.classes * self.sizes.pixels
        return ENSEMBLE_S + ENSEMBLE_VALUE_S * values / self._width(Stage.ensemble, images)

    def _pictures(self) -> int:
        return min(self.sizes.holdout, PICTURES * (1 + self.sizes.classes))

    def _members(self, num_scored: int) -> int:
        folds = self.options.folds
        return min(num_scored, folds.recipes if folds.num else self.options.ensemble.candidates)

    def _predicted(self, num_images: int) -> float:
        return num_images * (self.predict_s.value or 0.0)

    def _width(self, stage: Stage, num_tasks: int) -> int:
        """How many of a stage's tasks run at once."""
        return max(1, min(num_tasks, num_holders(share_of(self.options.resources, stage), self.nodes)))


def forecast(context: Context) -> dict[str, float]:
    """Stage -> about how many seconds it takes, from the files of a search that has ended; empty without its events."""
    run = context.run
    if not run.events.is_file():
        return {}
    found = StageForecast(context.space.options, Sizes.of(context.data), live_nodes())
    for event in read_events(run.events):
        if event["event"] == "epoch":
            found.note(event["trial"], event)
    return found.seconds(study_rows(open_study(run.study_db), run.root))
