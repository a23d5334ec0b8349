"""The parts of a trial, as frozen pydantic models."""

__all__ = ["augmentation", "config", "operators", "recipe"]  # modules
