"""Wall time of a whole run at s3:// against the same run in a folder, up to its report, in turn.

The server is moto's, on loopback; its CPU time is the machine's too. More pairs: `python bench_remote.py 5`.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

from trainables.data.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[2]
PAIRS = 3
KEY = "testing-key"
SETTINGS = (
    "model={backbone: test_convnext2, head: {name: segformer, channels: 16}, pretrained: false}",
    "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}",
    "train.batch_size=4",
    "search={num_trials: 4, max_epochs: 4, grace_epochs: 4, max_concurrent: 1}",
    "ensemble={sample_mb: 1, resamples: 100, max_sweeps: 2, folds: 2}",
)
RUN = ("--space", "convnext.yaml", "--profile", "cpu", "--no-dashboard", *(f"--set={one}" for one in SETTINGS))


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 server with the bucket `runs`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        keys = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY, "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket="runs")
        yield port
    finally:
        server.kill()
        server.wait()


def run_s(*arguments: str) -> float:
    """Seconds that a run takes, with its process and its Ray."""
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY, "AWS_EC2_METADATA_DISABLED": "true"}
    environment = os.environ | keys | {"RAY_worker_niceness": "0"}
    begun_s = time.perf_counter()
    command = [sys.executable, "search/run.py", *RUN, *arguments]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun_s


def run(pairs: int = PAIRS) -> dict[str, Any]:
    """Prints and returns the medians and the ratio of each pair."""
    folder_s, s3_s = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as folder, s3_server() as port:
        card = write_synthetic(Path(folder) / "data", num_images=40, image_px=64, seed=0)
        common = ("--data", str(card), "--cache-dir", f"{folder}/cache")
        for n in range(pairs):
            uri = f"s3://runs/{n}?endpoint_override=127.0.0.1:{port}&scheme=http"
            folder_s.append(run_s(*common, "--run-dir", f"{folder}/run-{n}"))
            s3_s.append(run_s(*common, "--run-dir", uri))
            print(f"pair {n}: folder {folder_s[-1]:.1f} s, s3:// {s3_s[-1]:.1f} s, ratio {s3_s[-1] / folder_s[-1]:.2f}")
    ratio = statistics.median(there / here for here, there in zip(folder_s, s3_s, strict=True))
    found = {"folder": statistics.median(folder_s), "s3": statistics.median(s3_s), "ratio": ratio}
    print(f"medians: folder {found['folder']:.1f} s, s3:// {found['s3']:.1f} s; of the pairs' ratios {ratio:.2f}")
    return found


if __name__ == "__main__":
    run(*map(int, sys.argv[1:]))
