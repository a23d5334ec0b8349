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
from analysis.ensembling.pseudo_options import PseudoOptions
from analysis.pseudo_labels.leaks import check_teacher
from analysis.pseudo_labels.lineage import FILE, PseudoLabels, Teacher, as_labels, describe_thresholds
from analysis.pseudo_labels.selection import choose, write_predictions
from analysis.pseudo_labels.thresholds import NUM_BINS, Counts, Float, count_precision, fit_thresholds, predict
from search.stages.bundle import facts_of, weights_of
from search.stages.folds import judged_split
from search.students.finished_run import FinishedRun
from trainables.device import placed
from trainables.fit_student import StudentRecord
from trainables.logits.lineage import trained_on
from trainables.logits.predict_views import Inference
from trainables.logits.store import LogitStore
from trainables.models.load import load_model
from trainables.models.weights_file import BEST_WEIGHTS, fingerprint

Said = Iterator[tuple[str, Float]]  # image_id, probabilities (K,H,W)


class PseudoTeacher(Protocol):
    """Labels images, and can be measured on labelled ones that it was not trained on."""

    @property
    def facts(self) -> Teacher: ...

    @property
    def measured_on(self) -> Sequence[str]:
        """Labelled images outside the hold-out."""
        ...

    def on_labelled(self) -> Said:
        """What it says of `measured_on`."""
        ...

    def on_unlabelled(self) -> Said:
        """What it says of the card's unlabelled images."""
        ...


@dataclass(frozen=True)
class EnsembleTeacher:
    """A rule of the run, measured by its members' stored logits: out of fold, or of val. With a `fold`, its members are
    the models of that fold alone. Raises ValueError for a name that is no rule's."""

    finished: FinishedRun
    rule: str | None  # None: the verdict's
    device: str
    fold: int | None = None
    unseen: tuple[str, ...] = ()  # the fold's images: these labels tell it nothing

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.finished.ensemble.rules]
        if self.name not in names:
            raise ValueError(
                f"the teacher must be one of the run's rules, got {self.rule!r}; choose one of: {', '.join(names)}"
            )

    @property
    def name(self) -> str:
        return self.rule or self.finished.ensemble.verdict.rule

    @property
    def _weights(self) -> dict[str, tuple[Path, ...]]:
        run, ensemble = self.finished.context.run, self.finished.ensemble
        if self.fold is None:
            return weights_of(run, ensemble)
        return {trial: (paths[self.fold],) for trial, paths in weights_of(run, ensemble, "mean").items()}

    @property
    def facts(self) -> Teacher:
        ensemble, data, weights = self.finished.ensemble, self.finished.context.data, self._weights
        fitted = ensemble.rule(self.name).fitted
        paths = [path for m in fitted.used for path in weights[ensemble.members[m].trial]]
        seen = set(data.split.train_ids)
        if ensemble.fitted_on.folds:
            seen = {image_id for path in paths for image_id in trained_on(path)}
        marks = [fingerprint(path) for path in paths]
        mark = teacher_fingerprint(fitted.of_used(), marks, data.index.fingerprint, [self.finished.unlabelled])
        name = self.name if self.fold is None else f"{self.name} without fold {self.fold}"
        return Teacher(name=name, fingerprint=mark, train_ids=tuple(sorted(seen)))

    @property
    def measured_on(self) -> Sequence[str]:
        unseen = set(self.unseen)
        return [image_id for image_id in judged_split(self.finished.context).val_ids if image_id not in unseen]

    def on_labelled(self) -> Said:
        run, ensemble = self.finished.context.run, self.finished.ensemble
        fitted = ensemble.rule(self.name).fitted
        stores = [LogitStore(run.logits(ensemble.members[m].trial, "val")) for m in fitted.used]
        return out_of_fold(StoredRule.of(fitted.of_used(), stores, run.root), self.measured_on)

    def on_unlabelled(self) -> Said:
        run, ensemble = self.finished.context.run, self.finished.ensemble
        with tempfile.TemporaryDirectory(dir=run.root, prefix=".pseudo-") as temporary:
            bundle, rule = Path(temporary) / "bundle", ensemble.rule(self.name)
            export(facts_of(run), ensemble, self._weights, bundle, rule, ensemble_dir=run.root)
            predictor = Predictor(read_bundle(bundle), device=self.device)
            yield from predicted(predictor, self.finished.context.data.cache, self.finished.unlabelled)


