"""The routes of a server and their answers, whatever server carries them: no Ray here.

    GET  /         the page
    GET  /health   {"status": "ok", ...}
    POST /predict  an image's bytes -> JSON: classes, areas, milliseconds, the mask; ?pictures=1 adds the page's
    POST /mask     an image's bytes -> the mask alone, image/png

An error is JSON too: {"error": rule, "value": value, "remedy": remedy}.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from search.serving.answer import Image, Label, Legend, areas, data_uri, mask_png, pictures
from search.serving.limits import Limits, Refused
from search.serving.upload import check_content_type, check_host, check_origin, decode, read_body

LOG = logging.getLogger("ray.serve")
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Predicted:
    """The label of one image, and of how many images its batch was."""

    label: Label
    batch: int


@dataclass(frozen=True)
class Shown:
    """What the server says of itself."""

    legend: Legend
    page: str
    health: Mapping[str, Any]


class Service:
    """Answers requests. `predict` raises Refused where an image cannot be predicted."""

    def __init__(
        self,
        predict: Callable[[Image], Awaitable[Predicted]],
        shown: Shown,
        limits: Limits,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._predict, self._shown, self._limits, self._clock = predict, shown, limits, clock
        self._held = 0  # requests with an image
        self._routes: dict[str, tuple[str, Callable[[Request], Awaitable[Response]]]] = {
            "/": ("GET", self._page),
            "/health": ("GET", self._health),
            "/predict": ("POST", self._predicted),
            "/mask": ("POST", self._mask),
        }

    async def __call__(self, request: Request) -> Response:
        """The answer to any request; what goes wrong here is logged and told without its traceback."""
        try:
            answer = await self._respond(request)
        except Refused as refused:
            answer = _error(refused)
        except ClientDisconnect:
            answer = _error(Refused(400, "a body must arrive whole", "the client's end of it", "send it again"))
        except Exception as error:
            LOG.exception("a request failed")
            remedy = "report it with the server's log, which has the traceback"
            answer = _error(Refused(500, "an image must be answered", f"{type(error).__name__} in the server", remedy))
        answer.headers.update(HEADERS)
        return answer

    async def _respond(self, request: Request) -> Response:
        check_host(request.headers)
        path = request.url.path
        if path not in self._routes:
            raise Refused(404, f"a path must be one of {', '.join(self._routes)}", f"{path:.100}", "correct it")
        method, respond = self._routes[path]
        if request.method not in (method, "HEAD" if method == "GET" else method):
            raise Refused(405, f"{path} must be asked with {method}", request.method, f"use {method}")
        return await respond(request)

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(self._shown.page)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", **self._shown.health, "waiting": self._held})

    async def _predicted(self, request: Request) -> Response:
        wants_pictures = _wants_pictures(request)
        begin = self._clock()
        image, warnings, found, ms = await self._labelled(request)
        encoding = self._clock()
        values = await asyncio.to_thread(self._described, image, found.label, wants_pictures)
        ms |= {"encode": 1e3 * (self._clock() - encoding), "total": 1e3 * (self._clock() - begin)}
        rounded = {name: round(value, 2) for name, value in ms.items()}
        return JSONResponse({**values, "ms": rounded, "batch": found.batch, "warnings": list(warnings)})

    async def _mask(self, request: Request) -> Response:
        _, _, found, _ = await self._labelled(request)
        return Response(await asyncio.to_thread(mask_png, found.label, self._shown.legend), media_type="image/png")

    def _described(self, image: Image, label: Label, wants_pictures: bool) -> dict[str, Any]:
        legend, (height, width) = self._shown.legend, label.shape
        mask = data_uri(mask_png(label, legend))
        shown = pictures(image, label, legend) if wants_pictures else {}
        return {"width": width, "height": height, "classes": areas(label, legend), "mask": mask, **shown}

    async def _labelled(self, request: Request) -> tuple[Image, tuple[str, ...], Predicted, dict[str, float]]:
        """-> the image, the rules that its file bends, its prediction, and the milliseconds that each step took."""
        check_origin(request.headers)
        check_content_type(request.headers)
        if self._held >= self._limits.waiting:
            rule = f"at most {self._limits.waiting} images may be in the server"
            raise Refused(503, rule, f"{self._held} already", "send it again in a moment")
        self._held += 1
        try:
            times = [self._clock()]
            content = await read_body(request.stream(), self._limits)
            times.append(self._clock())
            decoded = await asyncio.to_thread(decode, content, self._limits)
            times.append(self._clock())
            found = await self._predict(decoded.pixels)
            times.append(self._clock())
        finally:
            self._held -= 1
        ms = {name: 1e3 * (times[n + 1] - times[n]) for n, name in enumerate(("read", "decode", "predict"))}
        return decoded.pixels, decoded.warnings, found, ms


def _wants_pictures(request: Request) -> bool:
    asked = str(request.url.query)
    if asked not in ("", "pictures=1"):
        raise Refused(400, "the query must be pictures=1, or none", f"{asked:.100}", "leave it out")
    return asked != ""


def _error(refused: Refused) -> Response:
    content = {"error": refused.rule, "value": refused.value, "remedy": refused.remedy}
    headers = {"Retry-After": "1"} if refused.status == 503 else {}
    return JSONResponse(content, status_code=refused.status, headers=headers)
