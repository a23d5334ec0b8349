"""The routes of `segsearch serve` behind a plain HTTP server, without Ray."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from search.serving import page
from search.serving.answer import Image, Legend
from search.serving.limits import Limits
from search.serving.service import Predicted, Service, Shown

LIMITS = Limits(upload_mib=1, megapixels=1, waiting=1)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of this bundle on loopback."""
    bundle = read_bundle(folder)
    predictor = Predictor(bundle, device="cpu", batch_size=1)

    async def predict(image: Image) -> Predicted:
        return Predicted(predictor.predict(image), 1)

    shown = Shown(Legend.of(bundle.manifest), page.write(bundle.manifest, LIMITS, "cpu"), {"device": "cpu"})
    service = Service(predict, shown, LIMITS)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await service(Request(scope, receive))
        await response(scope, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(answer, lifespan="off", log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
