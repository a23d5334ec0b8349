"""Runs side by side: their files read into rows, rows chosen and written."""
