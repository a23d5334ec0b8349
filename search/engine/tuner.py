"""Runs a search with Ray Tune: TPE, ASHA per family and kind of head, reused actors, one machine or a cluster.

With one seed, the first trials (the defaults, then the random ones) are the same on every machine and at every
concurrency, and so is each trial by itself. The whole search is the same where one trial runs at a time
(`max_concurrent: 1`), interrupted or not. With more at once, ASHA and TPE act on what has finished by then.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.search import ConcurrencyLimiter

from search.cluster.nodes import Node, check_fits, live_nodes, num_holders
from search.cluster.run_files import RunFiles
from search.engine.admission import Admission, AdmissionPolicy
from search.engine.asha import FamilyASHA
from search.engine.budget import ENDED_EARLY
from search.engine.ray_callback import TrialTable
from search.engine.searcher import FamilySearch, SearchSpace
from search.engine.study_file import close_storage, open_storage
from search.engine.warm_start import join_study
from search.observers.trial_row import Observer, TrialRow, study_rows
from search.space.options import Search
from trainables.ray_trainable import METRIC, Trainable, report_failures
from trainables.recipe.recipe import Recipe

PROBES = 16  # recipes drawn to learn what trials may ask for

DRIVER_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its banner ignores verbose=0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # Ray hands this one on to its workers
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the JSON logger is passed by hand; CSV and TensorBoard are not wanted
    # a snapshot holds every trial, 15 kB each, and is never read; CheckpointConfig(num_to_keep) would force one per
    # epoch, hence TrialTable deletes old checkpoints
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_ONLY_STORE_CHECKPOINT_SCORE_ATTRIBUTE": "1",  # Ray keeps a record of each checkpoint: without its metrics
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial without its metric fails; it must not end the search
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are in the table
}


class SearchInterrupted(KeyboardInterrupt):
    """The search ended before all its trials did (Ctrl-C): Ray Tune ends them in order and returns. Everything finished
    is kept."""


def run_search(
    space: SearchSpace,
    policy: AdmissionPolicy,
    trainable: Trainable,
    files: RunFiles,
    *,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    reuse_actors: bool = True,
) -> list[TrialRow]:
    """Runs trials until `search.num_trials` have ended, in this session and earlier ones; returns all rows.

    Args:
        trainable: `config` -> reports `val/miou` and `epoch` once per epoch, with a checkpoint. It starts from
            `tune.get_checkpoint()`, else from `config["resume_from"]`.
        files: Of the run, where the study and Ray Tune's sessions are kept.
        observers: Told of every trial and epoch, in this order.

    Raises:
        ValueError: the study exists and `resume` is not set; a trial asks for more than any node has.
        SearchInterrupted: Ctrl-C.
    """
    run = files.run
    if run.study_db.exists() and not resume:
        raise ValueError(f"a new search needs a study of its own, got {run.study_db}, which exists; resume that run")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    nodes = live_nodes()
    num_trials, slots = space.options.search.num_trials, concurrency(space, policy, nodes)
    storage = open_storage(run.study_db)
    join_study(storage, space.suggest, run)
    search = FamilySearch(space, storage=storage, metric=METRIC, admit=partial(admit, policy, nodes))
    limiter = ConcurrencyLimiter(search, max_concurrent=slots)
    table = TrialTable(search, limiter, observers, METRIC, timeout_s=space.options.search.trial_timeout_s)
    table.tell("begin", table.rows, num_trials)
    try:
        if not search.is_done:
            tune_trials(table, space.options.search, policy, trainable, files, reuse_actors=reuse_actors)
        table.take_refused()
        search.study.set_user_attr(ENDED_EARLY, search.enough() if len(table.rows) < num_trials else None)
    finally:
        table.tell("end")
        rows = study_rows(search.study, search.root)
        close_storage(storage)
    if not search.is_done:
        ended = sum(row.state != "RUNNING" for row in rows)
        raise SearchInterrupted(f"{ended} of {num_trials} trials ended before the search was stopped")
    return rows


def admit(policy: AdmissionPolicy, nodes: Sequence[Node], recipe: Recipe) -> Admission:
    """The policy's decision on a recipe. Raises ValueError where its trial fits no node."""
    check_fits(policy.resources_of(recipe), nodes)
    return policy.admit(recipe)


