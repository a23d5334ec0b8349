"""The pseudo stage: what `segsearch pseudo` does, inside a run; its steps are Ray tasks that hold what a trial holds.

What was cut off goes on as the command does: with the files of RUN/pseudo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.ensembling.result import EnsembleResult
from analysis.ensembling.rules import RULES
from search.engine.admission import resources_of
from search.space.nodes import Choice, Fixed, Group, Range
from search.space.problems import SpaceProblems, nearest
from search.students import pseudo
from search.students.finished_run import FinishedRun, check_target
from search.students.pseudo_plans import make_plans
from search.students.pseudo_tasks import AsTasks
from trainables.recipe.recipe import Train

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
    finished = FinishedRun(context, EnsembleResult.read(context.run.ensemble_json))
    result = pseudo.run(tasks_of(finished, options), folder)
    for caveat in result.caveats:
        context.say(f"note: {caveat}")
    context.say(result.sentence)


def tasks_of(finished: FinishedRun, options: PseudoOptions) -> AsTasks:
    """The steps as tasks that hold what a trial of the student's recipe holds; says what is to be trained. Raises
    ValueError as `make_plans` does."""
    context, plans = finished.context, make_plans(finished, options)
    trainings = len(plans.judged) * len(options.shares)
    context.say(
        f"pseudo: {len(finished.unlabelled)} unlabelled images, at most {options.rounds} rounds of {trainings} students"
        + (" and one on all folds" if plans.shipped else "")
    )
    recipe, resources = plans.judged[0].plain.recipe, context.space.options.resources
    return AsTasks.of(finished, options, resources_of(resources, recipe, context.data.index.num_classes))
