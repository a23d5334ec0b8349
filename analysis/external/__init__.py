"""Predictions of other tools as members of an ensemble."""

__all__ = ["members", "predictions"]
