"""Finding and correcting wrong labels."""

__all__ = ["confident_learning", "corrections", "find", "page"]
