"""From trained weights to stored logits."""

__all__ = [
    "latency",
    "lineage",
    "predict_views",
    "quantise",
    "shard_format",
    "sources",
    "store",
    "tiles",
    "view",
    "view_name",
    "write_logits",
]  # modules
