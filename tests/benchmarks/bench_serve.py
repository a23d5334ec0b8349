"""What serving costs: a request's latency against the prediction itself, and requests a second at once against one by
one. A tiny bundle of two networks, images of 256 x 256, the server as a user starts it.

    python tests/benchmarks/bench_serve.py [NUM_REQUESTS]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import http.client
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))  # tests/analysis is not analysis
SIZE_PX, AT_ONCE = 256, 8
HEADERS = {"Content-Type": "application/octet-stream"}


def _ms(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def _ask(port: int, body: bytes) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", body, HEADERS)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def run(num: int = 40) -> dict[str, Any]:
    """Medians, and ratios of medians, of requests and predictions that took turns."""
    from factories import make_tiny_run

    from analysis.bundle.export import BundleFacts, export
    from analysis.bundle.manifest import read_bundle
    from analysis.bundle.predictor import Predictor

    image = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    body = content.getvalue()
    with tempfile.TemporaryDirectory() as name:
        tiny = make_tiny_run(Path(name))
        bundle = export(BundleFacts("tiny", "data", "split"), tiny.ensemble, tiny.weights, Path(name) / "bundle")
        command = [sys.executable, str(ROOT / "search/serve.py"), "--bundle", str(bundle), "--port", "0"]
        begin = time.perf_counter()
        server = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            line = next(one for one in server.stdout if one.startswith("http://"))
            start_s = time.perf_counter() - begin
            port = int(line.split("/")[2].split(":")[1])
            predictor = Predictor(read_bundle(bundle), device="cpu")
            predictor.predict(image)
            _ask(port, body)
            alone, asked, inside = [], [], []
            for _ in range(num):
                alone.append(_ms(lambda: predictor.predict(image)))
                begin = time.perf_counter()
                inside.append(_ask(port, body)["ms"]["predict"])
                asked.append(1e3 * (time.perf_counter() - begin))
            with ThreadPoolExecutor(AT_ONCE) as pool:
                together = _ms(lambda: list(pool.map(lambda _: _ask(port, body), range(num))))
        finally:
            server.terminate()
            server.wait(60)
    predict_ms, request_ms = float(np.median(alone)), float(np.median(asked))
    result = {
        "start_s": start_s,
        "predict_ms": predict_ms,
        "request_ms": request_ms,
        "request_over_predict": request_ms / predict_ms,
        "predict_in_server_over_predict": float(np.median(inside)) / predict_ms,
        "throughput_at_once_over_one_by_one": sum(asked) / together,
    }
    print(f"start {start_s:.1f} s; prediction alone {predict_ms:.1f} ms, a request {request_ms:.1f} ms")
    print(
        f"request {result['request_over_predict']:.2f}x, prediction inside the server "
        f"{result['predict_in_server_over_predict']:.2f}x; {AT_ONCE} at once: "
        f"{result['throughput_at_once_over_one_by_one']:.2f}x the requests a second"
    )
    return result


if __name__ == "__main__":
    run(*map(int, sys.argv[1:2]))
