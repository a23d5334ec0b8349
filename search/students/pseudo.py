"""Pseudo labels of a finished run: rounds of a teacher's labels and a student's training, then the verdict.

What is there already is kept: the labels of each round with their lineage, the students' weights, bundle/, and
pseudo.json, which comes last. Rounds are told by labelled images outside the hold-out whether to go on; the hold-out is
opened once, for the last student that gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from analysis.distillation.verdict import compare
from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.pseudo_options import Pseudo
from analysis.ensembling.pseudo_result import FORMAT, PseudoResult, PseudoRound
from analysis.ensembling.result import FAIR_RIVAL, Gain, HoldoutOpening
from analysis.pseudo_labels.leaks import check_unlabelled
from analysis.pseudo_labels.verdict import gain_of, sentence_of
from search.run_dir import BUNDLE
from search.space.problems import nearest
from search.stages.run_data import Data
from search.students.finished_run import write_options
from search.students.judging import opened, read_counts, reopening
from search.students.pseudo_labelling import Trained
from search.students.pseudo_plans import Plain, make_plans
from search.students.pseudo_round import count_plain, draws_of, run_round, taught_by, train_shipped
from search.students.pseudo_steps import Runner
from search.students.pseudo_training import count_network
from search.students.student_bundle import Judged, write_bundle
from trainables.models.weights_file import BEST_WEIGHTS, fingerprint

RESULT, NAME = "pseudo.json", "pseudo"
LABELLED = {"train": "train_ids", "val": "val_ids", "hold-out": "holdout_ids"}


@dataclass(frozen=True)
class Shipped:
    """The student of the last round that helped, what it has to beat, and its gain over that, cross-fitted."""

    student: Trained
    plain: Plain
    crossfit: Gain


def run(runner: Runner, out: Path) -> PseudoResult:
    """Label, train and judge in `out`, which `finished_run.check_target` has passed. What was judged is left as it is.

    Raises ValueError where there is no unlabelled image, or one of them is labelled, or nearly.
    """
    finished, options = runner.setting.finished, runner.setting.options
    context = finished.context
    if (out / RESULT).is_file():
        context.say(f"{out} holds its verdict already")
        return PseudoResult.read(out / RESULT)
    check_images(context.data)
    strange = unknown_classes(options, context.data.index.classes)
    if strange:
        raise ValueError("\n".join(strange))
    plans = make_plans(finished, options)
    write_options(out, options)
    plain = (plans.shipped or plans.judged[0]).plain
    first = before = count_plain(runner, plans)
    rounds: list[PseudoRound] = []
    last: Shipped | None = None
    for number in range(1, options.rounds + 1):
        folder = out / f"round-{number}"
        done, taught = run_round(runner, plans, folder, before)
        context.say(f"round {number}: {done.reason}")
        rounds.append(done)
        if taught is None or not done.helped:
            break
        student = train_shipped(runner, plans, taught, folder)
        last = Shipped(student, plain, gain_of(taught.counts, first, draws_of(finished, plans.judged_ids)))
        plans, before = taught_by(plans, taught, student, number), taught.counts
    result = _judged(runner, plain, rounds, last, out)
    result.write(out / RESULT)
    return result


def unknown_classes(options: Pseudo, classes: Sequence[str]) -> list[str]:
    """A line for each name under `target_precision` that is no class."""
    asked = options.target_precision
    names = sorted(set(asked) - set(classes)) if isinstance(asked, dict) else []
    return [f"target_precision.{name}: unknown class{nearest(name, classes)}" for name in names]


def check_images(data: Data) -> None:
    """Raises ValueError where the card names no unlabelled images, or labelled ones among them."""
    unlabelled = data.index.ids("unlabelled")
    if not unlabelled:
        raise ValueError(
            f"pseudo labels need unlabelled images, got none in the card of {data.index.name}; name a folder under "
            "`unlabelled`"
        )
    labelled = {part: getattr(data.split, field) for part, field in LABELLED.items()}
    check_unlabelled(unlabelled, labelled, data.cache.image)


def _judged(
    runner: Runner, plain: Plain, rounds: Sequence[PseudoRound], last: Shipped | None, out: Path
) -> PseudoResult:
    """The verdict; where a round helped, the hold-out is opened for its student, which becomes a bundle."""
    finished = runner.setting.finished
    found: Comparison | None = None
    said: list[str] = []
    ledger: tuple[HoldoutOpening, ...] = finished.ensemble.holdout_opened
    if last is not None:
        ledger = opened(finished, f"segsearch pseudo, student {fingerprint(last.student.folder / BEST_WEIGHTS)}")
        found, said = _compare(runner, last), reopening(ledger)
    crossfit = last.crossfit if last else None
    sentence = sentence_of(rounds, crossfit, found)
    if found is not None and last is not None:
        judged = Judged(NAME, found, 0.0, sentence, tuple(said))
        write_bundle(finished, last.student.record, last.student.folder, judged, out / BUNDLE)
    return PseudoResult(
        format=FORMAT,
        options=runner.setting.options,
        trial=plain.trial,
        rounds=tuple(rounds),
        gain_crossfit=crossfit,
        comparison=found,
        helped=found is not None and found.is_better,
        sentence=sentence,
        caveats=tuple(said),
        holdout_opened=ledger,
    )


def _compare(runner: Runner, last: Shipped) -> Comparison:
    """The student beside the same recipe without pseudo labels and the ensemble, on the hold-out."""
    finished, student, plain = runner.setting.finished, last.student, last.plain
    rule = runner.setting.options.rule or finished.ensemble.verdict.rule
    ids, counts = read_counts(finished.context.run, {"rival": FAIR_RIVAL, "ensemble": rule})
    networks = ((plain.recipe, plain.weights), (student.record.recipe, student.folder / BEST_WEIGHTS))
    steps = [partial(count_network, recipe=recipe, weights=weights, ids=ids) for recipe, weights in networks]
    counts["single"], counts["distilled"] = runner(steps)
    return compare(counts, draws_of(finished, ids))
