"""`ray job submit` of the sources to a cluster on loopback: the run must not lie where Ray deletes it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables.data.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).with_name("ray"))
TINY = (
    *("--space", "convnext.yaml", "--profile", "cpu", "--address", "auto"),
    *("--set", "model={backbone: test_convnext2, head: {name: segformer, channels: 16}, pretrained: false}"),
    *("--set", "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}"),
    *("--set", "search={num_trials: 1, max_epochs: 1, grace_epochs: 1}", "--set", "train.batch_size=4"),
    *("--set", "ensemble={sample_mb: 1, resamples: 100, max_sweeps: 2, folds: 2, soups: 'off'}"),
    *("--set", "tta={scales: [1.0]}"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A head node on loopback that asks for a token; the environment in which to talk to it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path has at most 107 bytes
    token, port, dashboard = folder / "token", free_port(), free_port()
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        environment |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
        wait_until_jobs_are_taken(environment, head)
        yield environment
    finally:
        head.send_signal(signal.SIGTERM)  # it ends the node's processes; `ray stop` would end every Ray here
        head.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_jobs_are_taken(environment: dict[str, str], head: subprocess.Popen[bytes]) -> None:
    for _ in range(60):
        assert head.poll() is None, "the head node has ended"
        done = subprocess.run([RAY, "job", "list"], env=environment, capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(1)
    pytest.fail("the cluster takes no jobs")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user submits: the sources, without their history."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("search", "analysis", "trainables", "spaces"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def submit(environment: dict[str, str], checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--working-dir", str(checkout), "--", sys.executable, "search/run.py"]
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.kills
@pytest.mark.slow
def test_a_job_is_refused_without_a_run_directory_that_lasts_and_ends_with_one(
    cluster: dict[str, str], checkout: Path, tmp_path: Path
) -> None:
    card = write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=4)
    common = (*TINY, "--data", str(card), "--cache-dir", str(tmp_path / "cache"))
    refused = submit(cluster, checkout, *common)
    assert refused.returncode != 0
    assert "a run in a Ray job needs --run-dir on storage that lasts" in refused.stdout
    assert "Traceback (most recent call last)" not in refused.stdout
    inside = submit(cluster, checkout, *common, "--run-dir", "runs/mine")
    assert inside.returncode != 0
    assert "--run-dir must lie outside Ray's own folders" in inside.stdout

    done = submit(cluster, checkout, *common, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report" in json.loads((tmp_path / "run" / "run.json").read_text())["stages"]
    assert (tmp_path / "run" / "bundle" / "bundle.json").is_file()
