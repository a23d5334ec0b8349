"""Routes, limits and refusals, without Ray: what is asked and answered is HTTP's own, only the model is a function."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from analysis.report.palette import palette
from search.serving.answer import Legend, pictures
from search.serving.limits import MIB, Limits, Refused
from search.serving.service import Predicted, Service, Shown
from search.serving.upload import read_body
from trainables.data.image_file import FORMATS, TURNED

LEGEND = Legend(("background", "paper", "<b>glass</b>"), palette(3, background=True), background=True)
LIMITS = Limits(upload_mib=1, megapixels=0.01, waiting=2, read_s=0.2)
BYTES = {"content-type": "application/octet-stream"}


async def brightest(image: np.ndarray) -> Predicted:
    """A model of three classes: the brightest channel's."""
    return Predicted(image.argmax(axis=2).astype(np.uint8), 1)


def service(predict: Any = brightest, limits: Limits = LIMITS) -> Service:
    return Service(predict, Shown(LEGEND, "<!doctype html>", {"device": "cpu"}), limits)


def request(method: str, target: str, body: Any = b"", headers: Mapping[str, str] | None = None) -> Request:
    """A request as a server hands it on; `body` is bytes, or a list of chunks after which nothing comes."""
    path, _, query = target.partition("?")
    chunks = [body] if isinstance(body, bytes) else list(body)
    ends = isinstance(body, bytes)
    sent = {"host": "localhost:8000", **(headers or {})}

    async def receive() -> Any:
        if not chunks:
            await asyncio.sleep(60)
        more = len(chunks) > 1 or not ends
        return {"type": "http.request", "body": chunks.pop(0), "more_body": more}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
    }
    return Request(scope, receive)


def ask(*args: Any, served: Service | None = None, **kwargs: Any) -> Response:
    return asyncio.run((served or service())(request(*args, **kwargs)))


def refusal(answer: Response) -> tuple[int, dict[str, str]]:
    values = json.loads(bytes(answer.body))
    assert set(values) == {"error", "value", "remedy"}
    return answer.status_code, values


def encoded(image: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, **({"format": "PNG"} | options))
    return content.getvalue()


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_an_image_is_answered_with_its_areas_and_its_mask(image: np.ndarray) -> None:
    label = image.argmax(axis=2)
    answer = json.loads(bytes(ask("POST", "/predict", encoded(image), headers=BYTES).body))
    assert (answer["width"], answer["height"]) == (30, 20)
    assert [area["pixels"] for area in answer["classes"]] == np.bincount(label.ravel()).tolist()
    assert sum(area["share"] for area in answer["classes"]) == pytest.approx(1)
    assert answer["classes"][1]["colour"] == "#0072b2"
    mask = Image.open(io.BytesIO(base64.b64decode(answer["mask"].partition(",")[2])))
    assert (mask.mode, np.array_equal(np.asarray(mask), label)) == ("P", True)
    assert set(answer["ms"]) == {"read", "decode", "predict", "encode", "total"}
    assert "photo" not in answer


def test_the_page_gets_small_pictures_too(image: np.ndarray) -> None:
    answer = json.loads(bytes(ask("POST", "/predict?pictures=1", encoded(image), headers=BYTES).body))
    assert answer["photo"].startswith("data:image/jpeg;base64,")
    assert answer["overlay"] != answer["photo"]


def test_pictures_of_a_large_image_are_small() -> None:
    large = np.zeros((2600, 1300, 3), np.uint8)
    found = pictures(large, np.ones((2600, 1300), np.uint8), LEGEND)
    sizes = {name: Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size for name, uri in found.items()}
    assert sizes == {"photo": (640, 1280), "overlay": (640, 1280)}


def test_an_orientation_is_said_and_not_applied(image: np.ndarray) -> None:
    exif = Image.Exif()
    exif[274] = 6
    answer = json.loads(bytes(ask("POST", "/predict", encoded(image, exif=exif), headers=BYTES).body))
    assert (answer["width"], answer["height"], answer["warnings"]) == (30, 20, [TURNED])


def test_health_says_what_is_served_and_what_waits() -> None:
    assert json.loads(bytes(ask("GET", "/health").body)) == {"status": "ok", "device": "cpu", "waiting": 0}


