"""The report stage: report.html, its pages per class and sample predictions from the files of a run directory, and the
summary on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.bundle.readme import licence_lines
from analysis.dataset.run_checks import check_split
from analysis.ensembling.distilled_result import DistilledResult
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.ensembling.read_confusions import read_confusions
from analysis.ensembling.result import EnsembleResult
from analysis.ensembling.verdict import describe_form
from analysis.report.class_pages import ClassPages, Read, write_class_pages
from analysis.report.gallery import GalleryItem
from analysis.report.page import ReportFacts, rule_label, worst_images, write_report
from analysis.report.samples import write_samples
from analysis.search_quality.noise_floor import NoiseFloor, read_noise_floor
from search.engine.study_audit import audit_study, read_trained_on, rungs
from search.engine.study_file import open_study
from search.observers.event_log import curves, read_events
from search.observers.trial_row import TrialRow, finite, study_rows
from search.run_dir import RunDir, read_json
from search.space.space import Space
from search.stages import report_facts
from search.stages.importances import importances, top_importances
from search.stages.search_figures import search_figures
from search.stages.stage import Context
from search.stages.timeline import Timeline
from trainables.data.cache import Cache
from trainables.data.index import SegIndex, Split

DRAWN = ("event", "trial", "epoch", "val/miou", "val/loss", "train/loss", "diverged")  # of an event
KEPT_PREDICTIONS = 100  # label maps in memory: an image is shown by several classes


def run(context: Context) -> None:
    """Write report.html, classes/ and samples/."""
    data, ended = context.data, context.now().isoformat(timespec="seconds")
    write(context.run, context.space, data.cache, data.split, ended=ended)


def write(run: RunDir, space: Space, cache: Cache, split: Split, *, ended: str) -> None:
    """Write report.html, classes/ and samples/ from the files of the earlier stages."""
    ensemble = EnsembleResult.read(run.ensemble_json)
    read = _predicted(run, cache)
    write_pages(run, ensemble, read)
    write_samples(run.samples, ensemble, read)
    facts = _of_search(run, space, cache.index, ensemble)
    facts |= {
        "ended": ended,
        "data": cache.index.name,
        "counts": {
            "images to train on": len(split.train_ids),
            "to tune on": len(split.val_ids),
            "held out": len(split.holdout_ids),
            "classes": cache.index.num_classes,
            "trials": space.options.search.num_trials,
        },
        "gallery": [GalleryItem(name, *read(name), miou) for name, miou in worst_images(ensemble).items()],
        "warnings": cache.index.warnings,
        "checks": check_split(cache, split, seed=space.options.seed),
        "suspects": report_facts.suspects(run),
        "class_pages": run.class_pages.name,
    }
    facts["notes"] = [*split.notes, *facts["notes"]]
    write_report(run.report, ReportFacts(title=f"{facts.pop('name')} on {cache.index.name}", **facts))


def _of_search(run: RunDir, space: Space, index: SegIndex, ensemble: EnsembleResult) -> dict[str, Any]:
    """The report's facts of the search: trials, curves, parameters, families, early stopping."""
    record, study = read_json(run.run_json), open_study(run.study_db)
    rows, search = study_rows(study, run.root), space.options.search
    shares, why_not = importances(study)
    floor = read_noise_floor(run.noise_json)
    drawn, timeline = drawn_curves(run)
    lines, together = licence_lines(read_bundle(run.bundle).manifest.licences)
    return {
        "name": record["space"],
        "started": record["started"],
        "space": record["space"] + (f" ({record['profile']} profile)" if record["profile"] else ""),
        "ensemble": ensemble,
        "trials": trial_lines(rows, floor),
        "curves": drawn,
        "work": timeline.spans(rows, record),
        "rungs": rungs(search),
        "importances": shares,
        "top_importances": top_importances(study),
        "notes": why_not,
        "noise": floor.describe(scores_of(rows)) if floor else "",
        "overtuning": report_facts.overtuning(run, index, ensemble, floor, rows, space.options),
        "exports": record.get("exports", []),
        "licences": (*lines, together),
        "pseudo": PseudoResult.read(run.pseudo_json) if run.pseudo_json.is_file() else None,
        "distilled": DistilledResult.read(run.distilled_json) if run.distilled_json.is_file() else None,
        "paths": {"bundle": str(run.bundle), "trials": str(run.trials_csv), "study": str(run.study_db)},
        "origin": report_facts.origin_of(run, record, ensemble, rows),
        "families": report_facts.families(rows, ensemble, floor),
        "submissions": report_facts.submissions(run),
        "audit": audit_study(study, search, read_trained_on(run).mious),
        "search_figures": search_figures(study, shares),
    }


