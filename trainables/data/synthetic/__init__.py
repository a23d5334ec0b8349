"""The built-in synthetic data set."""
