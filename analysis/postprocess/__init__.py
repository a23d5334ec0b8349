"""Post-processing of label maps."""

__all__ = ["components", "label_map", "options"]
