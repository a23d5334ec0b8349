"""Pseudo labels: which of an ensemble's predictions are sure enough to train on, and where they come from."""

__all__ = ["leaks", "lineage", "selection", "thresholds", "verdict"]  # modules
