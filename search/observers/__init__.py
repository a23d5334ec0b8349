"""What is told about a running search: trials.csv, event log, trackers, progress."""
