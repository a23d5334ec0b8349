"""The teachers of a run's unlabelled images, the ensemble and then students, and the labels that they are sure of."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from analysis.bundle.export import export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.distillation.teacher import (
    StoredRule,
    network_says,
    out_of_fold,
    predicted,
    teacher_fingerprint,
)
from analysis.pseudo_labels.leaks import check_teacher
from analysis.pseudo_labels.lineage import FILE, PseudoLabels, Teacher, as_labels, describe_thresholds
from analysis.pseudo_labels.selection import choose, write_predictions
from analysis.pseudo_labels.thresholds import NUM_BINS, Counts, Float, count_precision, fit_thresholds, predict
from search.stages.bundle import facts_of, weights_of
from search.stages.folds import judged_split
from search.students.finished_run import FinishedRun
from search.students.pseudo_steps import Setting
from trainables.device import placed
from trainables.fit_student import StudentRecord
from trainables.logits.lineage import trained_on
from trainables.logits.predict_views import Inference
from trainables.logits.store import LogitStore
from trainables.models.load import load_model
from trainables.models.weights_file import BEST_WEIGHTS, fingerprint

Said = Iterator[tuple[str, Float]]  # image_id, probabilities (K,H,W)


class PseudoTeacher(Protocol):
    """Labels images, and can be measured on labelled ones that it was not trained on. It names files alone, so that it
    can be handed to another machine."""

    def facts(self, finished: FinishedRun) -> Teacher: ...

    def measured_on(self, finished: FinishedRun) -> Sequence[str]:
        """Labelled images outside the hold-out."""
        ...

    def on_labelled(self, setting: Setting) -> Said:
        """What it says of `measured_on`."""
        ...

    def on_unlabelled(self, setting: Setting) -> Said:
        """What it says of the card's unlabelled images."""
        ...


@dataclass(frozen=True)
class EnsembleTeacher:
    """A rule of the run, measured by its members' stored logits: out of fold, or of val. With a `fold`, its members are
    the models of that fold alone."""

    rule: str
    fold: int | None = None
    unseen: tuple[str, ...] = ()  # the fold's images: these labels tell it nothing

    @staticmethod
    def of(finished: FinishedRun, rule: str | None) -> EnsembleTeacher:
        """By the rule of this name, or the verdict's. Raises ValueError for a name that is no rule's."""
        names = [one.name for one in finished.ensemble.rules]
        if rule is not None and rule not in names:
            raise ValueError(
                f"the teacher must be one of the run's rules, got {rule!r}; choose one of: {', '.join(names)}"
            )
        return EnsembleTeacher(rule or finished.ensemble.verdict.rule)

    def _weights(self, finished: FinishedRun) -> dict[str, tuple[Path, ...]]:
        run, ensemble = finished.context.run, finished.ensemble
        if self.fold is None:
            return weights_of(run, ensemble)
        return {trial: (paths[self.fold],) for trial, paths in weights_of(run, ensemble, "mean").items()}

    def facts(self, finished: FinishedRun) -> Teacher:
        ensemble, data, weights = finished.ensemble, finished.context.data, self._weights(finished)
        fitted = ensemble.rule(self.rule).fitted
        paths = [path for m in fitted.used for path in weights[ensemble.members[m].trial]]
        seen = set(data.split.train_ids)
        if ensemble.fitted_on.folds:
            seen = {image_id for path in paths for image_id in trained_on(path)}
        marks = [fingerprint(path) for path in paths]
        mark = teacher_fingerprint(fitted.of_used(), marks, data.index.fingerprint, [finished.unlabelled])
        name = self.rule if self.fold is None else f"{self.rule} without fold {self.fold}"
        return Teacher(name=name, fingerprint=mark, train_ids=tuple(sorted(seen)))

    def measured_on(self, finished: FinishedRun) -> Sequence[str]:
        unseen = set(self.unseen)
        return [image_id for image_id in judged_split(finished.context).val_ids if image_id not in unseen]

    def on_labelled(self, setting: Setting) -> Said:
        finished, run = setting.finished, setting.finished.context.run
        fitted = finished.ensemble.rule(self.rule).fitted
        stores = [LogitStore(run.logits(finished.ensemble.members[m].trial, "val")) for m in fitted.used]
        return out_of_fold(StoredRule.of(fitted.of_used(), stores, run.root), self.measured_on(finished))

    def on_unlabelled(self, setting: Setting) -> Said:
        finished, run, ensemble = setting.finished, setting.finished.context.run, setting.finished.ensemble
        with tempfile.TemporaryDirectory(dir=run.root, prefix=".pseudo-") as temporary:
            bundle, rule = Path(temporary) / "bundle", ensemble.rule(self.rule)
            export(facts_of(run), ensemble, self._weights(finished), bundle, rule, ensemble_dir=run.root)
            predictor = Predictor(read_bundle(bundle), device=setting.device)
            yield from predicted(predictor, finished.context.data.cache, finished.unlabelled)


