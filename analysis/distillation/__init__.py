"""One model that learnt from an ensemble: what the ensemble says of images, and how the model compares with it."""

__all__ = ["latency", "teacher", "verdict"]  # modules
