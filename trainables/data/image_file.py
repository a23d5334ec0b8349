"""Reads image files: which kinds are read, what is refused or warned of, and the pixels, uint8 RGB (H,W,3).

One rule for every format, in training and in prediction: pixels are taken as they are stored. An orientation tag is
reported and never applied; transparency is reported and its colours are read. What has no 8-bit RGB pixels of its own
(more bits a channel, other bands than grey or colour, colours multiplied by alpha) is refused, never converted.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PpmImagePlugin, TiffImagePlugin, UnidentifiedImageError

EDGE_BYTES = 64 * 1024
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
BROKEN = (OSError, SyntaxError, RuntimeError, struct.error)  # what Pillow's readers raise
BROKEN_EXIF = (SyntaxError, ValueError, struct.error)

TURNED = "image with an EXIF orientation, not applied"
TRANSPARENT = "image with transparency, its colours read as stored"

# Pillow's names of the formats that are read, and the suffixes that such files have. No other plugin is tried: some
# start programs (EPS), and the rest decode what no camera or labelling tool writes.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpx"),
    "AVIF": (".avif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
}
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Pillow turns a TIFF by its tag when it decodes; these turn it back.
UNTURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
WIDTH, HEIGHT, BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = (
    256, 257, 258, 262, 274, 277, 338, 339,
)  # fmt: skip
COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # PhotometricInterpretation -> samples of a colour; 1 for all others
UNASSOCIATED = 2  # ExtraSamples: alpha beside colours that are not multiplied by it


class UnknownFormat(ValueError):
    """A file that is none of FORMATS."""


class TooManyPixels(ValueError):
    """An image with more pixels than the caller takes, or than Pillow decodes."""


@dataclass(frozen=True)
class ImageFile:
    """Facts from the head and the tail of an image file, as stored, without decoding it."""

    height: int
    width: int
    orientation: int  # EXIF; 1 is upright
    warnings: tuple[str, ...]  # rules that the file bends
    digest: str  # of its length and its first and last 64 KiB


@dataclass(frozen=True)
class DecodedImage:
    """An image as stored, RGB uint8 (H,W,3), and the rules that its file bends."""

    pixels: NDArray[np.uint8]
    warnings: tuple[str, ...]


def probe_image(path: Path) -> ImageFile:
    """Probe an image file cheaply. Raises ValueError for one that is missing, cut short or not read (see above)."""
    if not path.is_file():
        raise ValueError(f"no file at {path}; add it, correct root, or take the image out of the JSON")
    with _opened(lambda: path.open("rb")) as (stream, image):
        width, height = _stored_size(image)
        size, head, tail = _edges(stream)
        mark = END_MARKS.get(image.format or "")
        if mark is not None and mark not in tail:
            _refuse_cut(image, size)
        digest = hashlib.blake2b(head + tail + str(size).encode(), digest_size=16).hexdigest()
        return ImageFile(height, width, _orientation(image), _warnings(image), digest)


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of `decode_image` alone: RGB uint8 (H,W,3)."""
    return decode_image(path).pixels


def decode_image(path: Path) -> DecodedImage:
    """Decode one image: its pixels as stored, its orientation not applied.

    Raises ValueError naming the file for one that is missing, truncated (OpenCV would return it half grey), or
    refused (see above). Every part that shows a model a picture reads it here, so that a prediction sees the same
    pixels as training did.
    """
    return decode_opened(lambda: path.open("rb"), str(path))


def decode_opened(opener: Callable[[], BinaryIO], shown: str, max_pixels: int | None = None) -> DecodedImage:
    """`decode_image` of an image that is no file of its own, such as a member of an archive. `opener` gives a stream
    that can seek, or raises OSError; `shown` names it in errors.

    Raises UnknownFormat and TooManyPixels, which are ValueErrors, as well; the latter before anything is decoded.
    """
    with _named(shown), _opened(opener) as (_, image):
        if max_pixels is not None and image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height}"
            raise TooManyPixels(f"an image must have at most {max_pixels} pixels, got {size}; cut it into tiles")
        try:
            orientation, warnings = _orientation(image), _warnings(image)
            image.load()
        except BROKEN as error:
            raise ValueError(f"cannot be decoded ({error}); copy the file again") from error
        stored: Image.Image = image
        turned = isinstance(image, TiffImagePlugin.TiffImageFile) and ORIENTATION not in image.tag_v2
        if turned and orientation in UNTURN:
            stored = image.transpose(UNTURN[orientation])
        return DecodedImage(np.array(stored.convert("RGB")), warnings)


def size_of_opened(opener: Callable[[], BinaryIO], shown: str) -> tuple[int, int]:
    """Height and width in px of what `decode_opened` would give, from the head of the file. ValueError as there, as far
    as the head tells."""
    with _named(shown), _opened(opener) as (_, image):
        width, height = _stored_size(image)
        return height, width


@contextmanager
def _named(shown: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        kind = type(error) if isinstance(error, (UnknownFormat, TooManyPixels)) else ValueError
        raise kind(f"{shown}: {error}") from error


@contextmanager
def _opened(opener: Callable[[], BinaryIO]) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """The file and its image, not yet decoded. Raises ValueError where it is none, or one that is refused."""
    empty = False
    try:
        with opener() as stream:
            empty = stream.seek(0, os.SEEK_END) == 0
            stream.seek(0)
            fault = _tiff_fault(stream)  # before Pillow, which says no more of many bands than that it knows no such
            if fault is not None:
                raise ValueError(fault)
            stream.seek(0)
            with Image.open(stream, formats=list(FORMATS)) as image:
                _refuse_deep(image, stream)
                yield stream, image
    except UnidentifiedImageError as error:
        reason = "it is empty; copy it again" if empty else f"none of {', '.join(FORMATS)}; convert it to 8-bit RGB PNG"
        raise UnknownFormat(f"the file cannot be read as an image ({reason}, or take it out)") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"the image is too large ({error}); cut it into tiles") from error
    except MemoryError as error:
        raise ValueError("the image claims more memory than there is; save it again, or cut it into tiles") from error
    except BROKEN as error:
        raise ValueError(f"the file cannot be read as an image ({error}); copy it again") from error


