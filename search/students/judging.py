"""The verdict on a student: its hold-out predictions against the counts of the run's own verdict, and its latency
beside the ensemble's and the single model's."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.distillation.latency import NUM_IMAGES, measure_ms
from analysis.distillation.verdict import compare, sentence_of
from analysis.ensembling.bootstrap import bootstrap_draws
from analysis.ensembling.distilled_result import (
    FORMAT,
    DistilledResult,
    DistilOptions,
    Latency,
    StudentFacts,
    TeacherFacts,
)
from analysis.ensembling.judge_on_holdout import open_holdout
from analysis.ensembling.read_confusions import read_confusions
from analysis.ensembling.result import FAIR_RIVAL, HoldoutOpening, RuleResult
from analysis.voting.labelled_logits import LabelledLogits
from analysis.voting.score_images import score_images
from analysis.voting.view_config import ViewConfig, VoteBatch
from analysis.voting.votes import Vote, single
from search.run_dir import BUNDLE, RunDir
from search.stages.single_trial import BEST_SINGLE, PLAIN
from search.students.finished_run import FinishedRun
from search.students.student_bundle import Judged, write_bundle
from trainables.data.index import Split
from trainables.fit_student import StudentRecord
from trainables.logits.store import LogitStore
from trainables.logits.view import View
from trainables.logits.write_logits import Candidate, write_logits
from trainables.models.weights_file import BEST_WEIGHTS, fingerprint

NAME = "distilled"
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Student:
    """A trained student, and where it comes from."""

    trial: str  # whose recipe it has
    record: StudentRecord
    changes: tuple[str, ...]
    rule: RuleResult  # its teacher
    teacher: TeacherFacts
    options: DistilOptions
    folder: Path


def judge(finished: FinishedRun, student: Student, predictors: Mapping[str, Predictor]) -> DistilledResult:
    """Score the student on the hold-out, time it beside `ensemble` and `single`, and write its bundle.

    The hold-out is opened once more, for this student, and the ledger says so. Raises ValueError where the counts of
    the run's own verdict are gone.
    """
    run, record = finished.context.run, student.record
    named = {"single": BEST_SINGLE, "rival": FAIR_RIVAL, "ensemble": student.rule.name}
    ids, counts = read_counts(run, named)
    ledger = opened(finished, f"segsearch distil, student {fingerprint(student.folder / BEST_WEIGHTS)}")
    device = predictors["single"].device
    counts["distilled"] = count_holdout(finished, student, ids, device)
    images = LabelledLogits.of((), ids, finished.context.data.cache, finished.context.data.index)
    options = finished.context.space.options
    draws = bootstrap_draws(images.groups, images.grouped, options.ensemble.resamples, options.seed)
    found = compare(counts, draws)
    with tempfile.TemporaryDirectory(dir=run.root, prefix=".distil-") as temporary:
        alone = Path(temporary) / BUNDLE
        write_bundle(finished, record, student.folder, Judged(NAME, found, 0.0, "not timed yet"), alone)
        mine = Predictor(read_bundle(alone), device=device)
        latency = _latency(finished, {**predictors, NAME: mine})
    sentence = sentence_of(found, latency, student.rule.name, len(student.rule.fitted.used))
    said = _caveats(finished, student, ledger)
    judged = Judged(NAME, found, latency.distilled_ms, sentence, said)
    write_bundle(finished, record, student.folder, judged, student.folder / BUNDLE)
    return DistilledResult(
        format=FORMAT,
        options=student.options,
        teacher=student.teacher,
        student=_facts(student),
        comparison=found,
        latency=latency,
        sentence=sentence,
        caveats=said,
        holdout_opened=ledger,
    )


def _facts(student: Student) -> StudentFacts:
    record = student.record
    return StudentFacts(
        trial=student.trial, recipe_hash=record.recipe.hash, epoch=record.epoch, changes=student.changes
    )


def read_counts(run: RunDir, rules: Mapping[str, str]) -> tuple[tuple[str, ...], dict[str, Counts]]:
    """The hold-out's image ids (N,), and by name the counts (N,K,K) of these rules, as the run's verdict read them.
    Raises ValueError where they are gone."""
    ids, counts = read_confusions(run.confusions, "holdout", tuple(rules.values()))
    return ids, {name: counts[rule] for name, rule in rules.items()}


def count_holdout(finished: FinishedRun, student: Student, ids: Sequence[str], device: str) -> Counts:
    """Counts (N,K,K) of the student, which predicts the hold-out in its plain view."""
    data, folder = finished.context.data, student.folder
    split = Split((), (), tuple(ids), data.split.fingerprint)
    candidate = Candidate(NAME, student.record.recipe, folder, student.record.miou or 0.0)
    folders = {part: folder / "logits" / part for part in candidate.parts}
    write_logits(candidate, data.cache, split, [View()], folders, device=device)
    images = LabelledLogits.of([LogitStore(folders["holdout"])], ids, data.cache, data.index)
    vote = Vote("soft", single(1, data.index.num_classes, 0))
    [counts] = score_images(images, [[VoteBatch(ViewConfig.plain(((PLAIN,),)), (vote,))]], "hold-out")
    return counts[:, 0].astype(np.int64)


def opened(finished: FinishedRun, by: str) -> tuple[HoldoutOpening, ...]:
    """All openings of the hold-out, with this one, which is written down once however often a student is judged."""
    root = finished.context.run.root
    path = root / "holdout_opened.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = tuple(HoldoutOpening.model_validate_json(line) for line in lines)
    if any(one.by == by for one in known):
        return known
    return open_holdout(root, HoldoutOpening(at=finished.context.now().isoformat(timespec="seconds"), by=by))


def reopening(ledger: Sequence[HoldoutOpening]) -> list[str]:
    """What has to be known of a hold-out that was opened before."""
    if len(ledger) == 1:
        return []
    return [
        f"the hold-out was opened before ({len(ledger) - 1} times, first at {ledger[0].at}): what was learnt "
        "from it then may have gone into this student"
    ]


def _latency(finished: FinishedRun, predictors: Mapping[str, Predictor]) -> Latency:
    """Of images that the student learnt from: the hold-out's are not needed for it."""
    data, device = finished.context.data, next(iter(predictors.values())).device
    ids = data.split.train_ids
    some = ids[:: max(1, len(ids) // NUM_IMAGES)][:NUM_IMAGES]
    found = measure_ms(predictors, [np.array(data.cache.image(image_id)) for image_id in some], time.perf_counter)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return Latency(device=name, single_ms=found["single"], ensemble_ms=found["ensemble"], distilled_ms=found[NAME])


def _caveats(finished: FinishedRun, student: Student, ledger: Sequence[HoldoutOpening]) -> tuple[str, ...]:
    said, teacher = reopening(ledger), student.teacher
    if teacher.in_sample:
        said.append(
            f"{teacher.in_sample} labelled images were predicted by members that were trained on them, so that the "
            "teacher is surer of them than of new ones; with folds it says what it says of new images"
        )
    if student.rule.name != finished.ensemble.verdict.rule:
        said.append(f"the teacher is {student.rule.name}, the verdict's rule is {finished.ensemble.verdict.rule}")
    if student.rule.postprocess is not None:
        said.append("the ensemble's labels are post-processed, which the student has not learnt")
    return tuple(said)
