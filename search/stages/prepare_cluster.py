"""What the cluster must have before a stage begins: room for its tasks, GPUs that work, the decoded data on every node.

A resumed run may find another cluster than the one it was started on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray

from search.cluster.connection import connected_until_stopped
from search.cluster.nodes import Node, check_fits, gpu_memory_gb, live_nodes, num_holders, on_each
from search.cluster.run_files import files_of
from search.space.options import Resources
from search.stages.stage import Context, Stage
from trainables.data.cache import Cache
from trainables.data.index import SegIndex

TRAINING = (Stage.search, Stage.noise, Stage.folds, Stage.pseudo)
WITH_TASKS = (*TRAINING, Stage.soups, Stage.logits, Stage.ensemble)


@contextmanager
def in_cluster(context: Context, stage: Stage, address: str | None) -> Iterator[Context]:
    """The context of a run that has ended, for more work of the kind of this stage, in the cluster at `address` or one
    that is started on this machine. Raises ValueError where none answers or `check_cluster` refuses it."""
    run, root, say = context.run, context.data.cache_root, context.say
    with connected_until_stopped(address, say), files_of(run, address, root, at_uri=False, say=say) as files:
        inside = replace(context, run_files=files)
        check_cluster(inside, [stage])
        spread_cache(inside, stage)
        yield inside


def check_cluster(context: Context, stages: Sequence[Stage]) -> None:
    """Raises ValueError where no node has room for what a task of these stages holds, and where a GPU node's GPU
    cannot be used."""
    holding = [stage for stage in stages if stage in WITH_TASKS]
    if not holding:
        return
    options, nodes = context.space.options, live_nodes()
    shares = {stage: share_of(options.resources, stage) for stage in holding}
    for stage, share in shares.items():
        check_fits(share, nodes)
        if stage is Stage.ensemble or (stage is Stage.pseudo and options.pseudo):
            _check_beside_files(context, stage, share, nodes)
    if any(share["gpu"] for share in shares.values()):
        gpu_memory_gb(nodes)


def _check_beside_files(context: Context, stage: Stage, share: dict[str, float], nodes: Sequence[Node]) -> None:
    """Raises ValueError where no machine that sees the run's directory has room for a task of these stages, which read
    all over it."""
    if stage is Stage.ensemble:
        share = share | {"gpu": 0.0}  # without a GPU it works on CPUs
    seen = context.files.where_seen(nodes)
    if not num_holders(share, seen):
        has = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in seen) or "neither"
        raise ValueError(
            f"the {stage} stage runs on the machine that has the run's directory, which needs {share['cpu']:g} CPUs "
            f"and {share['gpu']:g} GPUs for one of its tasks, got {has}; start Ray there with them, or give a "
            "--run-dir on a disk that all nodes see"
        )


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
