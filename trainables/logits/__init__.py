"""From trained weights to stored logits."""

__all__ = [
    "latency",
    "lineage",
    "predict_views",
    "quantise",
    "shard_format",
    "sources",
    "store",
    "view",
    "write_logits",
]  # modules
