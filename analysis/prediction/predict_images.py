"""Predicts all images of a job: what is refused first, then the batches, then the file that holds all, if any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from analysis.bundle.manifest import read_bundle
from analysis.prediction.batches import plan_batches
from analysis.prediction.competition_csv import check_names, expected_names
from analysis.prediction.inputs import NO_IMAGE, NamedImage, open_inputs
from analysis.prediction.job import ONE_FILE, Format, Job
from analysis.prediction.outcome import Outcome
from analysis.prediction.progress import progress_line
from analysis.prediction.restart import OpenedFolder, Settings, bundle_sha256, opened_folder
from analysis.prediction.run_batches import LOCAL, BatchRunner, Task
from analysis.prediction.writers import CSV_NAME, WRITERS, Labelling, Writer, writable


def predict_images(job: Job, runner: BatchRunner = LOCAL, clock: Callable[[], float] = perf_counter) -> Outcome:
    """Predict all images of the job; those that an earlier run of the same settings has finished are left as they are.

    Raises ValueError (BundleError, DataProblems) before the first prediction where the bundle, an input, an option or
    the device is wrong, and later where `out` is full or a batch does not fit the memory.
    """
    bundle = read_bundle(job.bundle)
    manifest = bundle.manifest
    with open_inputs(job.inputs, job.out, coco_images=job.coco_images) as found:
        outcome = Outcome([image.name for image in found.images])
        if found.others:
            outcome.warnings[NO_IMAGE] = found.others
        if job.output_format not in ONE_FILE:
            refuse_shared_targets(outcome.names)
        expected = _expected(job, outcome.names)
        if manifest.user_choice is not None:
            outcome.note = manifest.user_choice.sentence
        palette = np.array(manifest.palette, dtype=np.uint8)
        labelling = Labelling(manifest.classes, palette, manifest.background, job.layout, expected)
        execution = replace(job.execution, device=runner.device(job.execution.device))
        task = Task(bundle, job.out, job.output_format, labelling, execution)
        writer, settings = WRITERS[job.output_format](job.out, labelling), _settings(task)
        targets = (writer.target(name) for name in outcome.names)
        with opened_folder(job.out, settings, targets, overwrite=job.overwrite) as folder:
            began_s = clock()
            done = _predict(runner, task, found.images, writer, folder, outcome)
            if outcome.unreadable and job.output_format == Format.csv:  # it would lack rows
                outcome.withheld = f", so that no {CSV_NAME} was written"
            else:
                with writable(job.out):
                    outcome.written = writer.join([name for name in outcome.names if name in done])
            outcome.wall_s = clock() - began_s
    return outcome


def _predict(
    runner: BatchRunner,
    task: Task,
    images: Sequence[NamedImage],
    writer: Writer,
    folder: OpenedFolder,
    outcome: Outcome,
) -> set[str]:
    """Predict what is not finished; returns the names of all that is."""
    done = {image.name for image in images if folder.is_finished(image, writer)}
    outcome.finished_before = len(done)
    if len(done) == len(images):
        return done
    batches, outcome.unreadable = plan_batches(images, task.execution.batch_size)
    left = [batch for batch in batches if not done.issuperset(batch.names)]
    with progress_line(len(images), len(done)) as advance:
        for result in runner.run(task, left):
            outcome.unreadable += result.unreadable
            for rule, names in result.warnings.items():
                outcome.warnings.setdefault(rule, []).extend(names)
            advance(len(set(result.predicted) - done))
            done.update(result.predicted)
    outcome.predicted = len(done) - outcome.finished_before
    return done


def _settings(task: Task) -> Settings:
    from analysis.bundle.predictor import check_half

    how = task.execution
    check_half(how.device, half=how.half)
    return Settings(
        bundle_sha256=bundle_sha256(task.bundle),
        output_format=task.output_format,
        device=how.device.partition(":")[0],
        half=how.half,
        compiled=how.compiled,
        tile=how.tile,
        layout=task.labelling.layout if task.output_format == Format.csv else None,
    )


def _expected(job: Job, names: Sequence[str]) -> list[str] | None:
    """The rows that a CSV must have, where something names them. What lacks is told before anything is predicted."""
    if job.expected is None or job.output_format != Format.csv:
        return None
    expected = expected_names(job.expected, job.layout)
    check_names(names, expected)
    return expected


def refuse_shared_targets(names: Sequence[str]) -> None:
    """Raises ValueError where two images would be written to one name: x.jpg and x.png."""
    first: dict[Path, str] = {}
    for name in names:
        other = first.setdefault(Path(name).with_suffix(""), name)
        if other != name:
            raise ValueError(f"two images would be written to one name: {other} and {name}; rename one or use rle")
