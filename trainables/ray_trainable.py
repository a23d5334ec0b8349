"""The Ray Tune trainable: the only file of this package that knows Ray.

`config` holds the recipe (as a dict) and `resume_from` (a checkpoint folder or None); the data index and its split
come through Ray's object store. Every epoch is reported with its checkpoint. Actors are reused from trial to trial, so
the process keeps its imports and its open cache.

torch is imported late: the driver loads this module to name the function, not to train.
"""

from __future__ import annotations

import functools
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.util.metrics import Gauge

from trainables.data.index import SegIndex, Split
from trainables.recipe.recipe import Recipe

if TYPE_CHECKING:
    from trainables.data.cache import Cache
    from trainables.training.attempt import EpochReport
from trainables.worker_process import is_out_of_memory, prepare_worker, release_memory

METRIC = "val/miou"
Trainable = Callable[[dict[str, Any]], Any]


def report_failures(trainable: Trainable) -> Trainable:
    """Wrap `trainable`: prepare its process, and report failures that a retry would only repeat.

    The same recipe at the same batch runs out of memory again, and a ValueError says that the recipe does not suit
    the data: both are reported as a failed trial. Anything else is raised, and Ray retries it on a new actor.
    """

    @functools.wraps(trainable)
    def run(config: dict[str, Any]) -> None:
        resources = tune.get_context().get_trial_resources().required_resources
        prepare_worker(float(resources.get("CPU", 1.0)), float(resources.get("GPU", 0.0)))
        try:
            trainable(config)
        except Exception as error:
            if is_out_of_memory(error):
                reason = f"out of memory: {error}"
            elif isinstance(error, ValueError):
                reason = str(error)
            else:
                raise
        else:
            if resources.get("GPU"):
                release_memory()
            return
        release_memory()
        tune.report({METRIC: 0.0, "epoch": 0, "failed": reason})

    return run


def make_trainable(index: SegIndex, split: Split, cache_root: Path, snapshots: int = 0) -> Trainable:
    """`train_trial` with its data: the index travels once, through Ray's object store. Ray must be running."""
    bound: Trainable = tune.with_parameters(
        train_trial, index=index, split=split, cache_root=cache_root.resolve(), snapshots=snapshots
    )
    return bound


def train_trial(config: dict[str, Any], index: SegIndex, split: Split, cache_root: Path, snapshots: int = 0) -> None:
    """One trial: fits `config["recipe"]` and reports every epoch to Ray Tune.

    Continues from Ray's checkpoint (a retry after a lost node), else from `config["resume_from"]` (a resumed run).
    """
    from trainables.training.epoch import Diverged
    from trainables.training.fit import Trial, fit

    context = tune.get_context()
    resources = context.get_trial_resources().required_resources
    recipe = Recipe.model_validate(config["recipe"])
    report = EpochReporter(trial=context.get_trial_name() or "", family=recipe.family)
    with tempfile.TemporaryDirectory(prefix="segsearch-trial-") as out_dir, start_of(config) as resume_from:
        try:
            device = "cuda" if resources.get("GPU") else "cpu"
            fit(
                Trial(recipe, open_cache(index, cache_root), split, Path(out_dir), device, snapshots),
                report,
                num_ranks=max(1, int(resources.get("GPU", 0.0))),
                resume_from=resume_from,
            )
        except Diverged as error:
            tune.report({METRIC: 0.0, "epoch": report.epoch + 1, "diverged": True, "error": str(error)})


@contextmanager
def start_of(config: Mapping[str, Any]) -> Iterator[Path | None]:
    """The folder of the checkpoint that a trial goes on from, on this node: it is fetched where its path leads to no
    disk of this node."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None and config.get("resume_from"):
        storage = tune.get_context().get_storage()
        checkpoint = tune.Checkpoint(config["resume_from"], storage.storage_filesystem)
    if checkpoint is None:
        yield None
        return
    with checkpoint.as_directory() as folder:
        yield Path(folder)


_CACHES: dict[tuple[str, Path], Cache] = {}  # of this process; actors outlive trials


def open_cache(index: SegIndex, root: Path) -> Cache:
    """The node's cache of this data set, opened once per process."""
    from trainables.data.cache import Cache

    key = (index.fingerprint, root)
    if key not in _CACHES:
        _CACHES[key] = Cache.open(index, root)
    return _CACHES[key]


@functools.cache
def miou_gauge() -> Gauge:
    """Shown on the node's metrics port as `ray_segsearch_trial_miou`."""
    return Gauge("segsearch_trial_miou", description="Validation mIoU of a trial", tag_keys=("trial", "family"))


class EpochReporter:
    """Hands an epoch to Ray Tune, frees its checkpoint folder, and remembers which epoch it was.

    A mIoU that is not finite is reported as 0.0 with `diverged`: Ray never stops a NaN.
    """

    def __init__(self, *, trial: str, family: str) -> None:
        self.trial, self.family = trial, family
        self.epoch = 0

    def __call__(self, done: EpochReport) -> None:
        if done.metrics.get("diverged"):
            return  # `fit` raises Diverged next, which is reported once, with its reason
        self.epoch = done.epoch
        metrics = reportable({**done.metrics, "epoch": done.epoch})
        miou_gauge().set(metrics[METRIC], tags={"trial": self.trial, "family": self.family})
        try:
            if metrics.get("diverged"):
                tune.report(metrics)
            else:
                tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(done.checkpoint_dir))
        finally:
            shutil.rmtree(done.checkpoint_dir, ignore_errors=True)  # Ray has its own copy


def reportable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without NaN: absent classes' IoU is None, a mIoU that is not finite is 0.0 and `diverged`."""
    clean = dict(metrics)
    if not math.isfinite(clean[METRIC]):
        logging.getLogger(__name__).warning("%s is %s: the trial has diverged", METRIC, clean[METRIC])
        clean |= {METRIC: 0.0, "diverged": True}
    for key, value in clean.items():
        if isinstance(value, list):
            clean[key] = [item if math.isfinite(item) else None for item in value]
    return clean
