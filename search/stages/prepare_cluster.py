"""What the cluster must have before a stage begins: room for its tasks, GPUs that work, the decoded data on every node.

A resumed run may find another cluster than the one it was started on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray

from search.cluster.nodes import check_fits, gpu_memory_gb, live_nodes, on_each
from search.space.options import Resources
from search.stages.stage import Context, Stage
from trainables.data.cache import Cache
from trainables.data.index import SegIndex

TRAINING = (Stage.search, Stage.noise, Stage.folds, Stage.pseudo)
WITH_TASKS = (*TRAINING, Stage.soups, Stage.logits, Stage.ensemble)


def check_cluster(context: Context, stages: Sequence[Stage]) -> None:
    """Raises ValueError where no node has room for what a task of these stages holds, and where a GPU node's GPU
    cannot be used."""
    shares = [share_of(context.space.options.resources, stage) for stage in stages if stage in WITH_TASKS]
    nodes = live_nodes() if shares else ()
    for share in shares:
        check_fits(share, nodes)
    if any(share["gpu"] for share in shares):
        gpu_memory_gb(nodes)


def share_of(resources: Resources, stage: Stage) -> dict[str, float]:
    """What one task of a stage holds: a trial of the search its `resources`, an image that is predicted one device."""
    gpu = resources.gpu if stage in TRAINING else min(1.0, resources.gpu)
    return {"cpu": 1.0 if stage is Stage.ensemble else resources.cpu, "gpu": gpu}


def spread_cache(context: Context, stage: Stage) -> None:
    """For a stage with tasks: decodes the data set on every node that has not done so, since tasks read it where they
    run."""
    nodes = [node for node in live_nodes() if node.cpus] if stage in WITH_TASKS else []
    if len(nodes) > 1:
        on_each(nodes, build_cache, ray.put(context.data.index), context.data.cache_root.absolute())


def build_cache(index: SegIndex, root: Path) -> None:
    """A Ray task: this node's cache, unless it is there."""
    Cache.open(index, root)