def write_pages(run: RunDir, ensemble: EnsembleResult, read: Read) -> None:
    """Write classes/: the hold-out's images by class, with what ships."""
    shipped = ensemble.shipped.name
    ids, counts = read_confusions(run.confusions, "holdout", (shipped,))
    labels = {rule.name: rule_label(rule.name, ensemble) for rule in ensemble.rules}
    pages = ClassPages(run.root.name, ensemble, labels, ids, counts[shipped])
    write_class_pages(run.class_pages, pages, read)


def drawn_curves(run: RunDir) -> tuple[dict[str, list[Mapping[str, Any]]], Timeline]:
    """trial -> a row per epoch of what the report draws, and when everything ran; the log of a long search has a
    hundred times as much, and is read once."""
    timeline = Timeline()

    def kept() -> Iterator[Mapping[str, Any]]:
        for event in read_events(run.events):
            timeline.take(event)
            yield {key: event[key] for key in DRAWN if key in event}

    return curves(kept()), timeline


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Best first; trials without a score last."""
    return sorted(rows, key=lambda row: (row.best_miou is None, -(row.best_miou or 0.0), row.number))


def scores_of(rows: Sequence[TrialRow]) -> dict[str, float]:
    return {row.trial: row.best_miou for row in rows if row.best_miou is not None}


def trial_lines(rows: Sequence[TrialRow], floor: NoiseFloor | None) -> list[dict[str, Any]]:
    """The rows of the report's trial table, best first; with a noise floor, ties with the best one are marked."""
    ties = set(floor.ties(scores_of(rows))) if floor else set()
    return [trial_line(row) | ({"tie with the best": "yes"} if row.trial in ties else {}) for row in ranked(rows)]


def trial_line(row: TrialRow) -> dict[str, Any]:
    """A row of the report's trial table."""
    line = {
        "trial": row.trial,
        "state": row.state,
        "backbone": row.backbone,
        "head": row.head,
        "epochs": row.epochs,
        "best mIoU": row.best_miou,
        "best epoch": row.best_epoch,
        f"{row.device} seconds": round(row.device_s, 1),
        "recipe": row.recipe_hash,
        "error": row.error,
    }
    return {**line, **finite(row.params)}


def _predicted(run: RunDir, cache: Cache) -> Read:
    """Photograph, truth and prediction of an image; the bundle itself predicts, each of the last images once."""
    predictor = Predictor(read_bundle(run.bundle), batch_size=1)

    @lru_cache(maxsize=KEPT_PREDICTIONS)
    def predict(image_id: str) -> NDArray[np.uint8]:
        return predictor.predict(cache.image(image_id))

    return lambda image_id: (cache.image(image_id), cache.label(image_id), predict(image_id))


def summary(run: RunDir, say: Callable[[str], None], *, limit: int = 10) -> None:
    """Print the ranked trials, the verdict and the paths of report and bundle."""
    rows = ranked(study_rows(open_study(run.study_db), run.root))
    say("")
    say(f"{'trial':>6}  {'best mIoU':>9}  {'epochs':>6}  {'state':9}  model")
    for row in rows[:limit]:
        miou = "-" if row.best_miou is None else f"{row.best_miou:.4f}"
        say(f"{row.trial:>6}  {miou:>9}  {row.epochs:>6}  {row.state:9}  {row.backbone} + {row.head}")
    if len(rows) > limit:
        say(f"... and {len(rows) - limit} more in {run.trials_csv}")
    ensemble = EnsembleResult.read(run.ensemble_json)
    say("")
    say(ensemble.verdict.sentence)
    for form in ensemble.other_forms:
        say(describe_form(form, ensemble.shipped.cost))
    for caveat in ensemble.caveats:
        say(f"note: {caveat}")
    if run.pseudo_json.is_file():
        say(PseudoResult.read(run.pseudo_json).sentence)
    say(f"report: {run.report}")
    say(f"bundle: {run.bundle}")