def tune_trials(
    table: TrialTable,
    options: Search,
    policy: AdmissionPolicy,
    trainable: Trainable,
    files: RunFiles,
    *,
    reuse_actors: bool,
) -> None:
    """One session of Ray Tune. Sessions share nothing but the study and the checkpoints that it names."""
    asha = FamilyASHA(
        metric=METRIC,
        max_epochs=options.max_epochs,
        grace_epochs=options.grace_epochs,
        reduction_factor=options.reduction_factor,
    )
    for frozen in table.search.study.get_trials(deepcopy=False):
        if "identity" in frozen.user_attrs:
            asha.replay(frozen.user_attrs["identity"]["recipe"], frozen.number, frozen.intermediate_values)
    tuner = tune.Tuner(
        tune.with_resources(report_failures(trainable), partial(placement, policy)),
        tune_config=tune.TuneConfig(
            search_alg=table.limiter,
            scheduler=asha,
            num_samples=-1,  # the searcher says when it is finished
            reuse_actors=reuse_actors,
            trial_name_creator=trial_folder,
            trial_dirname_creator=trial_folder,
        ),
        run_config=tune.RunConfig(
            name=next_session(files.run.tune),
            storage_path=str(files.run.tune.resolve()),
            storage_filesystem=files.filesystem,
            callbacks=[table, JsonLoggerCallback()],  # type: ignore[no-untyped-call]
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            verbose=0,
        ),
    )
    with environment(DRIVER_ENVIRONMENT), quiet("ray.tune"), own_handlers():
        try:
            tuner.fit()
        except Exception:
            if table.failure is not None:
                raise table.failure from None  # Ray passes on its text alone
            raise


def trial_folder(trial: Any) -> str:
    return f"{trial.config['number']:05d}"


def next_session(tune_dir: Path) -> str:
    """'session-000', or the one after the last."""
    return f"session-{len(list(tune_dir.glob('session-*'))):03d}"


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables that only the environment can carry to Ray, and puts the old ones back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Puts back the handlers of SIGINT and SIGUSR1. Ray Tune leaves its own behind, which would swallow the first
    Ctrl-C of the later stages."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silence a logger below WARNING, and Ray's hint at `Tuner.restore`, which loses the rungs."""
    logger, module = logging.getLogger(name), logging.getLogger(f"{name}.tune")
    before = logger.level

    def helps(record: logging.LogRecord) -> bool:
        return "Tuner.restore" not in record.getMessage()

    logger.setLevel(logging.WARNING)
    module.addFilter(helps)
    try:
        yield
    finally:
        module.removeFilter(helps)
        logger.setLevel(before)


def placement(policy: AdmissionPolicy, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """All of a trial's devices in one bundle, so on one node."""
    resources = policy.resources_of(Recipe.model_validate(config["recipe"]))
    bundle = {"CPU": float(resources.get("cpu", 1.0)), "GPU": float(resources.get("gpu", 0.0))}
    return tune.PlacementGroupFactory([{name: amount for name, amount in bundle.items() if amount}])


def concurrency(space: SearchSpace, policy: AdmissionPolicy, nodes: Sequence[Node]) -> int:
    """How many trials Ray may hold at once: more than fit, so that one that waits for a large share (two GPUs) does
    not idle a device that a smaller one could use. `search.max_concurrent` decides where it is set.

    Raises ValueError where a recipe of the space does not fit at all.
    """
    defaults, max_concurrent = space.defaults(), space.options.search.max_concurrent
    probe = optuna.create_study(sampler=RandomSampler(seed=0))
    for default in defaults:
        probe.enqueue_trial(dict(default))
    asked = [policy.resources_of(space.suggest(probe.ask())) for _ in range(max(PROBES, len(defaults)))]
    for wanted in asked:
        check_fits(wanted, nodes)
    if max_concurrent is not None:
        return max_concurrent
    fit = [num_holders(wanted, nodes) for wanted in asked]
    alike = len({tuple(sorted(wanted.items())) for wanted in asked}) == 1
    return max(fit) + (1 if alike else max(2, max(fit) // 4))
