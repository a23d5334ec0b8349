"""Ray Tune and Optuna: scheduling, sampling, early stopping."""
