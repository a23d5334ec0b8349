"""Work on a Ray cluster besides trials."""