@dataclass(frozen=True)
class Trained:
    """A student's record, and the folder of its weights."""

    record: StudentRecord
    folder: Path


@dataclass(frozen=True)
class NetworkTeacher:
    """A student of an earlier round, measured by students on labelled images that these were not trained on."""

    finished: FinishedRun
    name: str
    student: Trained
    measured_by: tuple[tuple[Trained, tuple[str, ...]], ...]
    device: str

    @property
    def facts(self) -> Teacher:
        record = self.student.record
        mark = f"{record.teacher}-{fingerprint(self.student.folder / BEST_WEIGHTS)}"
        return Teacher(name=self.name, fingerprint=mark, train_ids=record.train_ids)

    @property
    def measured_on(self) -> Sequence[str]:
        return [image_id for _, ids in self.measured_by for image_id in ids]

    def on_labelled(self) -> Said:
        for student, ids in self.measured_by:
            yield from self._says(student, ids)

    def on_unlabelled(self) -> Said:
        return self._says(self.student, self.finished.unlabelled)

    def _says(self, student: Trained, ids: Sequence[str]) -> Said:
        data, recipe = self.finished.context.data, student.record.recipe
        model = placed(load_model(recipe, data.index.num_classes, student.folder / BEST_WEIGHTS), self.device)
        inference = Inference.of(recipe, model, self.device, recipe.train.batch_size, data.index.flip_pairs)
        return network_says(inference, data.cache, ids)


@dataclass(frozen=True)
class Labelled:
    """Pseudo labels, and the folder of their files."""

    labels: PseudoLabels
    folder: Path


def label_images(finished: FinishedRun, teacher: PseudoTeacher, options: PseudoOptions, folder: Path) -> Labelled:
    """Write what the teacher is sure of on the unlabelled images into `folder`, unless it is there. Raises ValueError
    where the teacher saw the hold-out."""
    context, facts = finished.context, teacher.facts
    check_teacher(facts.train_ids, context.data.split.holdout_ids, facts.name)
    if (folder / FILE).is_file():
        found = PseudoLabels.read(folder)
        if found.teacher == facts:
            return Labelled(found, folder)
    shutil.rmtree(folder, ignore_errors=True)
    classes = context.data.index.classes
    targets = options.targets(classes)
    counts: Counts = np.zeros((len(classes), NUM_BINS, 2), np.int64)
    context.say(f"precision of {facts.name}: measured on {len(teacher.measured_on)} labelled images")
    for image_id, shares in teacher.on_labelled():
        counts += count_precision(*predict(shares), context.data.cache.label(image_id), len(classes))
    thresholds = fit_thresholds(counts, targets)
    with tempfile.TemporaryDirectory(dir=context.run.root, prefix=".pseudo-") as temporary:
        predictions = write_predictions(Path(temporary), teacher.on_unlabelled())
        least = [one.least_bin for one in thresholds]
        raised, chosen = choose(predictions, least, folder, cap=options.cap, min_certain=options.min_certain)
    labels = PseudoLabels(
        teacher=facts,
        measured_on=tuple(teacher.measured_on),
        thresholds=describe_thresholds(classes, targets, thresholds, raised),
        labels=as_labels(chosen),
        dropped=len(predictions) - len(chosen),
    )
    labels.check(context.data.split.holdout_ids)
    labels.write(folder)
    return Labelled(labels, folder)
