"""From a request to pixels: who may ask, how much is read, what is an image."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator, Mapping

from search.serving.limits import Limits, Refused
from trainables.data.image_file import FORMATS, DecodedImage, TooManyPixels, UnknownFormat, decode_opened

LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
BYTES_ALONE = re.compile(r"application/octet-stream|image/[\w.+-]+", re.IGNORECASE)
DISCARDED = (
    4  # times the limit: a body that is too long is read on so far, since a client that still sends hears nothing
)
SHOWN = "the upload"


def check_host(headers: Mapping[str, str]) -> None:
    """Refuse names that another site's DNS may point to this machine (rebinding)."""
    host = headers.get("host", "")
    if not LOOPBACK.fullmatch(host):
        rule = "this server must be asked as localhost or 127.0.0.1"
        raise Refused(403, rule, f"Host: {host:.100}", "use the address that `segsearch serve` printed")


def check_origin(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another origin sends: browsers name it, other clients send no such header."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    own = f"http://{headers.get('host', '')}"
    if (origin is not None and origin.lower() != own.lower()) or site not in ("same-origin", "none"):
        found = f"Origin: {origin:.100}" if origin is not None else f"Sec-Fetch-Site: {site:.20}"
        raise Refused(403, "images must come from this server's own page or from a program", found, f"open {own}/")


def check_content_type(headers: Mapping[str, str]) -> None:
    """The body is one file. Forms would need a parser, and are what a page of another origin may send unasked."""
    given = headers.get("content-type")
    if given is not None and not BYTES_ALONE.fullmatch(given.partition(";")[0].strip()):
        rule = "the body must be an image's bytes alone, as image/* or application/octet-stream"
        remedy = "for example: curl --data-binary @photo.jpg -H 'Content-Type: application/octet-stream'"
        raise Refused(415, rule, f"Content-Type: {given:.100}", remedy)


async def read_body(stream: AsyncIterator[bytes], limits: Limits) -> bytes:
    """The whole body; no more than the limit is ever held."""
    kept: list[bytes] = []
    count = 0
    try:
        async with asyncio.timeout(limits.read_s):
            async for chunk in stream:
                count += len(chunk)
                if count > limits.upload_bytes:
                    kept.clear()
                else:
                    kept.append(chunk)
                if count > DISCARDED * limits.upload_bytes:
                    break
    except TimeoutError as error:
        rule = f"a body must arrive within {limits.read_s:g} s"
        raise Refused(408, rule, f"{count} bytes by then", "send it again") from error
    if count > limits.upload_bytes:
        rule = f"a file must have at most {limits.upload_mib} MiB"
        raise Refused(413, rule, "a larger one", "save it smaller, or start the server with a larger --max-upload-mib")
    if count == 0:
        raise Refused(400, "the body must be an image", "0 bytes", "send a file")
    return b"".join(kept)


def decode(content: bytes, limits: Limits) -> DecodedImage:
    """The image, with its pixels as stored. Raises Refused before anything large is decoded."""
    try:
        return decode_opened(lambda: io.BytesIO(content), SHOWN, limits.pixels)
    except UnknownFormat as error:
        rule = f"a file must be one of {', '.join(FORMATS)}"
        raise Refused(415, rule, "a file that is none of them", "convert it to 8-bit RGB PNG") from error
    except TooManyPixels as error:
        rule = f"an image must have at most {limits.megapixels:g} megapixels"
        remedy = "cut it into tiles, or start the server with a larger --max-megapixels"
        raise Refused(413, rule, _size(error), remedy) from error
    except ValueError as error:
        value, _, remedy = str(error).removeprefix(f"{SHOWN}: ").rpartition("; ")
        raise Refused(400, "a file must be a whole image of 8 bits a channel", value, remedy) from error


def _size(error: TooManyPixels) -> str:
    found = re.search(r"got (\d+ x \d+)", str(error))
    return f"{found[1]} pixels" if found else "more than can be decoded"
