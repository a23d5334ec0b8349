"""Gauges of the trials on the metrics port of this Ray node, where Prometheus reads them beside Ray's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.metrics import Gauge
from typing_extensions import override

from search.observers.trial_row import Observer, TrialRow

GAUGES = {  # what a trial reports -> name (Ray exports it as ray_<name>), description
    "epoch": ("segsearch_epoch", "Epochs that the trial has ended"),
    "val/miou": ("segsearch_val_miou", "mIoU on the validation images after the last epoch"),
    "train/loss": ("segsearch_train_loss", "Mean training loss of the last epoch"),
    "val/loss": ("segsearch_val_loss", "Mean validation loss of the last epoch"),
    "images_per_s": ("segsearch_images_per_second", "Training images per second in the last epoch"),
    "peak_gb": ("segsearch_peak_memory_gib", "Device memory that the trial held at most, GiB"),
}
TAGS = ("trial", "family")


class TrialGauges(Observer):
    """Sets one gauge per reported value, by trial and family; says where they can be read."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.gauges = {key: Gauge(name, text, tag_keys=TAGS) for key, (name, text) in GAUGES.items()}

    @override
    def begin(self, rows: Mapping[int, TrialRow], num_trials: int) -> None:
        self.say(f"metrics: {metrics_address()} (Prometheus, see docs/cluster.md)")

    @override
    def epoch(self, row: TrialRow, metrics: Mapping[str, Any]) -> None:
        for key, gauge in self.gauges.items():
            value = metrics.get(key)
            if value is not None and math.isfinite(value):
                gauge.set(float(value), {"trial": row.trial, "family": row.family})


def metrics_address() -> str:
    """The URL at which this process's Ray node exports its metrics."""
    own = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == own]  # type: ignore[no-untyped-call]
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
