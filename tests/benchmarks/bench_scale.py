"""What a search of thousands of trials costs its driver, replayed through the real searcher, scheduler and observers.

    python tests/benchmarks/bench_scale.py [MARK ...]      # 10 100 500 1000 2000 5000 10000 trials; about 20 minutes

One search over spaces/all.yaml (27 epochs at most, 20 classes, study.db on disk) runs to each mark in a session of its
own, which resumes the one before. At each mark: what a suggestion by TPE, an epoch and a trial's end take, observers
among them; memory and files; what a session took before its first suggestion; what the report takes. Between marks
suggestions are random, which takes minutes in place of hours.
"""

from __future__ import annotations

import io
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parents[1]))
from factories import make_ensemble, make_member
from optuna.samplers import BaseSampler
from replay.curves import PowerLaws
from replay.samplers import random_at
from replay.schedulers import family_asha
from replay.simulator import Recipe, Replay

from analysis.report.page import ReportFacts, write_report
from search.engine.ray_callback import TrialTable
from search.engine.searcher import FamilySearch, sampler_for
from search.engine.study_file import open_storage, open_study
from search.observers.event_log import EventLog
from search.observers.progress import PlainLines, TimeLeft
from search.observers.search_forecast import Lengths, SearchForecast
from search.observers.trial_row import Observer, study_rows
from search.observers.trials_csv import CsvTable
from search.run_dir import RunDir
from search.space.space import Space, load_space
from search.stages.importances import importances
from search.stages.report import drawn_curves, trial_lines
from trainables.ray_trainable import METRIC

MAX_EPOCHS, NUM_CLASSES, NUM_WORKERS = 27, 20, 8
NUM_SUGGESTED, LAST = 10, 300  # suggestions by TPE before a mark; calls that a mean is taken of
CLASSES = tuple(f"class {k}" for k in range(NUM_CLASSES))


@dataclass(frozen=True)
class Reports:
    """The power laws with everything else that a trial reports."""

    task: PowerLaws

    def metrics(self, recipe: Recipe, epoch: int) -> dict[str, Any]:
        found = self.task.metrics(recipe, epoch)
        spread = np.random.default_rng(epoch).uniform(-0.1, 0.1, NUM_CLASSES)
        losses = {f"{part}/loss": 1.0 - found[METRIC] / 3 for part in ("train", "val")}
        rest = {"val/iou": (found[METRIC] + spread).tolist(), "lr": 1e-4 / 3, "images_per_s": 81.3, "diverged": 0}
        return found | losses | rest | {"best/miou": found[METRIC], "best/epoch": epoch, "accumulate": 1}

    def epoch_s(self, recipe: Recipe) -> float:
        return self.task.epoch_s(recipe)


