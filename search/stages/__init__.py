"""The stages of a run, one module per stage; `search.pipeline` runs them in order."""

__all__ = [
    "bundle",
    "candidates",
    "ensemble",
    "folds",
    "logits",
    "report",
    "run_data",
    "search",
    "soups",
    "stage",
]
