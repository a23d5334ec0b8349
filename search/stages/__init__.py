"""The stages of a run, one module per stage, and the pipeline that runs them in order."""

__all__ = [
    "bundle",
    "candidates",
    "ensemble",
    "folds",
    "logits",
    "pipeline",
    "report",
    "run_data",
    "search",
    "soups",
    "stage",
]
