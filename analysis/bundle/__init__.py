"""What ships: export, and prediction from it."""

__all__ = ["export", "json_schemas", "manifest", "predictor", "writers"]
