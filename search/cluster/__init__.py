"""Work on a Ray cluster besides trials."""

__all__ = ["ray_executor", "ray_tasks"]
