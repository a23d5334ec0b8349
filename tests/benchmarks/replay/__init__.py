"""A search without training: learning curves drive the project's own searcher, scheduler and observers, trial by trial
as Ray Tune would, in simulated time and in this process alone."""
