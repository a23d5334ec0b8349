"""From stored logits to votes and their confusion counts."""

__all__ = [
    "executor",
    "labelled_logits",
    "probabilities",
    "score_images",
    "stacker",
    "view_config",
    "votes",
    "votes_torch",
]
