"""Splits: stratified, grouped, near-duplicates together."""