def _refuse_cut(image: Image.Image, size: int) -> None:
    """The end mark is not at the end: cut short, or something else was appended (a phone's film, a signature)."""
    try:
        image.load()
    except BROKEN as error:
        raise ValueError(f"the file is cut short after {size} bytes; copy it again") from error


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as stored; Pillow gives those of a TIFF as it is to be shown."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[WIDTH]), int(image.tag_v2[HEIGHT])
    return image.size


def _orientation(image: Image.Image) -> int:
    try:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            tag = image.tag_v2.get(ORIENTATION, 1)
        else:
            tag = image.getexif().get(ORIENTATION, 1)
    except BROKEN_EXIF:  # broken EXIF says nothing, and the pixels may still be sound
        return 1
    return tag if isinstance(tag, int) else 1


def _warnings(image: Image.Image) -> tuple[str, ...]:
    found = [(TURNED, _orientation(image) != 1), (TRANSPARENT, image.has_transparency_data)]
    return tuple(rule for rule, holds in found if holds)


def _edges(stream: BinaryIO) -> tuple[int, bytes, bytes]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(EDGE_BYTES)
    stream.seek(max(0, size - EDGE_BYTES))
    return size, head, stream.read(EDGE_BYTES)


def _refuse_deep(image: Image.Image, stream: BinaryIO) -> None:
    """Pillow opens much as RGB of which it keeps the high byte alone."""
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"images must have 8 bits a channel, got mode {image.mode!r}; convert it to 8-bit RGB")
    bits_of = BITS_OF.get(image.format or "")
    if bits_of is not None:
        place = stream.tell()
        stream.seek(0)
        bits = bits_of(image, stream.read(EDGE_BYTES))
        stream.seek(place)
        if bits > 8:
            raise ValueError(f"images must have 8 bits a channel, got {bits}; convert it to 8-bit RGB")


def _png_bits(_image: Image.Image, head: bytes) -> int:
    return head[24]


def _ppm_bits(image: Image.Image, _head: bytes) -> int:
    assert isinstance(image, PpmImagePlugin.PpmImageFile), "Pillow has one reader of PPM"
    arguments = image.tile[0].args
    largest = arguments[-1] if isinstance(arguments, tuple) else 0
    return largest.bit_length() if isinstance(largest, int) else 8


def _jpeg2000_bits(_image: Image.Image, head: bytes) -> int:
    """The largest depth of a component, from the SIZ marker of the code stream, or else from the header box."""
    at = head.find(b"\xff\x4f\xff\x51")
    if at >= 0:
        count = int.from_bytes(head[at + 40 : at + 42], "big")
        depths = head[at + 42 : at + 42 + 3 * count : 3]
    else:
        box = head.find(b"ihdr")
        depths = head[box + 14 : box + 15]
    return max(((depth & 0x7F) + 1 for depth in depths), default=8)


def _avif_bits(_image: Image.Image, head: bytes) -> int:
    if b"\0\0\0\x0eprem" in head:
        raise ValueError("the colours are multiplied by alpha; save the image without transparency")
    at = head.find(b"av1C")
    return 10 if at >= 0 and head[at + 6 : at + 7] > b"" and head[at + 6] & 0x40 else 8


BITS_OF: dict[str, Callable[[Image.Image, bytes], int]] = {
    "PNG": _png_bits,
    "PPM": _ppm_bits,
    "JPEG2000": _jpeg2000_bits,
    "AVIF": _avif_bits,
}


def _tiff_fault(stream: BinaryIO) -> str | None:
    """Why a TIFF is refused by its first directory, with the remedy; None where it is read, or is no TIFF."""
    head = stream.read(16)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head if 43 in head[2:4] else head[:8])
        stream.seek(tags.next)
        tags.load(stream)
        samples, photometric = int(tags.get(SAMPLES, 1)), int(tags.get(PHOTOMETRIC, 1))
        bits, extra = (tags.get(key, ()) for key in (BITS, EXTRA_SAMPLES))
        kinds = tags.get(SAMPLE_FORMAT, (1,))
    except (*BROKEN_EXIF, OSError, TypeError, KeyError, OverflowError):
        return None  # Pillow has the words for a broken one
    bits, extra, kinds = (each if isinstance(each, tuple) else (each,) for each in (bits, extra, kinds))
    if not all(isinstance(each, int) for each in (*bits, *extra, *kinds)):
        return "its first directory is broken; copy it again"
    if any(each > 8 for each in bits):
        return f"images must have 8 bits a channel, got {max(bits)}; convert it to 8-bit RGB"
    if any(kind not in (1, 4) for kind in kinds):
        return f"images must have whole numbers from 0 to 255, got a TIFF of SampleFormat {kinds[0]}; convert it"
    beyond = samples - COLOURS.get(photometric, 1)
    if beyond > 0 and (beyond > 1 or tuple(extra[:1]) != (UNASSOCIATED,)):
        if beyond == 1 and tuple(extra[:1]) == (1,):
            return "the colours are multiplied by alpha (ExtraSamples 1); save the image without transparency"
        return (
            f"images must be grey or RGB, got {samples} bands, {beyond} of them beyond its colours; write the three "
            "bands to be used as an 8-bit RGB image (for example gdal_translate -b 1 -b 2 -b 3)"
        )
    return None
