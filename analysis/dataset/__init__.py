"""What a data set and a split contain."""

__all__ = [
    "adversarial_validation",
    "distribution_shift",
    "eda_page",
    "image_features",
    "split_page",
    "split_quality",
    "statistics",
    "summary",
]
