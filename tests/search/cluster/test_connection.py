"""Which cluster is joined, and who may read the token. Of Ray, the head node's own server runs here alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.cluster.connection import RAY_JOB, TOO_LATE, connected, protect_token

ROOT = Path(__file__).parents[3]
VARIABLES = ("RAY_USAGE_STATS_ENABLED", "TUNE_FUNCTION_THREAD_TIMEOUT_S", "NO_ALBUMENTATIONS_UPDATE", "RAY_ADDRESS")


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `ray.init` is given, in a home of its own."""
    values: dict[str, Any] = {}
    address = {"gcs_address": "10.0.0.5:6379"}
    started = SimpleNamespace(dashboard_url="127.0.0.1:8265", address_info=address)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # puts the old values back afterwards
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ray.init", lambda **arguments: values.update(arguments) or started)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 2.0})
    return values


def test_without_an_address_a_cluster_is_started_whatever_the_environment_names(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.9:6379")
    said: list[str] = []
    with connected(None, say=said.append, num_cpus=2) as num_gpus:
        assert num_gpus == 2
    assert (given["address"], given["num_cpus"], given["include_dashboard"]) == ("local", 2, True)
    assert said[0].startswith("Ray: starting on this machine")  # before the wait
    assert said[1] == "Ray: started on this machine, for this run alone"
    assert "RAY_ADDRESS=203.0.113.9:6379 is not followed" in said[2]
    assert (os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"]) == ("0", "60")


def test_a_machine_too_busy_for_ray_is_said(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: Any) -> None:
        raise Exception(f"{TOO_LATE}. This could happen because ...")

    monkeypatch.setattr("ray.init", late)
    with pytest.raises(ValueError, match=r"Ray must start within 30 s on this machine.*give the same command again"):
        connected(None, say=print).__enter__()


@contextmanager
def head_server(folder: Path, **environment: str) -> Iterator[str]:
    """A cluster's head server; its address."""
    from ray._private.services import GCS_SERVER_EXECUTABLE, get_node_ip_address, serialize_config

    host = get_node_ip_address()  # Ray follows 127.0.0.1 to it
    with socket.create_server((host, 0)) as probe:
        port = probe.getsockname()[1]
    command = [GCS_SERVER_EXECUTABLE, f"--gcs_server_port={port}", f"--config_list={serialize_config({})}"]
    command += [f"--log_dir={folder}", f"--session-dir={folder}", "--session-name=s", f"--node-ip-address={host}"]
    command += ["--metrics-agent-port=-1", f"--node-id={'0' * 56}"]
    server = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection((host, port), timeout=1).close()
                break
            time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a cluster answers that asks for no token."""
    with head_server(tmp_path_factory.mktemp("head")) as found:
        yield found


def test_an_address_is_joined_with_this_code_and_said(given: dict[str, Any], address: str) -> None:
    said: list[str] = []
    with connected(address, say=said.append):
        pass
    assert (given["address"], "num_cpus" in given) == (address, False)
    shipped = [Path(folder) for folder in given["runtime_env"]["py_modules"]]
    assert shipped == [ROOT / name for name in ("trainables", "analysis", "search")]
    assert said[0] == f"Ray: joining {address}"
    assert said[1] == f"Ray: joined the cluster at 10.0.0.5:6379 (--address {address})"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_nobody_answers_at_is_told_at_once(given: dict[str, Any], address: str, scheme: str) -> None:
    """Ray itself would try for minutes."""
    with socket.create_server(("", 0)) as server:
        unused = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ValueError, match=r"--address must name a Ray cluster that answers, got .*refused"):
        connected(unused, say=print).__enter__()
    assert given == {}


def test_what_is_no_ray_is_told_within_seconds(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.cluster.connection.ANSWER_S", 0.2)
    with (
        socket.create_server(("", 0)) as server,
        pytest.raises(ValueError, match=r"--address must name a Ray cluster that answers.*deadline_exceeded"),
    ):
        connected(f"127.0.0.1:{server.getsockname()[1]}", say=print).__enter__()
    assert given == {}


JOIN = """
import os, sys
import ray
from ray._raylet import AuthenticationTokenLoader
from search.cluster.connection import connected
ray.init = lambda **_: 1 / 0
for token in sys.argv[2:]:
    os.environ["RAY_AUTH_TOKEN_PATH"] = token
    if not token:
        del os.environ["RAY_AUTH_TOKEN_PATH"]
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        connected(sys.argv[1], say=lambda line: None).__enter__()
    except (ValueError, ZeroDivisionError) as error:
        print(error)
"""


def test_a_wrong_token_and_none_are_refused_with_the_remedy(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for file in (right, wrong):
        file.write_text(secrets.token_hex(32))
        file.chmod(0o600)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    with head_server(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(right)) as place:
        command = [sys.executable, "-c", JOIN, place, str(right), str(wrong), ""]  # a process reads the mode once
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    taken, *refused = done.stdout.splitlines()
    assert (taken, len(refused)) == ("division by zero", 2), done.stderr  # Ray itself was called
    assert all("must be given its own token, got none or another" in line for line in refused)


@pytest.mark.parametrize("wrong", ["10.0.0.5", "ray://10.0.0.5", "10.0.0.5:port", "10.0.0.5:99999999"])
def test_an_address_needs_a_port(given: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=f"--address must name a Ray cluster that answers, got {wrong}"):
        connected(wrong, say=print).__enter__()


def test_a_job_leaves_its_code_to_ray(given: dict[str, Any], address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAY_JOB, "{}")
    with connected(address, say=print):
        pass
    assert "runtime_env" not in given


def test_auto_does_not_follow_a_file_of_another_user(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str
) -> None:
    (tmp_path / "ray_current_cluster").write_text(address)
    monkeypatch.setattr("ray._common.utils.get_ray_address_file", lambda _: str(tmp_path / "ray_current_cluster"))
    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", lambda _: address)
    with connected("auto", say=print):  # ours
        pass
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.setattr("search.cluster.connection.ROOT_UID", 54321)
    with pytest.raises(ValueError, match=r"must be yours or root's.*give the cluster's HOST:PORT"):
        connected("auto", say=print).__enter__()


@pytest.mark.parametrize("mode", [None, 0o644, 0o600])
def test_the_token_is_its_owners_alone(mode: int | None, tmp_path: Path) -> None:
    token, said = tmp_path / ".ray" / "auth_token", list[str]()
    if mode is not None:
        token.parent.mkdir()
        token.write_text("a" * 64)
        token.chmod(mode)
    protect_token(token, said.append)
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert len(said) == (mode == 0o644)
