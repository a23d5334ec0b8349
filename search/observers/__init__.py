"""Observers of a running search: trials.csv, the event log, experiment trackers, the progress display."""

__all__ = [
    "event_log",
    "progress",
    "trackers",
    "trial_row",
    "trials_csv",
    "wandb_tracker",
]
