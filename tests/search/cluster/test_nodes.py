"""What fits the nodes of a cluster, against brute force and against Ray itself on faked GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.cluster import nodes
from search.cluster.nodes import Node, check_fits, gpu_memory_gb, live_nodes, num_holders, on_each

ROOT = Path(__file__).parents[3]


def held_by_devices(share_percent: int, num_gpus: int) -> int:
    """Brute force: each device is filled until the next share does not fit."""
    held = 0
    for _ in range(num_gpus):
        left = 100
        while left >= share_percent:
            left, held = left - share_percent, held + 1
    return held


@pytest.mark.parametrize("share_percent", range(1, 101))
def test_a_share_lies_on_one_device(share_percent: int) -> None:
    wanted = {"cpu": 0.01, "gpu": share_percent / 100}
    assert Node(64.0, 3.0).holds(wanted) == held_by_devices(share_percent, 3)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"cpu": 1, "gpu": 2}, 2 + 0 + 0),  # the nodes of one GPU cannot lend to each other
        ({"cpu": 1, "gpu": 1}, 4 + 1 + 1),
        ({"cpu": 8, "gpu": 1}, 2 + 1 + 0),
        ({"cpu": 4, "gpu": 0}, 4 + 2 + 1),
        ({"cpu": 0.1, "gpu": 0}, 160 + 80 + 40),
    ],
)
def test_holders_are_counted_node_by_node(wanted: dict[str, float], expected: int) -> None:
    assert num_holders(wanted, [Node(16, 4), Node(8, 1), Node(4, 1)]) == expected


def test_what_no_single_node_has_is_refused_with_the_largest_one() -> None:
    cluster = [Node(8, 2), Node(8, 2)]
    check_fits({"cpu": 8, "gpu": 2}, cluster)
    with pytest.raises(ValueError, match=r"fit one node .* resources.gpu 4 and resources.cpu 1 .* of 2 has 2 GPUs and"):
        check_fits({"cpu": 1, "gpu": 4}, cluster)


def test_every_gpu_that_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, none = Node(8, 1, "10.0.0.1"), Node(8, 1, "10.0.0.2"), Node(8, 0, "10.0.0.3")
    answers = {old: "torch 2.15, CUDA 13.0: the driver is too old", new: 40 * 2**30}
    monkeypatch.setattr(nodes, "on_each", lambda asked, work, gpus: {node: answers[node] for node in asked})
    with pytest.raises(ValueError, match=r"got:\n  10\.0\.0\.1: torch 2\.15, CUDA 13\.0: the driver is too old\n"):
        gpu_memory_gb([old, new, none])
    assert gpu_memory_gb([new, none]) == 40.0
    assert gpu_memory_gb([none]) is None


def test_without_a_usable_gpu_torch_says_why() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    said = nodes.gpu_bytes()
    assert isinstance(said, str)
    assert said.startswith(f"torch {torch.__version__}, CUDA ")


def number(text: str) -> int:
    return int(text)


def test_work_runs_on_each_node_and_raises_what_it_raised(local_ray: None) -> None:
    found = on_each(live_nodes(), number, "7")
    assert list(found.values()) == [7]
    with pytest.raises(ValueError, match="invalid literal"):
        on_each(live_nodes(), number, "x")


SHARES = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace
import ray
from ray.cluster_utils import Cluster
from search.cluster.connection import connected
from search.cluster.nodes import live_nodes, num_holders, on_each
from search.cluster.ray_executor import RayExecutor

cluster = Cluster()
cluster.add_node(num_cpus=4, num_gpus=1, include_dashboard=False)
cluster.add_node(num_cpus=4, num_gpus=1)
class Job:
    device = "cuda"
    def __call__(self, ids):
        return len(ids)

def place():
    # the driver's own folders come first, which another machine would not have
    sent = [Path(folder) for folder in sys.path if "runtime_resources" in folder]
    names = {package.name for folder in sent for package in folder.iterdir()}
    return ray.get_runtime_context().get_node_id(), sorted(names)

def half():
    # a torch that writes down which share of its device's memory a holder may take
    asked = []
    cuda = SimpleNamespace(is_available=lambda: True, set_per_process_memory_fraction=asked.append)
    sys.modules["torch"] = SimpleNamespace(cuda=cuda, set_num_threads=lambda count: None)
    from trainables.worker_process import prepare_worker
    began_s = time.time()
    prepare_worker(1, 0.5)
    time.sleep(3)
    return [ray.get_runtime_context().get_node_id(), ray.get_gpu_ids(), asked, began_s, time.time()]

found = {}
with connected(cluster.address, say=print):
    for share in (0.4, 0.6):
        pool = RayExecutor(gpus_per_task=share, images_per_task=1)
        found[share] = sum(pool(Job(), ["a", "b", "c", "d", "e", "f"]))
    places = on_each(live_nodes(), place)
    halves = ray.get([ray.remote(num_cpus=1, num_gpus=0.5)(half).remote() for _ in range(4)])
own = all(node.node_id == node_id for node, (node_id, _) in places.items())
[shipped] = {tuple(names) for _, names in places.values()}
print(json.dumps({"found": found, "own": own, "nodes": len(places), "shipped": shipped, "halves": halves}))
cluster.shutdown()
"""


@pytest.mark.slow
def test_actors_of_every_share_end_on_two_nodes_of_one_faked_gpu() -> None:
    """A pool of as many actors as total GPUs over share would wait for ever for 0.3, 0.4, 0.6 and 0.75."""
    # a worker's set-up that another test ran in this process has hidden GPUs, of which Ray then takes none
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", SHARES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["found"] == {"0.4": 6, "0.6": 6}
    assert (said["own"], said["nodes"]) == (True, 2)
    assert said["shipped"] == ["analysis", "search", "trainables"]
    for node, devices, asked, began_s, _ in said["halves"]:
        assert (devices, asked) == ([0], [0.5])
        beside = [other for other in said["halves"] if other[0] == node and other[3] <= began_s < other[4]]
        assert sum(other[2][0] for other in beside) <= 1.0
