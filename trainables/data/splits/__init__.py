"""Splits: stratified, grouped, near-duplicates together."""

__all__ = ["folds", "make_split", "near_duplicates", "split_file", "stratify"]  # modules
