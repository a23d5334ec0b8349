"""`segsearch predict --address`: what is refused before anything runs, and a cluster of two nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import files_of, make_tiny_run
from PIL import Image
from typer.testing import CliRunner

from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.predict import app
from analysis.prediction.batches import Batch
from analysis.prediction.inputs import NamedImage
from analysis.prediction.job import Execution, Format
from analysis.prediction.restart import LOCK, STAMP
from analysis.prediction.run_batches import Task
from analysis.prediction.writers import Labelling
from search.cluster import predict_batches
from search.cluster.nodes import Node
from search.cluster.predict_batches import ClusterBatches, check_shared_files, stats_of

ROOT = Path(__file__).parents[3]


def test_the_device_is_the_clusters() -> None:
    assert [ClusterBatches(gpus).device("auto") for gpus in (0.0, 2.0)] == ["cpu", "cuda"]
    for name, message in (("cuda", "the cluster has, got cuda, and no GPU"), ("cuda:1", "got cuda:1: each process")):
        with pytest.raises(ValueError, match=message):
            ClusterBatches(0.0).device(name)


def test_every_file_that_a_node_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, files = [Node(1, address="10.0.0.1"), Node(1, address="10.0.0.2")], [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text("x", encoding="utf-8")
    [first, second] = stats_of(files)
    answers: dict[Node, Any] = {nodes[0]: [first, second], nodes[1]: [first, None]}
    monkeypatch.setattr(predict_batches, "on_each", lambda asked, work, paths: {n: answers[n] for n in asked})
    check_shared_files(files, nodes[:1])
    with pytest.raises(ValueError, match=rf"none:\n  10\.0\.0\.2: {tmp_path}/b\nput them on storage that all nodes"):
        check_shared_files(files, nodes)


def test_the_script_alone_refuses_an_address(tmp_path: Path) -> None:
    args = ["--bundle", str(tmp_path), "--images", str(tmp_path), "--out", str(tmp_path / "out"), "--address", "auto"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert "--address goes with the command `segsearch predict`, got auto" in done.stderr


class Deadly:
    """Ends the process that it is sent to, as the kernel does where memory is short."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (9,)


@pytest.mark.slow
def test_a_process_that_is_lost_is_told_with_the_remedy(local_ray: None, tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path / "run")
    bundle = read_bundle(export(BundleFacts("trash", "data", "split"), run.ensemble, run.weights, tmp_path / "bundle"))
    (tmp_path / STAMP).touch()
    labelling = Labelling(bundle.manifest.classes, np.zeros((3, 3), np.uint8), background=True)
    task = Task(bundle, tmp_path, Format.png, labelling, Execution("cpu", workers=1))
    deadly: Any = Batch((NamedImage("a.png", Deadly(), tmp_path / STAMP, tmp_path / STAMP),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one was lost 1 times.*go on with fewer --workers"):
        list(ClusterBatches(0.0, max_restarts=0).run(task, [deadly]))


TWO_NODES = """
import shutil
from pathlib import Path
import torch
from ray.cluster_utils import Cluster
from typer.testing import CliRunner
from search.cli import app

torch.set_num_threads(1)
cluster = Cluster()
for _ in range(2):
    cluster.add_node(num_cpus=1, include_dashboard=False)

def predict(out, *more):
    args = ["predict", "--bundle", "bundle", "--out", out, "--format", "probabilities", "--batch-size", "1", *more]
    done = CliRunner().invoke(app, [*args, "--device", "cpu", "photos"])
    assert done.exit_code == 0, (done.output, done.exception)
    print(done.stdout.strip())

predict("here")
shutil.copytree("here", "there")
for name in ("a", "b/d"):
    Path(f"there/{name}.safetensors").unlink()
predict("there", "--address", cluster.address)
cluster.shutdown()
"""


@pytest.mark.slow
def test_two_nodes_go_on_where_one_process_was_stopped_and_write_what_it_writes(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path / "run")
    export(BundleFacts("trash", "data", "split"), run.ensemble, run.weights, tmp_path / "bundle")
    for name, image in run.images.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / name)
    command = [sys.executable, "-c", TWO_NODES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = [line.partition(" at ")[0] for line in done.stdout.splitlines()]
    assert counts == [
        "3 of 3 images labelled, in here; 3 now",
        "3 of 3 images labelled, in there; 1 before, 2 now",
    ]
    here, there = files_of(tmp_path / "here"), files_of(tmp_path / "there")
    assert set(here) == {"a.safetensors", "b/c.safetensors", "b/d.safetensors", STAMP, LOCK}
    assert here == there
