"""What a search pays per epoch: tasks whose backbones differ in cost by up to ten times, and a TPE that knows it."""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from typing_extensions import override

from search.engine.searcher import sampler_for
from search.space.space import load_space

from .curves import PowerLaws
from .recorded import RecordedTask
from .simulator import Recipe

Costs = Literal["unrelated", "dearer_better"]
CHEAPEST_S, RANGE = 20.0, 10.0  # of one epoch; times that, the dearest
GAIN = 0.06  # mIoU by which the dearest backbone is better than the cheapest, where dearer ones are


@dataclass(frozen=True)
class CostlyTask(PowerLaws):
    """Power laws whose epochs cost 20 to 200 s by backbone, whether or not that says anything of the height."""

    costs: Costs = "unrelated"

    @override
    def epoch_s(self, recipe: Recipe) -> float:
        return self.backbone_s(recipe["backbone"]["name"])

    def backbone_s(self, name: str) -> float:
        return CHEAPEST_S * RANGE ** self.uniform("cost", name)

    @override
    def height(self, recipe: Recipe) -> float:
        dearer = self.uniform("cost", recipe["backbone"]["name"]) - 0.5
        return super().height(recipe) + (GAIN * dearer if self.costs == "dearer_better" else 0.0)

    @cached_property
    def parameter_s(self) -> Mapping[str, Mapping[Any, float]]:
        """parameter -> value -> seconds of an epoch, of those that decide the backbone: of a row of models the
        geometric mean of its backbones."""
        found: dict[str, dict[Any, float]] = {"model/name": {}}
        for one in load_space(self.space).parameters():
            parts = one.name.split("/")
            if parts[0] == "model" and parts[-1] == "backbone":
                found[one.name] = {name: self.backbone_s(str(name)) for name in one.values}
                found["model/name"][parts[1]] = math.exp(np.mean(np.log(list(found[one.name].values()))))
        return found

    @property
    def mean_s(self) -> float:
        """Seconds of an epoch, the mean over backbones."""
        rows = [values for name, values in self.parameter_s.items() if name != "model/name"]
        return float(np.mean([seconds for values in rows for seconds in values.values()]))


@dataclass(frozen=True)
class CostlyRecording(RecordedTask):
    """Recorded curves whose epochs cost 20 to 200 s by backbone, which the seed draws."""

    @override
    def epoch_s(self, recipe: Recipe) -> float:
        return self.backbone_s(recipe["backbone"]["name"])

    def backbone_s(self, name: str) -> float:
        place = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random()
        return float(CHEAPEST_S * RANGE**place)

    @cached_property
    def parameter_s(self) -> Mapping[str, Mapping[Any, float]]:
        names = {key.partition("/")[0] for key in self.trainings}
        return {"model/backbone": {name: self.backbone_s(name) for name in sorted(names)}}

    @property
    def mean_s(self) -> float:
        return float(np.mean(list(self.parameter_s["model/backbone"].values())))


class CostTPE(TPESampler):
    """TPE whose candidates are weighed by log l - log g - weight * log cost: the density ratio stands for the expected
    improvement (Bergstra et al. 2011, section 4.1), which is divided by cost (Snoek et al. 2012, section 3.2)."""

    def __init__(self, costs: Mapping[str, Mapping[Any, float]], weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.costs, self.weight = costs, weight

    @override
    def _compute_acquisition_func(self, samples: Any, mpe_below: Any, mpe_above: Any) -> Any:
        found = super()._compute_acquisition_func(samples, mpe_below, mpe_above)
        for name, by_value in self.costs.items():
            if name in samples:
                choices = list(mpe_below._search_space[name].choices)
                costs = np.array([by_value[choice] for choice in choices])
                found = found - self.weight * np.log(costs[np.asarray(samples[name]).astype(int)])
        return found


def cost_tpe_at(task: CostlyTask | CostlyRecording, left: Callable[[], float], num_random: int, position: int) -> Any:
    """As `sampler_for`, by CostTPE; the weight falls from 1 to 0 with the budget."""
    if position < num_random:
        return sampler_for(position, task.seed, num_random)
    draw = int(np.random.SeedSequence([task.seed, position]).generate_state(1)[0])
    settings = {"multivariate": True, "group": True, "constant_liar": True, "n_startup_trials": 1, "seed": draw}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return CostTPE(task.parameter_s, left(), **settings)
