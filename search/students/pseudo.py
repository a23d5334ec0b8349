"""Pseudo labels of a finished run: rounds of a teacher's labels and a student's training, then the verdict.

What is there already is kept: round-<n>/labels with its lineage, the students' weights, bundle/, and pseudo.json, which
comes last. Rounds are told by val whether to go on; the hold-out is opened once, for the last student that gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis.bundle.predictor import resolve_device
from analysis.distillation.verdict import compare
from analysis.ensembling.bootstrap import bootstrap_draws
from analysis.ensembling.distilled_result import Comparison
from analysis.ensembling.pseudo_result import FORMAT, PseudoOptions, PseudoResult, PseudoRound
from analysis.ensembling.result import FAIR_RIVAL
from analysis.pseudo_labels.leaks import check_unlabelled
from analysis.pseudo_labels.verdict import Counts, gain_of, holds, reason_of, sentence_of
from analysis.voting.labelled_logits import LabelledLogits
from search.run_dir import BUNDLE
from search.students.finished_run import FinishedRun, write_options
from search.students.judging import opened, read_counts, reopening
from search.students.pseudo_labelling import EnsembleTeacher, NetworkTeacher, PseudoTeacher, label_images
from search.students.pseudo_training import ITSELF, Setting, count_network, plain_of, train_consistent, train_student
from search.students.student_bundle import Judged, write_bundle
from trainables.fit_student import StudentRecord
from trainables.models.weights_file import BEST_WEIGHTS, fingerprint

RESULT, NAME = "pseudo.json", "pseudo"
LABELLED = {"train": "train_ids", "val": "val_ids", "hold-out": "holdout_ids"}


@dataclass(frozen=True)
class Taught:
    """A student of a round, and its counts (N,K,K) on val."""

    record: StudentRecord
    folder: Path
    counts: Counts


def run(finished: FinishedRun, options: PseudoOptions, out: Path, *, device: str, ranks: int) -> PseudoResult:
    """Label, train and judge in `out`, which `finished_run.check_target` has passed. What was judged is left as it is.

    Raises ValueError where there is no unlabelled image, or one of them is labelled, or nearly.
    """
    context = finished.context
    if (out / RESULT).is_file():
        context.say(f"{out} holds its verdict already")
        return PseudoResult.read(out / RESULT)
    check_images(finished)
    setting = Setting(finished, options, plain_of(finished, options), resolve_device(device), ranks)
    teacher: PseudoTeacher = EnsembleTeacher(finished, options.rule, setting.device)
    write_options(out, options)
    plain = setting.plain
    before = count_network(finished, plain.recipe, plain.weights, context.data.split.val_ids, setting.device)
    rounds: list[PseudoRound] = []
    last: Taught | None = None
    for number in range(1, options.rounds + 1):
        done, student = _round(setting, teacher, out / f"round-{number}", before)
        context.say(f"round {number}: {done.reason}")
        rounds.append(done)
        if student is None or not done.helped:
            break
        last, before = student, student.counts  # the next round must gain over this one
        teacher = NetworkTeacher(finished, f"student of round {number}", student.record, student.folder, setting.device)
    result = _judged(setting, rounds, last, out)
    result.write(out / RESULT)
    return result


def check_images(finished: FinishedRun) -> None:
    """Raises ValueError where the card names no unlabelled images, or labelled ones among them."""
    data, unlabelled = finished.context.data, finished.unlabelled
    if not unlabelled:
        raise ValueError(
            f"pseudo labels need unlabelled images, got none in the card of {data.index.name}; name a folder under "
            "`unlabelled`"
        )
    labelled = {part: getattr(data.split, field) for part, field in LABELLED.items()}
    check_unlabelled(unlabelled, labelled, data.cache.image)


def _round(setting: Setting, teacher: PseudoTeacher, folder: Path, before: Counts) -> tuple[PseudoRound, Taught | None]:
    """One teacher's labels and its student, judged on val against the counts `before` (N,K,K)."""
    finished, options = setting.finished, setting.options
    if options.schedule == "consistency":
        num_images = len(finished.unlabelled)
        alone = PseudoRound(
            teacher=ITSELF,
            labels="",
            images=num_images,
            dropped=0,
            certain=None,
            gain=None,
            helped=False,
            reason="",
        )
        return _on_val(setting, alone, *train_consistent(setting, folder), before)
    labels = label_images(finished, teacher, options, folder / "labels")
    shares = [one.certain for one in labels.labels]
    done = PseudoRound(
        teacher=labels.teacher.name,
        labels=labels.fingerprint if shares else "",
        images=len(shares),
        dropped=labels.dropped,
        certain=sum(shares) / len(shares) if shares else 0.0,
        gain=None,
        helped=False,
        reason=f"no class is certain enough on {options.min_certain:.0%} of any of {labels.dropped} images",
    )
    if not shares:
        return done, None
    return _on_val(setting, done, *train_student(setting, labels, folder), before)


