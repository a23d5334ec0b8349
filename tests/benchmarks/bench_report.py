"""CPU time and size of the report of finished searches, by the number of their trials.

    python tests/benchmarks/bench_report.py [TRIALS ...]      # 10 200 2000; minutes

Three untrained networks on the built-in photographs are judged and shipped once. Around them stands a study of so many
trials over spaces/all.yaml, drawn at random, whose curves are made up: two thirds are stopped at a rung. The report is
written by the command's own function. Beside it: `--help`, and what a space with an error takes until it is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/analysis is not analysis
from finished_runs import make_finished_run, write_untrained
from optuna.trial import TrialState, create_trial

from analysis.bundle.export import export
from analysis.ensembling.result import EnsembleResult
from search.engine.study_audit import audit_study
from search.engine.study_file import STUDY_NAME, open_storage, open_study
from search.observers.event_log import EventLog
from search.observers.trial_row import study_rows
from search.report import rebuild
from search.run_dir import RunDir, read_json, write_json
from search.space.space import load_space
from search.stages.bundle import facts_of, weights_of
from search.stages.importances import importances, top_importances
from search.stages.report import drawn_curves
from search.stages.search_figures import search_figures
from trainables.data.synthetic.dataset import write_synthetic
from trainables.recipe.recipe import Recipe

RUNGS, MAX_EPOCHS = (1, 3, 9), 27
SPACE = f"""
model:
  backbone: {{choice: [test_convnext, test_resnet]}}
  pretrained: false
  head: {{name: segformer, channels: 16}}
augmentation: {{crop_px: 64}}
train: {{batch_size: 4, num_workers: 0}}
search: {{max_epochs: {MAX_EPOCHS}, grace_epochs: 1}}
ensemble: {{resamples: 100, sample_mb: 1, folds: 2, max_sweeps: 2, postprocess: off, stacking: off}}
"""
COMMANDS = {
    "help s": ["--help"],
    "validation error s": ["run", "--space", "convnext.yaml", "--set", "optimizer.lrr=1"],
}


def shipped_run(root: Path) -> RunDir:
    """A run with a verdict and a bundle; its decoded images lie in cache/ beside it."""
    card = write_synthetic(root / "data", num_images=60, image_px=256, seed=0)
    values: dict[str, Any] = {"head": {"name": "segformer", "channels": 16}, "augmentation": {"crop_px": 64}}
    recipes = [
        Recipe.model_validate(values | {"backbone": {"name": name, "pretrained": False}, "seed": seed})
        for seed, name in enumerate(("test_convnext", "test_resnet", "test_resnet"))
    ]
    run = RunDir(root / "run")
    make_finished_run(run, card, SPACE, recipes, write_untrained)
    ensemble, record = EnsembleResult.read(run.ensemble_json), read_json(run.run_json)
    export(facts_of(run), ensemble, weights_of(run, ensemble), run.bundle, ensemble_dir=run.root)
    write_json(run.run_json, record | {"stages": record["stages"] | {"bundle": record["started"]}})
    return run


def fill_study(run: RunDir, num_trials: int) -> None:
    """Replace study and events by those of a search of `num_trials`; the first are the run's own networks."""
    own = [trial.user_attrs for trial in open_study(run.study_db).get_trials()]
    for path in (run.study_db, run.events):
        path.unlink()
    space, rng = load_space("all.yaml"), np.random.default_rng(0)
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    log, made = EventLog(run.events, clock=lambda: 0.0), []
    for number in range(num_trials):
        trial = asked.ask()
        recipe = space.suggest(trial)
        ends = MAX_EPOCHS if number % 3 == 0 else int(rng.choice(RUNGS))
        curve = {epoch: float(rng.uniform(0.3, 0.6) * (1 - 0.8**epoch)) for epoch in range(1, ends + 1)}
        identity = {"hash": recipe.hash, "family": recipe.family, "recipe": recipe.model_dump(mode="json")}
        best = max(curve, key=lambda epoch: curve[epoch])
        progress = {"best_miou": curve[best], "best_epoch": best, "epochs": ends, "device_s": 60.0 * ends}
        attrs = own[number] if number < len(own) else {"identity": identity}
        state = TrialState.COMPLETE if ends == MAX_EPOCHS else TrialState.PRUNED
        made.append(create_trial(
            state=state, value=curve[best], params=trial.params, distributions=trial.distributions,
            user_attrs=attrs | {"progress": progress}, intermediate_values=curve,
        ))  # fmt: skip
        for epoch, miou in curve.items():
            metrics = {"epoch": epoch, "val/miou": miou, "val/loss": 1 - miou, "train/loss": 0.9 - miou}
            log._append({"event": "epoch", "trial": f"{number:05d}", "family": recipe.family, **metrics})
    storage = open_storage(run.study_db)
    optuna.create_study(study_name=STUDY_NAME, storage=storage, direction="maximize").add_trials(made)
    storage.engine.dispose()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds of CPU, those of its child processes among them."""
    before = os.times()
    found, after = call(), os.times()
    return found, sum(after[:4]) - sum(before[:4])


def report_figures(run: RunDir) -> dict[str, float]:
    """The whole of `segsearch report --run`, and the parts of it that grow with the trials."""
    _, whole_s = timed(lambda: rebuild(run.root, run.root.parent / "cache"))
    study = open_study(run.study_db)
    search = load_space(str(run.space_yaml)).options.search
    (shares, _), weighed_s = timed(lambda: importances(study))
    parts = {
        "best tenth s": lambda: top_importances(study),
        "rows s": lambda: study_rows(study, run.root),
        "curves s": lambda: drawn_curves(run),
        "audit s": lambda: audit_study(study, search, {}),
        "plots s": lambda: search_figures(study, shares),
    }
    figures = {"whole s": whole_s, "importances s": weighed_s} | {name: timed(call)[1] for name, call in parts.items()}
    return figures | {"report MB": run.report.stat().st_size / 1e6}


def command_figures() -> dict[str, float]:
    """The quickest of three calls of each command, in a process of its own."""
    found = {}
    for name, words in COMMANDS.items():
        command = [sys.executable, "-m", "search.cli", *words]
        found[name] = min(timed(lambda: subprocess.run(command, capture_output=True, check=False))[1] for _ in range(3))  # noqa: B023
    return found


def run(marks: Sequence[int] = (10, 200, 2000)) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found: dict[str, Any] = {"commands": command_figures(), "marks": []}
    print(json.dumps(found["commands"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        shipped = shipped_run(Path(folder))
        for mark in marks:
            here = RunDir(Path(folder) / f"run-{mark}")
            shutil.copytree(shipped.root, here.root)
            fill_study(here, mark)
            found["marks"].append({"trials": mark} | report_figures(here))
            print("  ".join(f"{name} {value:.4g}" for name, value in found["marks"][-1].items()), flush=True)
    return found


if __name__ == "__main__":
    run([int(mark) for mark in sys.argv[1:]] or (10, 200, 2000))
