"""What a search of thousands of trials costs its driver, replayed through the real searcher, scheduler and observers.

    BENCH_SCALE=100,500,1000,5000,10000 python tests/benchmarks/bench_scale.py [FOLDER]

One search over spaces/all.yaml (27 epochs at most, 20 classes, study.db on disk) runs to each mark in sessions that
resume one another, each in a process of its own; in FOLDER it goes on from what an earlier call left. The first mark is
replayed from its first trial. Before a further one the trials and events so far are copied until NUM_REPLAYED trials
are missing, which are replayed: suggestions are random, the last NUM_SUGGESTED TPE's. At each mark, in time of the CPU:
what a suggestion by TPE, an epoch and a trial's end take, observers among them; what the session took before its first
suggestion; what the report takes; and memory and files.
"""

from __future__ import annotations

import io
import multiprocessing
import os
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
sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/analysis is not analysis
from factories import make_ensemble, make_member
from optuna.samplers import BaseSampler
from replay.copies import copy_trials
from replay.curves import PowerLaws
from replay.samplers import random_at
from replay.schedulers import family_asha
from replay.simulator import Recipe, Replay

from analysis.report.page import ReportFacts, write_report
from search.cluster.nodes import Node
from search.engine.ray_callback import TrialTable
from search.engine.searcher import FamilySearch, sampler_for
from search.engine.study_audit import audit_study
from search.engine.study_file import close_storage, open_storage, open_study
from search.observers.event_log import EventLog
from search.observers.progress import PlainLines, TimeLeft
from search.observers.search_forecast import Lengths, SearchForecast
from search.observers.trial_row import Observer, study_rows
from search.observers.trials_csv import CsvTable
from search.run_dir import RunDir
from search.space.space import Space, load_space
from search.stages.importances import importances, top_importances
from search.stages.report import drawn_curves, trial_lines
from search.stages.search_figures import search_figures
from search.stages.stage_forecast import Sizes, StageForecast
from trainables.ray_trainable import METRIC

MARKS = tuple(int(mark) for mark in os.environ.get("BENCH_SCALE", "30,100,1000").split(","))
MAX_EPOCHS, NUM_CLASSES, NUM_WORKERS = 27, 20, 8
NUM_REPLAYED, NUM_SUGGESTED = 30, 10  # before a mark; of those by TPE
LAST = 100  # calls that a mean is taken of
CLASSES = tuple(f"class {k}" for k in range(NUM_CLASSES))
BEGUN, ENDED = "2026-05-01T12:00:00+00:00", "2026-05-02T12:00:00+00:00"


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
            begun_s = time.process_time()
            getattr(self.observer, name)(*args)
            self.took_s[name].append(time.process_time() - begun_s)

        return timed

    def ms(self, name: str) -> float:
        """Mean of the last calls: one that is seldom dear counts."""
        return 1000 * statistics.fmean(self.took_s[name][-LAST:])


class Laps:
    """Name -> seconds of CPU since the last name."""

    def __init__(self) -> None:
        self.took_s: dict[str, float] = {}
        self._begun_s = time.process_time()

    def note(self, name: str) -> None:
        now_s = time.process_time()
        self.took_s[name], self._begun_s = now_s - self._begun_s, now_s


def space_of(num_trials: int) -> Space:
    """The shipped space with a budget."""
    budget = f"search={{num_trials: {num_trials}, max_epochs: {MAX_EPOCHS}, grace_epochs: 1}}"
    return load_space("all.yaml", overrides=[budget])


def observers_of(run: RunDir, space: Space) -> dict[str, Timed]:
    """Those of the search stage, trackers and gauges left out."""
    later = StageForecast(space.options, Sizes(800, 100, 100, 512 * 512, NUM_CLASSES), (Node(cpus=NUM_WORKERS),))
    forecast = SearchForecast(Lengths(space.options.search.expected_epochs, MAX_EPOCHS))
    left = TimeLeft(forecast, lambda rows: sum(later.seconds(rows.values()).values()) or None)
    return {
        "trials.csv": Timed(CsvTable(run.trials_csv, classes=CLASSES, clock=time.time)),
        "events.jsonl": Timed(EventLog(run.events, clock=time.time)),
        "forecast": Timed(later),
        "progress": Timed(PlainLines(left, clock=time.time, stream=io.StringIO())),
    }