def _on_val(
    setting: Setting, done: PseudoRound, record: StudentRecord, place: Path, before: Counts
) -> tuple[PseudoRound, Taught]:
    """The round with its student's gain on val."""
    finished = setting.finished
    data, ensemble = finished.context.data, finished.context.space.options.ensemble
    counts = count_network(finished, record.recipe, place / BEST_WEIGHTS, data.split.val_ids, setting.device)
    images = LabelledLogits.of((), data.split.val_ids, data.cache, data.index)
    draws = bootstrap_draws(images.groups, images.grouped, ensemble.resamples, finished.context.space.options.seed)
    step = gain_of(counts, before, draws)
    helped = holds(step, ensemble.confidence)
    changed = {"gain": step, "helped": helped, "reason": reason_of(step, ensemble.confidence, len(counts))}
    return done.model_copy(update=changed), Taught(record, place, counts)


def _judged(setting: Setting, rounds: list[PseudoRound], last: Taught | None, out: Path) -> PseudoResult:
    """The verdict; where a round helped on val, the hold-out is opened for its student, which becomes a bundle."""
    finished = setting.finished
    found: Comparison | None = None
    said: list[str] = []
    if last is not None:
        ledger = opened(finished, f"segsearch pseudo, student {fingerprint(last.folder / BEST_WEIGHTS)}")
        found, said = _compare(setting, last), reopening(ledger)
    else:
        ledger = finished.ensemble.holdout_opened
    sentence = sentence_of(rounds, found)
    if finished.ensemble.fitted_on.folds:
        said.append(
            "the members of the ensemble were trained on val too, on which rounds are judged: gains there are flattered"
        )
    if found is not None and last is not None:
        judged = Judged(NAME, found, 0.0, sentence, tuple(said))
        write_bundle(finished, last.record, last.folder, judged, out / BUNDLE)
    return PseudoResult(
        format=FORMAT,
        options=setting.options,
        trial=setting.plain.trial,
        rounds=tuple(rounds),
        comparison=found,
        helped=found is not None and found.is_better,
        sentence=sentence,
        caveats=tuple(said),
        holdout_opened=ledger,
    )


def _compare(setting: Setting, last: Taught) -> Comparison:
    """The student beside the same recipe without pseudo labels and the ensemble, on the hold-out."""
    finished, plain, device = setting.finished, setting.plain, setting.device
    rule = setting.options.rule or finished.ensemble.verdict.rule
    ids, counts = read_counts(finished.context.run, {"rival": FAIR_RIVAL, "ensemble": rule})
    counts["single"] = count_network(finished, plain.recipe, plain.weights, ids, device)
    counts["distilled"] = count_network(finished, last.record.recipe, last.folder / BEST_WEIGHTS, ids, device)
    data, options = finished.context.data, finished.context.space.options
    images = LabelledLogits.of((), ids, data.cache, data.index)
    draws = bootstrap_draws(images.groups, images.grouped, options.ensemble.resamples, options.seed)
    return compare(counts, draws)
