"""What ships: export, and prediction from it."""
