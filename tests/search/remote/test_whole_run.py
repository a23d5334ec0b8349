"""A run at s3:// comes to the verdict that the same run in a folder comes to: on one machine, and on a cluster whose
other node sees nothing of the driver's folder, with a kill within the folds."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.engine.study_file import open_study
from search.observers.trial_row import study_rows
from search.run_dir import RunDir
from trainables.data.synthetic.dataset import write_synthetic

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).with_name("ray"))
SETTINGS = (
    "model={backbone: {choice: [test_convnext, test_convnext2]}, pretrained: false}",
    "model.head={name: segformer, channels: 16}",
    "augmentation={short_px: 64, crop_px: 64, scale_min: 1.0, scale_max: 1.0}",
    "train.batch_size=4",
    "search={num_trials: 2, max_epochs: 2, grace_epochs: 2, max_concurrent: 1}",
    "tta={scales: [1.0], flips: [none]}",
    "ensemble={sample_mb: 1, resamples: 100, max_sweeps: 2, folds: 2, temperature: 'off'}",
)
SMALL = ("--space", "convnext.yaml", "--profile", "cpu", "--no-dashboard", *(f"--set={each}" for each in SETTINGS))
TRIES = 3
MEASURED = ("costs", "cost", "pareto", "opening", "at")  # what depends on the clock


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_synthetic(tmp_path / "data", num_images=24, image_px=64, seed=4)


@pytest.fixture
def environment() -> dict[str, str]:
    """Of a driver and its Ray on a machine of two CPUs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 2}),
    }


def finished(environment: dict[str, str], *arguments: str) -> str:
    """What a run prints that has a process of its own; up to three tries where this machine is too busy for Ray."""
    command = [sys.executable, "search/run.py", *arguments]
    for _ in range(TRIES):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        if "Ray must start within 30 s" not in done.stdout + done.stderr:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: without_times(value) for key, value in found.items() if key not in MEASURED}
    return [without_times(value) for value in found] if isinstance(found, list) else found


def outcome(root: Path) -> tuple[list[Any], Any]:
    """The trials and ensemble.json, without what depends on the clock."""
    run = RunDir(root)
    rows = study_rows(open_study(run.study_db), root)
    assert all((Path(str(row.checkpoint)) / "best.safetensors").is_file() for row in rows)
    trials = [(row.number, row.state, row.recipe_hash, row.epochs, row.best_miou) for row in rows]
    return trials, without_times(json.loads(run.ensemble_json.read_text()))


def fetched(uri: str, out: Path) -> Path:
    done = CliRunner().invoke(app, ["fetch", uri, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.kills
@pytest.mark.slow
def test_what_is_fetched_is_what_a_folder_holds(
    uri: str, card: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    common = (*SMALL, "--set", "resources={cpu: 1}", "--data", str(card))
    finished(environment, *common, "--run-dir", str(tmp_path / "plain"), "--cache-dir", str(tmp_path / "cache"))
    finished(environment, *common, "--run-dir", uri, "--cache-dir", str(tmp_path / "cache"))
    run = fetched(uri, tmp_path / "fetched")
    # the names first: SQLite has files of its own beside a study that is open
    there, here = ({path.relative_to(r).as_posix() for path in r.rglob("*.*")} for r in (run, tmp_path / "plain"))
    assert {name for name in here ^ there if not name.startswith(("tune/", "run.le", "run.lo"))} == set()
    assert outcome(run) == outcome(tmp_path / "plain")


@contextmanager
def node(environment: dict[str, str], log: Path, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[None]:
    """A node of a cluster on loopback; up to three tries where this machine is too busy for Ray."""
    command = [*before, RAY, "start", "--block", *arguments]
    for _ in range(TRIES):
        with log.open("w") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        while process.poll() is None and "Ray runtime started" not in log.read_text():
            time.sleep(0.2)
        if process.poll() is None:
            break
    assert process.poll() is None, log.read_text()
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)  # it ends the node's processes
        process.wait(timeout=60)


@pytest.fixture
def cluster(environment: dict[str, str], machine: Path, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A driver's node of one CPU, and one of two that sees an empty folder in place of `machine`: their address, and
    the environment in which to join them."""
    blind = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{machine}" && exec "$0" "$@"')
    if subprocess.run([*blind, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a mount namespace: root, or CAP_SYS_ADMIN")
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # a socket's path has at most 107 bytes
    (folder / "token").write_text(secrets.token_hex(32))
    of_one_node = ("RAY_OVERRIDE_RESOURCES", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    there = {name: value for name, value in environment.items() if name not in of_one_node}
    there |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    head = ("--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=1", f"--temp-dir={folder}")
    other = (f"--address=127.0.0.1:{port}", "--num-cpus=2")
    try:
        with node(there, tmp_path / "head", *head), node(there, tmp_path / "other", *other, before=blind):
            yield f"127.0.0.1:{port}", there
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """What the driver's machine has for itself."""
    (tmp_path / "machine").mkdir()
    return tmp_path / "machine"


@pytest.mark.kills
@pytest.mark.slow
def test_a_node_that_sees_no_folder_of_the_run_trains_all_of_it(
    uri: str,
    card: Path,
    environment: dict[str, str],
    cluster: tuple[str, dict[str, str]],
    machine: Path,
    tmp_path: Path,
) -> None:
    """Trials and fold models hold two CPUs, so that the driver's node has room for none of them."""
    common = (*SMALL, "--set", "resources={cpu: 2}", "--set", "folds={num: 2, recipes: 1}", "--data", str(card))
    plain, (address, there) = tmp_path / "plain", cluster
    finished(environment, *common, "--run-dir", str(plain), "--cache-dir", str(tmp_path / "cache"))
    place = ("--run-dir", uri, "--cache-dir", str(machine / "one"), "--address", address)
    command = [sys.executable, "search/run.py", *common, *place]
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(command, cwd=ROOT, env=there, stdout=log, stderr=log)
    while not any(machine.glob("one/remote-runs/*/*/folds/*/fold-*")):
        assert killed.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    killed.kill()
    killed.wait()
    assert "is not seen on" in (tmp_path / "log").read_text()
    said = finished(there, "--resume", uri, "--cache-dir", str(machine / "one"), "--address", address)
    assert "search: done at" in said
    assert outcome(fetched(uri, tmp_path / "fetched")) == outcome(plain)
