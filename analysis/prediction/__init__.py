"""Predictions with a bundle: what is predicted, by which processes, in which formats, and how a stopped one goes on."""

__all__ = [
    "competition_csv",
    "inputs",
    "job",
    "join_predictions",
    "outcome",
    "predict_images",
    "restart",
    "run_batches",
    "writers",
]
