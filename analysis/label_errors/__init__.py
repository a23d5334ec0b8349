"""Finding and correcting wrong labels."""
