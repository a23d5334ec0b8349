"""The ready-made cluster files: each against the schema of what reads it, and the Slurm script on two Ray nodes."""

from __future__ import annotations

import inspect
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from search.run import run
from trainables.data.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "search" / "cluster" / "deploy"
TINY = (
    *("--space", "convnext.yaml", "--profile", "cpu", "--until", "search"),
    *("--set", "model={backbone: test_convnext2, head: {name: segformer, channels: 16}, pretrained: false}"),
    *("--set", "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}"),
    *("--set", "search={num_trials: 2, max_epochs: 3, grace_epochs: 1}", "--set", "train.batch_size=4"),
)


def loaded(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return values


def containers(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_rays_launcher_takes_the_cluster() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    cluster = loaded("ray-cluster.yaml")
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    workers = cluster["available_node_types"]["gpu"]
    assert workers["min_workers"] == workers["max_workers"] == cluster["max_workers"]  # a run counts them as it begins


def test_every_node_of_a_deployment_asks_for_a_token() -> None:
    starts = [line for key in ("head", "worker") for line in loaded("ray-cluster.yaml")[f"{key}_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in line for line in starts if "ray start" in line)
    assert loaded("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "export RAY_AUTH_MODE=token" in (DEPLOY / "slurm.sh").read_text(encoding="utf-8")


def test_pods_share_one_folder_and_have_what_they_ask_for() -> None:
    job = loaded("kuberay-rayjob.yaml")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked("ray")
    for container in containers(job):
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        for name, limit in container["resources"]["limits"].items():
            assert container["resources"]["requests"][name] == limit


def test_the_jobs_commands_are_of_this_command_line() -> None:
    words = shlex.split(loaded("kuberay-rayjob.yaml")["spec"]["entrypoint"])
    assert words[:2] == ["sh", "-c"]
    asked = set(re.findall(r"--[a-z-]+", words[2]))
    assert asked == {"--address", "--resume", "--run-dir", "--space", "--data"}
    assert {name.removeprefix("--").replace("-", "_") for name in asked} <= set(inspect.signature(run).parameters)


def test_the_image_copies_what_there_is_and_its_python_is_allowed() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((ROOT / word).exists() for word in copied)
    assert {"search", "analysis", "trainables", "spaces", "requirements.lock", "pyproject.toml"} <= set(copied)
    [base] = [line for line in lines if line.startswith("FROM")]
    version = re.search(r"python:([0-9]+)\.([0-9]+)", base)
    assert version
    assert (int(version[1]), int(version[2])) >= (3, 11)
    assert any(line.startswith("USER segsearch") for line in lines)


def locked(name: str) -> str:
    found = re.search(rf"(?m)^{name}==([0-9.]+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert found
    return found[1]


def test_the_slurm_script_has_bashs_syntax() -> None:
    subprocess.run(["bash", "-n", DEPLOY / "slurm.sh"], check=True)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which `srun` starts things on this machine, and `scontrol` knows two nodes."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path has at most 107 bytes
    programs, token = folder / "bin", folder / "token"
    programs.mkdir()
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    scripts = {
        "srun": 'while [[ $1 == --* ]]; do shift; done\n[[ $1 == hostname ]] && echo 127.0.0.1 || exec "$@"',
        "scontrol": f'[[ $1 == requeue ]] && echo "$2" > {folder}/requeued || printf "one\\ntwo\\n"',
        "segsearch": f'exec {sys.executable} {ROOT}/search/run.py "${{@:2}}"',
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    yield {key: value for key, value in os.environ.items() if not key.startswith("RAY_")} | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a loopback cluster takes no second node
        "RAY_worker_niceness": "0",
        "SLURM_JOB_NODELIST": "one,two",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "1",
        "OMP_NUM_THREADS": "1",
    }
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.kills
@pytest.mark.slow
def test_a_slurm_job_whose_time_is_over_queues_itself_again_and_goes_on(slurm: dict[str, str], tmp_path: Path) -> None:
    card = write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=4)
    run_dir = tmp_path / "run"
    command = ["bash", str(DEPLOY / "slurm.sh"), str(run_dir), *TINY, "--data", str(card)]
    command += ["--cache-dir", str(tmp_path / "cache")]
    with (tmp_path / "first.txt").open("wb") as out:
        first = subprocess.Popen(command, env=slurm, stdout=out, stderr=subprocess.STDOUT)
        while first.poll() is None and not (run_dir / "run.json").exists():
            time.sleep(0.5)
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=240) == 143, (tmp_path / "first.txt").read_text()
    assert (Path(slurm["RAY_TMPDIR"]) / "requeued").read_text().strip() == slurm["SLURM_JOB_ID"]
    again = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "search" in json.loads((run_dir / "run.json").read_text())["stages"]
