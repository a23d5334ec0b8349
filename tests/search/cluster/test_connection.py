"""Which cluster is joined, and who may read the token. No Ray is started here."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
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


@pytest.fixture
def address() -> Iterator[str]:
    """Where somebody takes connections."""
    with socket.create_server(("", 0)) as server:  # on all interfaces, as Ray: it follows 127.0.0.1 to another
        yield f"127.0.0.1:{server.getsockname()[1]}"


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
