"""What each node of the cluster has, and how many shares of it can be held at once.

A trial or task lies on one node, and a share of a GPU on one device: Ray gives 0.6 of a GPU to one holder per device,
not to five holders of three devices, and lets an actor that fits nowhere wait for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.cluster.ray_tasks import portable_errors, result_of

GIB = 2**30
R = TypeVar("R")
ANY_GPU = 0.01  # of a device, for a question to it
UNIT = 10_000  # Ray counts resources in ten-thousandths


@dataclass(frozen=True)
class Node:
    """One live machine of the cluster."""

    cpus: float
    gpus: float = 0.0
    address: str = "127.0.0.1"
    node_id: str = ""

    def holds(self, wanted: Mapping[str, float]) -> int:
        """How many holders of `wanted` ({"cpu": ..., "gpu": ...}) fit this node at once."""
        cpu, gpu = wanted.get("cpu", 0.0), wanted.get("gpu", 0.0)
        fits = [int(round(self.cpus * UNIT) // round(cpu * UNIT))] if cpu else []
        if 0 < gpu < 1:
            fits.append(int(self.gpus) * (UNIT // round(gpu * UNIT)))
        elif gpu:
            fits.append(int(self.gpus // gpu))
        return min(fits)


def live_nodes() -> tuple[Node, ...]:
    """The nodes of the cluster that this process is connected to."""
    found: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return tuple(
        Node(n["Resources"].get("CPU", 0.0), n["Resources"].get("GPU", 0.0), n["NodeManagerAddress"], n["NodeID"])
        for n in found
    )


def num_holders(wanted: Mapping[str, float], nodes: Sequence[Node]) -> int:
    """How many holders of `wanted` the nodes have room for at once."""
    return sum(node.holds(wanted) for node in nodes)


def check_fits(wanted: Mapping[str, float], nodes: Sequence[Node]) -> None:
    """Raises ValueError where no node has room for one holder of `wanted`: Ray would wait for ever."""
    if num_holders(wanted, nodes):
        return
    asked = " and ".join(f"resources.{name} {wanted[name]:g}" for name in ("gpu", "cpu") if wanted.get(name))
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=Node(0.0))
    raise ValueError(
        f"a trial must fit one node of the cluster, got {asked} where the largest of {len(nodes)} has "
        f"{largest.gpus:g} GPUs and {largest.cpus:g} CPUs; lower them with --set, or give the --address of a cluster "
        "that has them"
    )


def on_each(nodes: Sequence[Node], work: Callable[..., R], *args: Any, gpus: float = 0.0) -> dict[Node, R]:
    """Runs `work` once on each of the nodes, whatever else runs there; by node. Raises what it raises."""
    task: Any = ray.remote(num_cpus=0, num_gpus=gpus)(portable_errors(work))
    there = {node: NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes}
    waiting = {node: task.options(scheduling_strategy=place).remote(*args) for node, place in there.items()}
    return {node: result_of(answer) for node, answer in waiting.items()}


def gpu_memory_gb(nodes: Sequence[Node]) -> float | None:
    """Memory (GiB) of the largest GPU, as each GPU node reports it; None without a GPU.

    Raises ValueError with every node whose GPU torch cannot use, such as one with a driver older than its CUDA.
    """
    answers = on_each([node for node in nodes if node.gpus], gpu_bytes, gpus=ANY_GPU)
    broken = [f"  {node.address}: {answer}" for node, answer in answers.items() if isinstance(answer, str)]
    if broken:
        raise ValueError(
            "every GPU node must have a GPU that torch can use, got:\n" + "\n".join(broken) + "\n"
            "update the driver there, install a torch that is built for it, or leave the node out of the cluster"
        )
    return max((int(answer) for answer in answers.values()), default=0) / GIB or None


def gpu_bytes() -> int | str:
    """Memory (bytes) of this machine's first GPU, or why torch cannot use it."""
    import torch

    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"torch {torch.__version__}, CUDA {torch.version.cuda}: {reason}"
    return int(torch.cuda.get_device_properties(0).total_memory)