class Timed:
    """Passes every call on to an observer and keeps how long it took, in seconds."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.took_s: dict[str, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Callable[..., None]:
        def timed(*args: Any) -> None:
            begun_s = time.perf_counter()
            getattr(self.observer, name)(*args)
            self.took_s[name].append(time.perf_counter() - begun_s)

        return timed

    def ms(self, name: str) -> float:
        """Mean of the last calls: one that is seldom dear counts."""
        return 1000 * statistics.fmean(self.took_s[name][-LAST:])


def space_of(num_trials: int) -> Space:
    """The shipped space with a budget."""
    budget = f"search={{num_trials: {num_trials}, max_epochs: {MAX_EPOCHS}, grace_epochs: 1}}"
    return load_space("all.yaml", overrides=[budget])


class Session:
    """One session of a search in a run directory; it resumes what lies there, and ends with trial `num_trials`."""

    def __init__(self, run: RunDir, num_trials: int) -> None:
        begun_s = time.perf_counter()
        self.space, self.num_trials, self.storage = space_of(num_trials), num_trials, open_storage(run.study_db)
        self.search = FamilySearch(self.space, storage=self.storage, metric=METRIC, sampler_at=self._sampler_at)
        left = TimeLeft(SearchForecast(Lengths(4.0, MAX_EPOCHS)), lambda rows: None)
        self.observers = {
            "trials.csv": Timed(CsvTable(run.trials_csv, classes=CLASSES, clock=time.time)),
            "events.jsonl": Timed(EventLog(run.events, clock=time.time)),
            "progress": Timed(PlainLines(left, clock=time.time, stream=io.StringIO())),
        }
        self.table = TrialTable(self.search, self.search, list(self.observers.values()), METRIC)  # type: ignore[arg-type]
        self.table.tell("begin", self.table.rows, num_trials)
        scheduler = family_asha(MAX_EPOCHS, 1)
        for frozen in self.search.study.get_trials(deepcopy=False):
            identity = frozen.user_attrs["identity"]
            scheduler.replay(identity["recipe"], frozen.number, frozen.intermediate_values)
        self.resume_s = time.perf_counter() - begun_s
        model = Reports(PowerLaws("slow_best", 0, MAX_EPOCHS))
        self.replay = Replay(self.search, scheduler, model, NUM_WORKERS, table=self.table, suggested=self._note)
        self.num_known, self.suggest_s = len(self.table.rows), list[float]()
        self.epoch_s: list[float] = []
        self._begun_s: float | None = None

    def _sampler_at(self, position: int) -> BaseSampler:
        is_timed = position >= self.num_trials - NUM_SUGGESTED
        return sampler_for(position, seed=0, num_random=0) if is_timed else random_at(0, position)

    def _note(self) -> None:
        """Called before and after each suggestion."""
        now_s = time.perf_counter()
        if self._begun_s is not None:
            self.suggest_s.append(now_s - self._begun_s)
        self._begun_s = now_s if self._begun_s is None else None

    def run(self) -> dict[str, float]:
        """To its last trial."""
        begun_s, num_suggested = time.perf_counter(), 0
        for _ in self.replay.epochs():
            suggested_s = sum(self.suggest_s[num_suggested:])
            num_suggested = len(self.suggest_s)
            now_s = time.perf_counter()
            self.epoch_s.append(now_s - begun_s - suggested_s)
            begun_s = now_s
        self.table.tell("end")
        timed = self.suggest_s[self.num_trials - self.num_known - NUM_SUGGESTED :][
            :NUM_SUGGESTED
        ]  # the rest finds none left
        figures = {
            "trials": self.num_trials,
            "resume s": self.resume_s,
            "suggestion ms": 1000 * statistics.median(timed),
            "epoch ms": 1000 * statistics.fmean(self.epoch_s[-LAST:]),
        }
        for name, observer in self.observers.items():
            figures |= {f"{name} epoch ms": observer.ms("epoch"), f"{name} end ms": observer.ms("trial_ended")}
        self.storage.engine.dispose()
        return figures | {"memory MB": memory_mb()}


def memory_mb() -> float:
    """What this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 1e6


def report_figures(run: RunDir) -> dict[str, float]:
    """The report stage's parts that grow with the trials; the ensemble is a small one."""
    took_s = [time.perf_counter()]
    study = open_study(run.study_db)
    rows = study_rows(study, run.root)
    took_s.append(time.perf_counter())
    shares, _ = importances(study)
    took_s.append(time.perf_counter())
    curves, timeline = drawn_curves(run)
    facts = ReportFacts(
        title="scale",
        started="2026-05-01T12:00:00+00:00",
        ended="2026-05-02T12:00:00+00:00",
        space="all",
        data="none",
        counts={"trials": len(rows)},
        ensemble=make_ensemble(CLASSES, [make_member(f"{n:05d}") for n in range(3)]),
        trials=trial_lines(rows, None),
        curves=curves,
        work=timeline.spans(rows, {"started": "2026-05-01T12:00:00+00:00", "stages": {}}),
        importances=shares,
    )
    write_report(run.report, facts)
    took_s.append(time.perf_counter())
    read, weighed, written = np.diff(took_s).tolist()
    return {
        "study s": read,
        "importances s": weighed,
        "page s": written,
        "report MB": run.report.stat().st_size / 1e6,
        "events MB": run.events.stat().st_size / 1e6,
        "study MB": run.study_db.stat().st_size / 1e6,
        "csv MB": run.trials_csv.stat().st_size / 1e6,
    }


def run(marks: Sequence[int] = (10, 100, 500, 1000)) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        here = RunDir(Path(folder))
        for mark in marks:
            begun_s = time.perf_counter()
            found.append(Session(here, mark).run())
            found[-1] |= {"session s": time.perf_counter() - begun_s} | report_figures(here)
            print("  ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    return {"marks": found}


if __name__ == "__main__":
    given = [int(mark) for mark in sys.argv[1:]]
    run(given or (10, 100, 500, 1000, 2000, 5000, 10_000))