class Session:
    """One session of a search in a run directory; it resumes what lies there, and ends with trial `num_trials`."""

    def __init__(self, run: RunDir, num_trials: int) -> None:
        self.space, self.num_trials = space_of(num_trials), num_trials
        laps = Laps()
        self.storage = open_storage(run.study_db)
        self.search = FamilySearch(self.space, storage=self.storage, metric=METRIC, sampler_at=self._sampler_at)
        laps.note("open s")
        self.observers = observers_of(run, self.space)
        self.table = TrialTable(self.search, self.search, list(self.observers.values()), METRIC)  # type: ignore[arg-type]
        laps.note("rows s")
        self.table.tell("begin", self.table.rows, num_trials)
        laps.note("observers s")
        scheduler = family_asha(MAX_EPOCHS, 1)
        for frozen in self.search.study.get_trials(deepcopy=False):
            identity = frozen.user_attrs["identity"]
            scheduler.replay(identity["recipe"], frozen.number, frozen.intermediate_values)
        laps.note("rungs s")
        self.resume_s = laps.took_s
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
        now_s = time.process_time()
        if self._begun_s is not None:
            self.suggest_s.append(now_s - self._begun_s)
        self._begun_s = now_s if self._begun_s is None else None

    def run(self) -> dict[str, float]:
        """To its last trial."""
        begun_s, num_suggested = time.process_time(), 0
        for _ in self.replay.epochs():
            suggested_s = sum(self.suggest_s[num_suggested:])
            num_suggested = len(self.suggest_s)
            now_s = time.process_time()
            self.epoch_s.append(now_s - begun_s - suggested_s)
            begun_s = now_s
        self.table.tell("end")
        num_new = self.num_trials - self.num_known
        timed = self.suggest_s[num_new - NUM_SUGGESTED : num_new]  # the rest finds none left
        figures = {
            "trials": self.num_trials,
            "suggestion ms": 1000 * statistics.median(timed),
            "epoch ms": 1000 * statistics.fmean(self.epoch_s[-LAST:]),
        }
        for name, observer in self.observers.items():
            figures |= {f"{name} epoch ms": observer.ms("epoch"), f"{name} end ms": observer.ms("trial_ended")}
        close_storage(self.storage)
        return figures | {f"resume: {name}": took_s for name, took_s in self.resume_s.items()}


def memory_mb() -> float:
    """What this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 1e6


def session_figures(run: RunDir, mark: int) -> dict[str, float]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    before_mb, begun_s = memory_mb(), time.process_time()
    figures = Session(run, mark).run()
    return figures | {"session s": time.process_time() - begun_s, "memory MB": memory_mb() - before_mb}


def report_figures(run: RunDir) -> dict[str, float]:
    """The report stage's parts that grow with the trials; the ensemble is a small one."""
    before_mb, laps = memory_mb(), Laps()
    study = open_study(run.study_db)
    rows = study_rows(study, run.root)
    laps.note("study s")
    shares, _ = importances(study)
    laps.note("fANOVA s")
    top = top_importances(study)
    laps.note("PED-ANOVA s")
    curves, timeline = drawn_curves(run)
    laps.note("events s")
    audit = audit_study(study, space_of(len(rows)).options.search, {})
    laps.note("audit s")
    figures = search_figures(study, shares)
    laps.note("plots s")
    facts = ReportFacts(
        title="scale",
        started=BEGUN,
        ended=ENDED,
        space="all",
        data="none",
        counts={"trials": len(rows)},
        ensemble=make_ensemble(CLASSES, [make_member(f"{n:05d}") for n in range(3)]),
        trials=trial_lines(rows, None),
        curves=curves,
        work=timeline.spans(rows, {"started": BEGUN, "stages": {}}),
        importances=shares,
        top_importances=top,
        audit=audit,
        search_figures=figures,
    )
    write_report(run.report, facts)
    laps.note("page s")
    files = {"report": run.report, "events": run.events, "study": run.study_db, "csv": run.trials_csv}
    sizes = {f"{name} MB": path.stat().st_size / 1e6 for name, path in files.items()}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    epochs = sum(map(len, curves.values()))
    return {
        **{f"report: {name}": took_s for name, took_s in laps.took_s.items()},
        "report: memory MB": peak_mb - before_mb,
        **sizes,
        "events bytes per epoch": run.events.stat().st_size / epochs,
    }


def in_a_fork(call: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """What the call returns in a process of its own, whose memory is measured. EOFError where it fails."""
    forks = multiprocessing.get_context("fork")
    receiver, sender = forks.Pipe(duplex=False)
    process = forks.Process(target=lambda: sender.send(call(*args)))
    process.start()
    sender.close()
    found: dict[str, float] = receiver.recv()
    process.join()
    return found


def run_in(folder: Path, marks: Sequence[int]) -> list[dict[str, float]]:
    """A row of figures per mark."""
    here, found = RunDir(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    for mark in marks:
        if here.study_db.exists():
            copy_trials(here, mark - NUM_REPLAYED)
        found.append(in_a_fork(session_figures, here, mark) | in_a_fork(report_figures, here))
        print("  ".join(f"{name} {value:.4g}" for name, value in found[-1].items()), flush=True)
    return found


def run(marks: Sequence[int] = MARKS) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {"marks": run_in(Path(folder), marks)}


if __name__ == "__main__":
    if sys.argv[1:]:
        run_in(Path(sys.argv[1]), MARKS)
    else:
        run()
