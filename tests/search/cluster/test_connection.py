"""Which cluster is joined, with which token, and who may read it. Of Ray no more than a head's first process is started
here."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import ray
from ray._private import ray_constants
from ray._private.services import start_gcs_server
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from search.cluster import connection
from search.cluster.connection import LOOPBACK_SWITCH, RAY_JOB, TOO_LATE, connected, protect_token

ROOT = Path(__file__).parents[3]
VARIABLES = (
    "RAY_USAGE_STATS_ENABLED",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S",
    "NO_ALBUMENTATIONS_UPDATE",
    "RAY_ADDRESS",
    LOOPBACK_SWITCH,
)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `ray.init` is given, in a home of its own."""
    values: dict[str, Any] = {}
    address = {"gcs_address": "10.0.0.5:6379"}
    started = SimpleNamespace(dashboard_url="127.0.0.1:8265", address_info=address)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # puts the old values back afterwards
    monkeypatch.delenv(LOOPBACK_SWITCH)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # Ray was imported before
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("ray.init", lambda **arguments: values.update(arguments) or started)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": 2.0})
    return values


@pytest.mark.parametrize(("address", "switch", "bound"), [(None, None, True), (None, "1", False), ("h:1", None, False)])
def test_ray_binds_to_loopback_where_it_is_started_here(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, address: str | None, switch: str | None, bound: bool
) -> None:
    if switch:
        monkeypatch.setenv(LOOPBACK_SWITCH, switch)
    monkeypatch.setattr(connection, "_check_answers", lambda _: None)
    with connected(address, say=print):
        assert ray_constants.ENABLE_RAY_CLUSTER is not bound


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


class Alive(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):  # type: ignore[misc]
    """Answers as a cluster of Ray does that is asked whether it is there."""

    def CheckAlive(self, request: Any, context: Any) -> Any:
        return gcs_service_pb2.CheckAliveReply()


@pytest.fixture
def address(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where somebody answers as Ray."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Alive(), server)
    port = server.add_insecure_port("[::]:0")  # on all interfaces, as Ray: it follows 127.0.0.1 to another
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of the cluster of `head`, as its environment names it."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    return token


@pytest.fixture
def head(given: dict[str, Any], token: Path, tmp_path: Path) -> Iterator[str]:
    """The address of the process of a real head node that every other one has to ask first."""
    port, node_id = free_port(), ray.NodeID.from_random().hex()
    logs = {
        "log_dir": str(tmp_path),
        "stdout_filepath": str(tmp_path / "out"),
        "stderr_filepath": str(tmp_path / "err"),
    }
    place = {"gcs_server_port": port, "node_ip_address": "127.0.0.1", "session_dir": str(tmp_path), "node_id": node_id}
    started = start_gcs_server("", session_name="test", metrics_agent_port=0, fate_share=False, **logs, **place)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert started.process.poll() is None
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        started.process.kill()
        started.process.wait()


JOIN = """
import sys, ray
from search.cluster.connection import connected

ray.init = lambda **given: sys.exit(f"joined {given['address']}")
connected(sys.argv[1], say=print).__enter__()
"""


def joined(head: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, since Ray reads the token once, that would join the cluster if it were let in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", JOIN, head]
    run = {"env": kept | {LOOPBACK_SWITCH: "0"} | environment, "cwd": ROOT, "capture_output": True, "text": True}
    return subprocess.run(command, check=False, **run)  # type: ignore[call-overload, no-any-return]


def test_the_right_token_is_taken(head: str, token: Path) -> None:
    assert f"joined {head}" in joined(head, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token)).stderr


@pytest.mark.parametrize(
    ("mode", "content", "got"),
    [("token", "f" * 64, "another or none"), ("token", None, "none"), ("disabled", None, "another or none")],
)
def test_a_wrong_token_and_none_are_refused_with_one_message(
    mode: str, content: str | None, got: str, head: str, tmp_path: Path
) -> None:
    environment = {"RAY_AUTH_MODE": mode, "HOME": str(tmp_path / "home")}
    if content:
        (tmp_path / "other").write_text(content)
        environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "other")
    done = joined(head, **environment)
    [message] = [line for line in done.stderr.splitlines() if line.startswith("ValueError")]
    assert re.fullmatch(rf"ValueError: the cluster at {head} must be given its token, got {got}; copy .*", message)
    assert "gcs_client.cc" not in done.stderr + done.stdout  # Ray's own warnings, one per second


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_that_never_answers_is_told_within_seconds(
    given: dict[str, Any], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_S", 0.5)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with socket.create_server(("", 0)) as silent:
        place = f"{scheme}127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"--address must name a Ray cluster that answers.*Ray gives no answer"):
            connected(place, say=print).__enter__()
    assert given == {}


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
    unused = f"{scheme}127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match=r"--address must name a Ray cluster that answers, got .*refused"):
        connected(unused, say=print).__enter__()
    assert given == {}


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
