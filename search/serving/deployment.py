"""The Ray Serve deployment of a bundle: one replica, whose requests are predicted in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve
from ray.serve._private import replica as ray_replica
from starlette.requests import Request
from starlette.responses import Response

from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from search.serving import page
from search.serving.answer import Image, Legend
from search.serving.limits import Batching, Limits, Refused
from search.serving.service import Predicted, Service, Shown
from trainables.worker_process import is_out_of_memory, release_memory

APPLICATION = "segsearch"
FREE_SLOTS = 8  # beyond `Limits.waiting`: the page and the health route are answered while all others wait
WARM_PX = 64


@serve.deployment
class Replica:
    """A loaded bundle. What the user can correct is kept in `fault`: Serve would try an exception here again, and tell
    it with its traceback."""

    def __init__(self, folder: str, device: str, limits: Limits, batching: Batching) -> None:
        listen_on_loopback()
        self._fault = ""
        self._predict.set_max_batch_size(batching.size)  # type: ignore[attr-defined]
        self._predict.set_batch_wait_timeout_s(batching.wait_ms / 1e3)  # type: ignore[attr-defined]
        try:
            bundle = read_bundle(Path(folder))
            self._predictor = Predictor(bundle, device=device, batch_size=batching.size)
            self._predictor.predict(np.zeros((WARM_PX, WARM_PX, 3), dtype=np.uint8))  # kernels are compiled now
        except (ValueError, OSError) as error:
            self._fault = str(error)
            return
        manifest = bundle.manifest
        health = {
            "data": manifest.data,
            "rule": manifest.rule,
            "classes": list(manifest.classes),
            "device": self._predictor.device,
            "limits": limits.model_dump(),
        }
        shown = Shown(Legend.of(manifest), page.write(manifest, limits, self._predictor.device), health)
        self._service = Service(self._predict_one, shown, limits)

    async def __call__(self, request: Request) -> Response:
        return await self._service(request)

    async def fault(self) -> str:
        """Why the bundle cannot be served; '' where it can."""
        return self._fault

    async def _predict_one(self, image: Image) -> Predicted:
        found: Predicted | Refused = await self._predict(image)
        if isinstance(found, Refused):
            raise found
        return found

    @serve.batch
    async def _predict(self, images: list[Image]) -> list[Predicted | Refused]:
        return await asyncio.to_thread(predict_batch, self._predictor, images)


def listen_on_loopback() -> None:
    """Keep this replica's port for calls between deployments on loopback.

    Ray (2.60) opens it on all interfaces, without authentication, and unpickles what arrives: whoever reached it could
    run anything here. No option changes that. Nothing calls it: there is one deployment, which proxies reach otherwise.
    """
    module: Any = ray_replica
    opened = module.add_port_to_grpc_server

    def on_loopback(server: Any, address: str) -> int:
        port: int = opened(server, f"127.0.0.1:{address.rpartition(':')[2]}")
        return port

    module.add_port_to_grpc_server = on_loopback


def predict_batch(predictor: Predictor, images: Sequence[Image]) -> list[Predicted | Refused]:
    """Every image's label. Where a batch does not fit the memory each image is predicted alone, so that a large one is
    refused without those that came with it."""
    try:
        named = {str(n): image for n, image in enumerate(images)}
        return [Predicted(label, len(images)) for _, label in predictor.predict_many(named)]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    if len(images) > 1:
        return [found for image in images for found in predict_batch(predictor, [image])]
    height, width = images[0].shape[:2]
    rule, remedy = "an image's prediction must fit the memory", "cut it into tiles"
    return [Refused(503, rule, f"{width} x {height} pixels", remedy)]


def application(folder: Path, device: str, limits: Limits, batching: Batching, resources: dict[str, float]) -> Any:
    """The application that `serve.run` starts. `resources` are num_cpus and num_gpus of its replica."""
    options: dict[str, Any] = {"ray_actor_options": resources, "max_ongoing_requests": limits.waiting + FREE_SLOTS}
    return Replica.options(**options).bind(str(folder.resolve()), device, limits, batching)  # type: ignore[attr-defined]
