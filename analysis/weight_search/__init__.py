"""The exact search for ensemble weights."""
