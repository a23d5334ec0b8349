"""Image files: pixels as stored whatever the format, and what is refused instead of being converted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from trainables.data.image_file import SUFFIXES, TRANSPARENT, TURNED, decode_image, probe_image, read_image


def noise(height: int = 24, width: int = 32, bands: int = 3, dtype: Any = np.uint8) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, bands), dtype=dtype)


def write_tiff(path: Path, pixels: np.ndarray[Any, Any], **tags: Any) -> Path:
    """One directory and an uncompressed strip behind it; bands beyond RGB are of the kind `extra`."""
    height, width, bands = pixels.shape
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory.update({256: width, 257: height, 258: (8 * pixels.itemsize,) * bands, 259: 1, 262: tags.get("kind", 2)})
    directory.update({273: 0, 277: bands, 278: height, 279: pixels.nbytes})
    if bands > 3:
        directory[338] = (tags["extra"],) * (bands - 3)
    if "sample_format" in tags:
        directory[339] = (tags["sample_format"],) * bands
    path.write_bytes(b"II*\0\x08\0\0\0" + directory.tobytes(8) + pixels.tobytes())
    return path


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_a_tiff_is_read_as_stored_whatever_its_orientation(tmp_path: Path, tag: int, compression: str | None) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.tif", tiffinfo={274: tag}, compression=compression)
    found = decode_image(tmp_path / "a.tif")
    assert np.array_equal(found.pixels, noise())
    assert found.warnings == ((TURNED,) if tag > 1 else ())
    probed = probe_image(tmp_path / "a.tif")
    assert (probed.height, probed.width, probed.warnings) == (24, 32, found.warnings)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif", ".jpg", ".mpo"])
def test_no_format_is_turned(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    smooth = np.dstack([np.tile(np.linspace(a, 255 - a, 32), (24, 1)) for a in (0, 60, 200)]).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a{suffix}", exif=exif)
    found = decode_image(tmp_path / f"a{suffix}")
    assert found.warnings == (TURNED,)
    assert np.abs(found.pixels.astype(int) - smooth).mean() < 8


@pytest.mark.parametrize("name", ["rgb.png", "rgba.png", "grey.png", "rgb.tif", "rgb.ppm", "rgb.jp2", "grey.pgm"])
def test_sixteen_bits_are_refused(tmp_path: Path, name: str) -> None:
    bands = {"rgb": 3, "rgba": 4, "grey": 1}[name.split(".")[0]]
    assert cv2.imwrite(str(tmp_path / name), noise(64, 64, bands, np.uint16))
    for read in (probe_image, read_image):
        with pytest.raises(ValueError, match=r"must have 8 bits a channel.*convert it to 8-bit RGB"):
            read(tmp_path / name)


def test_ten_bits_and_multiplied_alpha_in_an_avif_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    Image.fromarray(noise(bands=4)).save(path, alpha_premultiplied=True)
    with pytest.raises(ValueError, match="multiplied by alpha"):
        probe_image(path)
    Image.fromarray(noise()).save(path)
    content = path.read_bytes().replace(b"pixi\0\0\0\0\3\x08\x08\x08", b"pixi\0\0\0\0\3\x0a\x0a\x0a")
    at = content.index(b"av1C") + 6
    path.write_bytes(content[:at] + bytes([content[at] | 0x40]) + content[at + 1 :])
    with pytest.raises(ValueError, match="8 bits a channel, got 10"):
        probe_image(path)


@pytest.mark.parametrize(
    ("bands", "extra", "message"),
    [(4, 0, "got 4 bands, 1 of them"), (4, 1, "multiplied by alpha"), (5, 0, "got 5 bands"), (8, 0, "got 8 bands")],
)
def test_more_bands_than_colours_are_refused(tmp_path: Path, bands: int, extra: int, message: str) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(bands=bands), extra=extra)
    for read in (probe_image, read_image):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert "copy" not in str(caught.value)


def test_bands_of_a_grey_tiff_and_signed_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 3 bands, 2 of them"):
        probe_image(write_tiff(tmp_path / "a.tif", noise(), kind=1))
    with pytest.raises(ValueError, match="SampleFormat 2"):
        probe_image(write_tiff(tmp_path / "a.tif", noise(), sample_format=2))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_transparency_is_warned_of_and_leaves_the_colours_alone(tmp_path: Path, name: str) -> None:
    rgba = np.dstack([noise(), np.tile(np.arange(32, dtype=np.uint8), (24, 1))])
    if name == "a.tif":
        write_tiff(tmp_path / name, rgba, extra=2)
    else:
        Image.fromarray(rgba).save(tmp_path / name, lossless=True, exact=True)
    found = decode_image(tmp_path / name)
    assert np.array_equal(found.pixels, noise())
    assert found.warnings == probe_image(tmp_path / name).warnings == (TRANSPARENT,)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_bytes_behind_the_end_are_no_fault_and_a_cut_is_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(300, 300)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"film" * 20_000)
    assert probe_image(path).height == 300
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short"):
        probe_image(path)
    with pytest.raises(ValueError, match=rf"a\{suffix}: cannot be decoded .*copy the file again"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty; copy it again"), (b"no picture", "convert it"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "convert it")],
)
def test_what_is_no_image_is_refused_with_a_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot be read as an image .*{message}"):
        probe_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_of_the_list_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    kinds: dict[str, Callable[[], None]] = {
        ".pgm": lambda: Image.fromarray(noise()[..., 0]).save(path),
        ".pbm": lambda: Image.fromarray(noise()[..., 0] > 9).save(path),
    }
    kinds.get(suffix, lambda: Image.fromarray(noise()).save(path))()
    assert read_image(path).shape == (24, 32, 3)


def test_broken_exif_does_not_refuse_an_image(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg", exif=b"Exif\0\0broken")
    found = probe_image(tmp_path / "a.jpg")
    assert (found.height, found.width, found.orientation) == (3, 5, 1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_every_eight_bit_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (5, 3), (200, 200, 200)).convert(mode).save(tmp_path / f"a.{suffix}")
    pixels = read_image(tmp_path / f"a.{suffix}")
    assert pixels.shape == (3, 5, 3)
    assert (np.abs(pixels.astype(int) - 200) < 8).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp", ".gif", ".jp2", ".avif", ".ppm", ".tga"])
def test_broken_files_are_refused_and_nothing_else_is_raised(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise()).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(30):
        content = np.frombuffer(whole, np.uint8).copy()
        at = rng.integers(0, min(len(content), 200), 2)
        content[at] = rng.integers(0, 256, 2)
        path.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)].tobytes())
        for read in (probe_image, read_image):
            with contextlib.suppress(ValueError):
                read(path)