@dataclass(frozen=True)
class Trained:
    """A student's record, and the folder of its weights."""

    record: StudentRecord
    folder: Path


@dataclass(frozen=True)
class NetworkTeacher:
    """A student of an earlier round, measured by students on labelled images that these were not trained on."""

    name: str
    student: Trained
    measured_by: tuple[tuple[Trained, tuple[str, ...]], ...]

    def facts(self, finished: FinishedRun) -> Teacher:  # noqa: ARG002
        record = self.student.record
        mark = f"{record.teacher}-{fingerprint(self.student.folder / BEST_WEIGHTS)}"
        return Teacher(name=self.name, fingerprint=mark, train_ids=record.train_ids)

    def measured_on(self, finished: FinishedRun) -> Sequence[str]:  # noqa: ARG002
        return [image_id for _, ids in self.measured_by for image_id in ids]

    def on_labelled(self, setting: Setting) -> Said:
        for student, ids in self.measured_by:
            yield from _says(setting, student, ids)

    def on_unlabelled(self, setting: Setting) -> Said:
        return _says(setting, self.student, setting.finished.unlabelled)


def _says(setting: Setting, student: Trained, ids: Sequence[str]) -> Said:
    data, recipe = setting.finished.context.data, student.record.recipe
    model = placed(load_model(recipe, data.index.num_classes, student.folder / BEST_WEIGHTS), setting.device)
    inference = Inference.of(recipe, model, setting.device, recipe.train.batch_size, data.index.flip_pairs)
    return network_says(inference, data.cache, ids)


@dataclass(frozen=True)
class Labelled:
    """Pseudo labels, and the folder of their files."""

    labels: PseudoLabels
    folder: Path


def label_images(setting: Setting, teacher: PseudoTeacher, folder: Path) -> Labelled:
    """Write what the teacher is sure of on the unlabelled images into `folder`, unless it is there. Raises ValueError
    where the teacher saw the hold-out."""
    context, options, facts = setting.finished.context, setting.options, teacher.facts(setting.finished)
    check_teacher(facts.train_ids, context.data.split.holdout_ids, facts.name)
    if (folder / FILE).is_file():
        found = PseudoLabels.read(folder)
        if found.teacher == facts:
            return Labelled(found, folder)
    shutil.rmtree(folder, ignore_errors=True)
    classes, measured_on = context.data.index.classes, teacher.measured_on(setting.finished)
    targets = options.targets(classes)
    counts: Counts = np.zeros((len(classes), NUM_BINS, 2), np.int64)
    context.say(f"precision of {facts.name}: measured on {len(measured_on)} labelled images")
    for image_id, shares in teacher.on_labelled(setting):
        counts += count_precision(*predict(shares), context.data.cache.label(image_id), len(classes))
    thresholds = fit_thresholds(counts, targets)
    with tempfile.TemporaryDirectory(dir=context.run.root, prefix=".pseudo-") as temporary:
        predictions = write_predictions(Path(temporary), teacher.on_unlabelled(setting))
        least = [one.least_bin for one in thresholds]
        raised, chosen = choose(predictions, least, folder, cap=options.cap, min_certain=options.min_certain)
    labels = PseudoLabels(
        teacher=facts,
        measured_on=tuple(measured_on),
        thresholds=describe_thresholds(classes, targets, thresholds, raised),
        labels=as_labels(chosen),
        dropped=len(predictions) - len(chosen),
    )
    labels.check(context.data.split.holdout_ids)
    labels.write(folder)
    return Labelled(labels, folder)
