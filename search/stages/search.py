"""The search stage: trials by TPE and ASHA."""

from __future__ import annotations

import sys

from search.cluster.nodes import gpu_memory_gb, live_nodes
from search.engine.admission import AdmissionCheck, some_sizes
from search.engine.budget import ENDED_EARLY
from search.engine.gauges import TrialGauges
from search.engine.study_file import begin_study, open_study
from search.engine.tuner import run_search
from search.observers.event_log import EventLog
from search.observers.progress import TimeLeft, build_progress
from search.observers.search_forecast import Lengths, SearchForecast
from search.observers.search_info import SearchInfo
from search.observers.trackers import Guarded, build_trackers
from search.observers.trials_csv import CsvTable
from search.stages.stage import Context
from search.stages.stage_forecast import Sizes, StageForecast
from trainables.ray_trainable import make_trainable


def run(context: Context) -> None:
    """Run the trials; writes trials.csv, the study and events.jsonl."""
    folder, space, data, options = context.run, context.space, context.data, context.space.options

    def clock() -> float:
        return context.now().timestamp()

    later = StageForecast(options, Sizes.of(data), live_nodes())
    forecast = SearchForecast(Lengths(options.search.expected_epochs, options.search.max_epochs))
    left = TimeLeft(forecast, lambda rows: sum(later.seconds(rows.values()).values()) or None)
    observers = [
        CsvTable(path=folder.trials_csv, classes=data.index.classes, clock=clock),
        EventLog(folder.events, clock=clock),
        *build_trackers(context.trackers, SearchInfo(folder, data.index.classes)),
        Guarded("the metrics", TrialGauges(context.say)),
        Guarded("the forecast of later stages", later),
        Guarded("the progress display", build_progress(left, sys.stdout, clock=clock)),
    ]
    policy = admission_check(context)
    no_soups = options.ensemble.soups == "off" or options.folds.num > 0  # fold models are candidates alone
    snapshots = 0 if no_soups else options.ensemble.soup_epochs
    if snapshots:
        context.say(f"for soups, a trial keeps its last {snapshots} epochs: {4 * snapshots} MB per million parameters")
    begin_study(folder, options.search.study, context.say)
    trainable = make_trainable(data.index, data.split, data.cache_root, snapshots)
    run_search(space, policy, trainable, context.files, observers=observers, resume=folder.study_db.exists())
    early = open_study(folder.study_db).user_attrs.get(ENDED_EARLY)
    if early:
        context.say(f"search: no further trial was added, since {early}")


def admission_check(context: Context) -> AdmissionCheck:
    """The admission check of recipes, by the data's image sizes and the memory of the cluster's GPUs."""
    data, options = context.data, context.space.options
    sizes = [(record.height, record.width) for record in data.index.images]
    device_gb = gpu_memory_gb(live_nodes()) if options.resources.gpu else None
    device_gb = options.resources.memory_gb or device_gb
    return AdmissionCheck(options, data.index.num_classes, len(data.split.train_ids), some_sizes(sizes), device_gb)