def test_every_answer_forbids_frames_and_guessing(image: np.ndarray) -> None:
    for answer in (ask("GET", "/"), ask("GET", "/nowhere"), ask("POST", "/mask", encoded(image), headers=BYTES)):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "target", "headers", "status", "value"),
    [
        ("GET", "/nowhere", {}, 404, "/nowhere"),
        ("GET", "/predict", {}, 405, "GET"),
        ("PUT", "/mask", {}, 405, "PUT"),
        ("OPTIONS", "/predict", {"origin": "http://evil.example"}, 405, "OPTIONS"),
        ("GET", "/health", {"host": "evil.example"}, 403, "Host: evil.example"),
        ("GET", "/health", {"host": "localhost.evil.example:8000"}, 403, "Host: localhost.evil.example:8000"),
        ("POST", "/predict", {"origin": "http://evil.example"}, 403, "Origin: http://evil.example"),
        ("POST", "/predict", {"origin": "null"}, 403, "Origin: null"),
        ("POST", "/predict", {"origin": "http://localhost:9999"}, 403, "Origin: http://localhost:9999"),
        ("POST", "/predict", {"sec-fetch-site": "cross-site"}, 403, "Sec-Fetch-Site: cross-site"),
        ("POST", "/predict", {"content-type": "text/plain"}, 415, "Content-Type: text/plain"),
        ("POST", "/predict", {"content-type": "multipart/form-data; boundary=x"}, 415, "Content-Type: multipart/form-"),
        ("POST", "/predict?pictures=2", {}, 400, "pictures=2"),
    ],
)
def test_a_wrong_request_is_refused(method: str, target: str, headers: Any, status: int, value: str) -> None:
    found, said = refusal(ask(method, target, b"x", headers=headers))
    assert found == status
    assert said["value"].startswith(value)


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, {"host": "[::1]:8000"}]
)
def test_its_own_page_and_programs_are_served(headers: Any, image: np.ndarray) -> None:
    assert ask("POST", "/mask", encoded(image), headers={**BYTES, **headers}).status_code == 200


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("content", "status", "error", "value"),
    [
        (lambda: b"", 400, "the body must be an image", "0 bytes"),
        (lambda: b"%PDF-1.7 no image", 415, f"a file must be one of {', '.join(FORMATS)}", "a file that is none"),
        (
            lambda: encoded(noise(90))[:9000],
            400,
            "a file must be a whole image",
            "cannot be decoded (image file is tru",
        ),
        (lambda: encoded(noise(101)), 413, "an image must have at most 0.01 megapixels", "101 x 101 pixels"),
        (lambda: bytes(MIB + 1), 413, "a file must have at most 1 MiB", "a larger one"),
        (
            lambda: encoded(noise(20)[..., 0].astype(np.uint16)),
            400,
            "a file must be a whole image",
            "images must have 8",
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(content: Any, status: int, error: str, value: str) -> None:
    found, said = refusal(ask("POST", "/predict", content(), headers=BYTES))
    assert (found, said["error"].startswith(error), said["value"].startswith(value)) == (status, True, True), said
    assert said["remedy"]


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(np.zeros((3000, 3000), np.uint8))
    assert len(bomb) < MIB
    assert refusal(ask("POST", "/predict", bomb, headers=BYTES))[0] == 413


def test_a_body_without_end_is_not_held_and_not_read_for_ever() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += MIB
            yield bytes(MIB)

    with pytest.raises(Refused, match="at most 1 MiB"):
        asyncio.run(read_body(endless(), LIMITS))
    assert taken < 10 * MIB


def test_a_body_that_stalls_is_given_up() -> None:
    status, said = refusal(ask("POST", "/predict", [b"a", b"b"], headers=BYTES))
    assert (status, said["value"]) == (408, "2 bytes by then")


def test_who_comes_when_all_places_are_taken_is_told_so(image: np.ndarray) -> None:
    go = asyncio.Event()

    async def slow(one: np.ndarray) -> Predicted:
        await go.wait()
        return await brightest(one)

    async def scene() -> list[Response]:
        served = service(slow)
        asked = lambda: served(request("POST", "/mask", encoded(image), BYTES))  # noqa: E731
        waiting = [asyncio.create_task(asked()) for _ in range(2)]
        while json.loads(bytes((await served(request("GET", "/health"))).body))["waiting"] < 2:
            await asyncio.sleep(0.001)
        third = await asked()
        go.set()
        return [third, *[await one for one in waiting], await asked()]

    third, *others = asyncio.run(scene())
    assert refusal(third) == (
        503,
        {"error": "at most 2 images may be in the server", "value": "2 already", "remedy": "send it again in a moment"},
    )
    assert third.headers["retry-after"] == "1"
    assert [one.status_code for one in others] == [200, 200, 200]


@pytest.mark.parametrize("failure", [RuntimeError("secret path /home/x"), KeyError("k")])
def test_a_fault_of_the_server_is_told_without_its_traceback(
    failure: Exception, image: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: np.ndarray) -> Predicted:
        raise failure

    status, said = refusal(ask("POST", "/predict", encoded(image), headers=BYTES, served=service(broken)))
    assert (status, said["value"]) == (500, f"{type(failure).__name__} in the server")
    assert "Traceback" in caplog.text


def test_the_palette_of_a_mask_is_the_bundles(image: np.ndarray) -> None:
    mask = Image.open(io.BytesIO(bytes(ask("POST", "/mask", encoded(image), headers=BYTES).body)))
    colours: Callable[..., Any] = lambda picture: np.asarray(picture.convert("RGB")).reshape(-1, 3)  # noqa: E731
    assert {tuple(colour) for colour in colours(mask).tolist()} <= {tuple(c) for c in LEGEND.colours.tolist()}
