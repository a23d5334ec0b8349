"""Which importance of parameters is right of few trials: fANOVA, or PED-ANOVA, Optuna's default.

    python tests/benchmarks/bench_importances.py       # a minute

Of six parameters the backbone decides 97% of the score's variance and the learning rate 2%; four have no effect. They
are drawn at random, in 12 studies. Printed: how often the backbone comes first, its mean share, and that of the four.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial

from search.stages.importances import importances, top_importances

SKILL = dict(zip("abcde", (0.0, 0.05, 0.1, 0.2, 0.25), strict=True))
SPACE: dict[str, Any] = {
    "backbone": CategoricalDistribution(list(SKILL)),
    "lr": FloatDistribution(1e-5, 1e-2, log=True),
    "layer_decay": FloatDistribution(0.6, 1.0),
    "ema_decay": CategoricalDistribution([None, 0.99, 0.999]),
    "drop_path": FloatDistribution(0.0, 0.4),
    "crop_px": CategoricalDistribution([256, 512]),
}
NUM_STUDIES = 12
WEIGHED = {"fANOVA": lambda study: importances(study)[0], "PED-ANOVA": top_importances}


def made_up_study(num_trials: int, seed: int) -> optuna.Study:
    rng, study = np.random.default_rng(seed), optuna.create_study(direction="maximize")
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(num_trials):
        params = asked.ask(SPACE).params
        score = SKILL[params["backbone"]] - 0.02 * (np.log10(params["lr"]) + 3.5) ** 2 + rng.normal(0, 0.01)
        study.add_trial(create_trial(value=float(score), params=params, distributions=SPACE))
    return study


def summary(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    firsts = [max(one, key=lambda name: one[name]) == "backbone" for one in shares]
    without = [sum(share for name, share in one.items() if name not in ("backbone", "lr")) for one in shares]
    backbone = statistics.fmean(one["backbone"] for one in shares)
    return {"first": statistics.fmean(firsts), "backbone": backbone, "without effect": statistics.fmean(without)}


def run() -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = {}
    for num_trials in (6, 12, 24, 48, 96):
        studies = [made_up_study(num_trials, seed) for seed in range(NUM_STUDIES)]
        found[f"{num_trials}"] = {name: summary([weigh(one) for one in studies]) for name, weigh in WEIGHED.items()}
        print(num_trials, found[f"{num_trials}"], flush=True)
    return found


if __name__ == "__main__":
    run()
