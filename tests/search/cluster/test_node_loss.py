"""One of two nodes is killed within a search: every trial arrives, and the lost one goes on from its checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SEARCH = """
import json, sys, time
from importlib import util
from pathlib import Path

spec = util.spec_from_file_location("toy", sys.argv[1])
toy = util.module_from_spec(spec)
sys.modules["toy"] = toy
spec.loader.exec_module(toy)
from ray import cloudpickle
from ray.cluster_utils import Cluster
from search.cluster.connection import connected
from search.cluster.run_files import RunFiles
from search.engine.tuner import run_search
from search.observers.trial_row import Observer
from search.run_dir import RunDir

cloudpickle.register_pickle_by_value(toy)
cluster = Cluster()
cluster.add_node(num_cpus=0, include_dashboard=False)
lost, _ = cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)  # a trial on each
folder = Path(sys.argv[2])
epochs, killed_s, went_on_s = {}, 0.0, {}

class Killer(Observer):
    def epoch(self, row, metrics):
        global killed_s
        epochs.setdefault(row.number, []).append(metrics["epoch"])
        if killed_s:
            went_on_s.setdefault(row.number, time.monotonic() - killed_s)
        if not killed_s and all(epochs.get(number, [0])[-1] >= 2 for number in (0, 1)):
            cluster.add_node(num_cpus=1)  # room for the lost trial
            cluster.remove_node(lost, allow_graceful=False)
            killed_s = time.monotonic()

with connected(cluster.address, say=lambda line: None):
    rows = run_search(
        toy.space_of(max_concurrent=2, max_failures=2, num_trials=3), toy.ToyPolicy(),
        toy.make_trainable(epoch_s=1.0), RunFiles(RunDir(folder)), observers=[Killer()],
    )
found = {"states": [row.state for row in rows], "epochs": epochs, "went_on_s": went_on_s}
print(json.dumps(found))
cluster.shutdown()
"""


@pytest.mark.kills
def test_every_trial_arrives_and_no_epoch_is_lost(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_worker_niceness": "0"}
    command = [sys.executable, "-c", SEARCH, str(ROOT / "tests/search/conftest.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(done.stdout.splitlines()[-1])  # how long it took to notice and to go on
    assert set(found["states"]) <= {"COMPLETE", "PRUNED"}
    assert len(found["states"]) == 3
    assert found["went_on_s"].keys() >= {"0", "1"}  # both ran when the node was killed
    assert max(found["went_on_s"].values()) > 1.5  # the lost one had to be missed and started again
    for epochs in found["epochs"].values():
        assert sorted(set(epochs)) == list(range(1, epochs[-1] + 1))
        assert len(epochs) <= epochs[-1] + 1  # what was under way as the node died is done again
