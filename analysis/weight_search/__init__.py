"""The exact search for ensemble weights."""

__all__ = [
    "coordinate_search",
    "fit_stacker",
    "greedy_selection",
    "line_search",
    "pixels",
    "sample_confusion",
    "soft_miou",
    "strata",
    "threshold_kernels",
    "top_scores",
]
