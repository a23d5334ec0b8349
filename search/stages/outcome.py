"""Tells the trackers what the run came to, after its last stage."""

from __future__ import annotations

from analysis.ensembling.result import EnsembleResult
from analysis.report.samples import choose_samples
from search.engine.study_file import open_study
from search.observers.search_info import Outcome, SearchInfo
from search.observers.trackers import build_trackers
from search.observers.trial_row import study_rows
from search.run_dir import RunDir
from search.stages.stage import Context


def tell_trackers(context: Context) -> None:
    """Tell every tracker the verdict, and before it whatever it has missed of the trials; again each time that a
    finished run is resumed."""
    run = context.run
    trackers = build_trackers(context.trackers, SearchInfo(run, context.data.index.classes))
    if not trackers:
        return
    rows = {row.number: row for row in study_rows(open_study(run.study_db), run.root)}
    outcome = outcome_of(run)
    for tracker in trackers:
        tracker.begin(rows, context.space.options.search.num_trials)
        tracker.finished(outcome)
        tracker.end()


def outcome_of(run: RunDir) -> Outcome:
    """The verdict, a row per rule, where bundle and report lie, and the sample predictions that the report stage wrote
    (none in a run of before it wrote any)."""
    ensemble = EnsembleResult.read(run.ensemble_json)
    rules = [
        {
            "rule": rule.name,
            "mIoU cross-fitted": rule.val_crossfit.miou,
            "mIoU hold-out": rule.holdout.miou,
            "low": rule.holdout.low,
            "high": rule.holdout.high,
            "gain hold-out": rule.gain_holdout.gain,
            "gain low": rule.gain_holdout.low,
            "gain high": rule.gain_holdout.high,
            "cost": rule.cost,
            "reason": rule.reason,
        }
        for rule in ensemble.rules
    ]
    pictures = {run.samples / sample.file_name: sample.caption for sample in choose_samples(ensemble)}
    there = {path: caption for path, caption in pictures.items() if path.is_file()}
    return Outcome(ensemble.verdict.sentence, rules, run.bundle, run.report, there)
