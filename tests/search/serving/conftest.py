"""One real server on a tiny bundle for the slow tests of this folder."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from factories import make_tiny_run
from PIL import Image

ROOT = Path(__file__).parents[3]
START_S = 300
MAX_UPLOAD_MIB, MAX_MEGAPIXELS = 1, 0.02


@dataclass(frozen=True)
class Serving:
    """A server that runs, and what it serves."""

    process: subprocess.Popen[str]
    url: str
    bundle: Path
    photos: Path


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`search/serve.py` in a process of its own, as a user starts it."""
    pytest.importorskip("fastapi", reason="needs the extra serve")
    from analysis.bundle.export import BundleFacts, export

    folder = tmp_path_factory.mktemp("serving")
    run = make_tiny_run(folder)
    bundle = export(BundleFacts("trash", "data", "split"), run.ensemble, run.weights, folder / "bundle")
    for name, image in run.images.items():
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "photos" / name)
    command = [sys.executable, str(ROOT / "search/serve.py"), "--bundle", str(bundle), "--port", "0"]
    limits = ["--max-upload-mib", str(MAX_UPLOAD_MIB), "--max-megapixels", str(MAX_MEGAPIXELS)]
    options = [*limits, "--batch-wait-ms", "50", "--device", "cpu"]
    process = subprocess.Popen([*command, *options], cwd=folder, stdout=subprocess.PIPE, text=True)
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("http://"):
                yield Serving(process, line.split()[0], bundle, folder / "photos")
                break
        else:
            pytest.fail(f"the server did not start: {said}")
    finally:
        late.cancel()
        if process.poll() is None:
            process.terminate()
            process.wait(60)
