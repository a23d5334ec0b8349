"""The report stage: report.html from the files of a run directory, and the summary on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optuna

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.ensembling.distilled_result import DistilledResult
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.ensembling.result import EnsembleResult
from analysis.ensembling.verdict import describe_form
from analysis.report.gallery import GalleryItem
from analysis.report.page import ReportFacts, worst_images, write_report
from analysis.search_quality.noise_floor import NoiseFloor, read_noise_floor
from search.engine.asha import milestones
from search.engine.study_file import open_study
from search.observers.event_log import curves, read_events
from search.observers.trial_row import TrialRow, finite, study_rows
from search.run_dir import RunDir, read_json
from search.space.space import Space
from search.stages.stage import Context
from trainables.data.cache import Cache
from trainables.data.index import Split

MIN_FOR_IMPORTANCE = 4  # with fewer finished trials, importances are noise


def run(context: Context) -> None:
    """Write report.html."""
    data, ended = context.data, context.now().isoformat(timespec="seconds")
    write(context.run, context.space, data.cache, data.split, ended=ended)


def write(run: RunDir, space: Space, cache: Cache, split: Split, *, ended: str) -> None:
    """Write report.html from the files of the earlier stages."""
    record, ensemble, index = read_json(run.run_json), EnsembleResult.read(run.ensemble_json), cache.index
    study = open_study(run.study_db)
    rows = study_rows(study, run.root)
    search = space.options.search
    shares, why_not = importances(study)
    floor = read_noise_floor(run.noise_json)
    facts = ReportFacts(
        title=f"{record['space']} on {index.name}",
        started=record["started"],
        ended=ended,
        space=space.name + (f" ({space.profile} profile)" if space.profile else ""),
        data=index.name,
        counts={
            "images to train on": len(split.train_ids),
            "to tune on": len(split.val_ids),
            "held out": len(split.holdout_ids),
            "classes": index.num_classes,
            "trials": search.num_trials,
        },
        ensemble=ensemble,
        trials=trial_lines(rows, floor),
        curves=curves(read_events(run.events)),
        rungs=[int(epoch) for epoch in milestones(search.max_epochs, search.grace_epochs, search.reduction_factor)],
        importances=shares,
        gallery=gallery(run, cache, ensemble),
        warnings=index.warnings,
        notes=[*split.notes, *why_not, *([floor.describe(scores_of(rows))] if floor else [])],
        exports=record.get("exports", []),
        pseudo=PseudoResult.read(run.pseudo_json) if run.pseudo_json.is_file() else None,
        distilled=DistilledResult.read(run.distilled_json) if run.distilled_json.is_file() else None,
        paths={"bundle": str(run.bundle), "trials": str(run.trials_csv), "study": str(run.study_db)},
    )
    write_report(run.report, facts)


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


def importances(study: optuna.Study) -> tuple[dict[str, float], list[str]]:
    """Each parameter's importance for the trials' scores (fANOVA), and notes on why it could not be computed."""
    finished = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(finished) < MIN_FOR_IMPORTANCE:
        return {}, [f"parameter importances need {MIN_FOR_IMPORTANCE} trials that ran to the end, got {len(finished)}"]
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator)), []
    except (ValueError, RuntimeError) as error:  # all scores equal, or no parameter in common
        return {}, [f"parameter importances could not be computed: {error}"]


def gallery(run: RunDir, cache: Cache, ensemble: EnsembleResult) -> list[GalleryItem]:
    """The worst hold-out images with labels and predictions; the bundle itself makes the predictions."""
    predictor = Predictor(read_bundle(run.bundle), batch_size=1)
    return [
        GalleryItem(
            image_id=image_id,
            image=cache.image(image_id),
            truth=cache.label(image_id),
            prediction=predictor.predict(cache.image(image_id)),
            miou=miou,
        )
        for image_id, miou in worst_images(ensemble).items()
    ]


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
