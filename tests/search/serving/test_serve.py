"""A real server on Ray Serve: its masks are `segsearch predict`'s, it is reached from this machine alone, and ends."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from listening import family_of, open_to_others
from typer.testing import CliRunner

from analysis import predict
from search import serve
from search.serve import app, check_packages, free_port


def ask(url: str, method: str, target: str, body: bytes | Iterator[bytes] = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        headers = {"Content-Type": "application/octet-stream"}
        connection.request(method, target, body, headers, encode_chunked=not isinstance(body, bytes))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.slow
def test_concurrent_requests_get_the_masks_of_predict(serving: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        predict.app, ["--bundle", str(serving.bundle), "--out", str(tmp_path), str(serving.photos)]
    )
    assert done.exit_code == 0, done.output
    paths = sorted(serving.photos.rglob("*.png")) * 8
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda path: ask(serving.url, "POST", "/mask", path.read_bytes()), paths))
        batches = list(pool.map(lambda path: ask(serving.url, "POST", "/predict", path.read_bytes()), paths))
    for path, (status, mask) in zip(paths, answers, strict=True):
        assert status == 200
        assert mask == (tmp_path / path.relative_to(serving.photos)).read_bytes()
    assert max(json.loads(answer)["batch"] for _, answer in batches) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("GET", "/health", b"", 200),
        ("GET", "/predict", b"", 405),
        ("POST", "/predict", b"no image", 415),
        ("POST", "/predict", bytes(3 * 2**20), 413),
        ("POST", "/predict", bytes(20 * 2**20), 413),
        ("POST", "/predict", [bytes(2**20)] * 3, 413),
    ],
)
def test_the_server_answers_as_its_routes_do(serving: Any, method: str, target: str, body: Any, status: int) -> None:
    found, answer = ask(serving.url, method, target, body if isinstance(body, bytes) else iter(body))
    assert found == status
    assert set(json.loads(answer)) >= ({"status"} if status == 200 else {"error", "value", "remedy"})


@pytest.mark.slow
def test_no_process_of_the_server_listens_to_other_machines(serving: Any) -> None:
    assert open_to_others(family_of(serving.process.pid)) == []


@pytest.mark.slow
def test_sigterm_ends_the_server(serving: Any) -> None:  # the last of this folder that needs it
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(60) == 0
    assert serving.process.stdout.read().splitlines()[-1] == "stopped"
    with pytest.raises(ConnectionRefusedError):
        ask(serving.url, "GET", "/health")


def test_a_taken_port_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port must be one that is free, got {port}; give another, or 0"):
            free_port(port)
    assert free_port(0) in serve.FIRST_PORTS


def test_missing_packages_come_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(ValueError, match=r"got no no_such_package; install them: pip install 'ray\[serve\]'"):
        check_packages()


def test_a_broken_bundle_is_named_before_ray_starts(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["--bundle", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "segsearch: a bundle is a folder that holds bundle.json" in done.stderr
