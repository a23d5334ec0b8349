"""Ray Tune and Optuna: scheduling, sampling, early stopping."""

__all__ = [
    "admission",
    "asha",
    "ray_callback",
    "searcher",
    "study_file",
    "tuner",
]
