"""The pseudo stage: what `segsearch pseudo` does, inside a run, as one Ray task that holds what a trial holds.

A task that was cut off goes on as the command does: with the files of RUN/pseudo.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.util.queue import Queue

from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.ensembling.result import EnsembleResult
from analysis.ensembling.rules import RULES
from search.cluster.ray_tasks import portable_errors, result_while_told
from search.engine.admission import resources_of
from search.run_dir import RunDir
from search.space.nodes import Choice, Fixed, Group, Range
from search.space.problems import SpaceProblems, nearest
from search.students import pseudo
from search.students.finished_run import FinishedRun, check_target, open_finished
from search.students.pseudo_plans import make_plans
from trainables.recipe.recipe import Train
from trainables.worker_process import prepare_worker

if TYPE_CHECKING:
    from search.space.space import Space
    from search.stages.run_data import Data
    from search.stages.stage import Context

MIN_BATCH = 2  # an image with labels and one with pseudo labels


def check(space: Space, data: Data) -> None:
    """Raises ValueError where the stage could not begin once its time has come: for a rule or class that there is none
    of, batches of one image, and a card without unlabelled images or with labelled ones among them."""
    asked = space.options.pseudo
    if asked is None:
        return
    problems = [f"pseudo.{line}" for line in pseudo.unknown_classes(asked, data.index.classes)]
    rules = [name for name in RULES if name != "stacked" or space.options.ensemble.stacking != "off"]
    if asked.rule is not None and asked.rule not in rules:
        problems.append(f"pseudo.rule: unknown rule {asked.rule!r}{nearest(asked.rule, rules)}")
    if _least_batch(space) < MIN_BATCH:
        problems.append(
            f"train.batch_size: must be at least {MIN_BATCH} with pseudo labels, got {_least_batch(space)}; raise it, "
            "or leave `pseudo` out"
        )
    if problems:
        raise SpaceProblems(space.name, problems)
    pseudo.check_images(data)


def _least_batch(space: Space) -> int:
    train = space.root.children.get("train")
    node = train.children.get("batch_size") if isinstance(train, Group) else None
    if isinstance(node, Range):
        return int(node.low)
    if isinstance(node, Choice):
        return int(min(node.items))
    return int(node.value) if isinstance(node, Fixed) else Train().batch_size


def run(context: Context) -> None:
    """Write pseudo/, with the verdict on it. Raises what `pseudo.run` raises."""
    asked, num_images = context.space.options.pseudo, len(context.data.index.ids("unlabelled"))
    if asked is None:
        offer = f"; with the key `pseudo`, a student would learn from {num_images} unlabelled images"
        context.say("pseudo: off" + (offer if num_images else ""))
        return
    folder, options = context.run.pseudo, PseudoOptions.model_validate(asked.model_dump())
    check_target(folder, options)
    ensemble = EnsembleResult.read(context.run.ensemble_json)
    plans = make_plans(FinishedRun(context, ensemble), options, "cpu")
    trainings = len(plans.judged) * len(options.shares)
    context.say(
        f"pseudo: {num_images} unlabelled images, at most {options.rounds} rounds of {trainings} students"
        + (" and one on all folds" if plans.shipped else "")
    )
    resources = context.space.options.resources
    held = resources_of(resources, plans.judged[0].plain.recipe, context.data.index.num_classes)
    retries = context.space.options.search.max_failures
    lines = Queue(actor_options={"num_cpus": 0})
    task = ray.remote(num_cpus=held["cpu"], num_gpus=held["gpu"], max_retries=retries)(teach)
    waiting = task.remote(context.run, options, context.data.cache_root, held["cpu"], held["gpu"], lines.put)
    result: PseudoResult = result_while_told(waiting, lines, context.say)
    for caveat in result.caveats:
        context.say(f"note: {caveat}")
    context.say(result.sentence)


@portable_errors
def teach(
    run: RunDir, options: PseudoOptions, cache_root: Path, cpu: float, gpu: float, say: Callable[[str], None]
) -> PseudoResult:
    """A Ray task: the whole of `pseudo.run`, on this node's own decoded images."""
    prepare_worker(cpu, gpu)
    finished = open_finished(run, cache_root, say=say, now=lambda: datetime.now().astimezone())
    return pseudo.run(finished, options, run.pseudo, device="cuda" if gpu else "cpu", ranks=max(1, int(gpu)))
