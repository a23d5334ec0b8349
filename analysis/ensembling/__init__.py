"""Rules, cross-fitting, verdict."""

__all__ = [
    "bootstrap",
    "build_result",
    "costs",
    "crossfit",
    "crossfit_rules",
    "external_members",
    "external_predictions",
    "fit",
    "fit_postprocess",
    "fitted_rule",
    "options",
    "path_scores",
    "pixel_sampling",
    "result",
    "rules",
    "select_on_val",
    "temperature",
    "verdict",
    "view_search",
    "view_selection",
]
