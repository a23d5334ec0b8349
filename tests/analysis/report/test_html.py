"""Pages and the pictures in them, read back by a browser's decoders."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image
from plotly.offline import get_plotlyjs_version

from analysis.report import html
from analysis.report.palette import palette

COLOURS = palette(3, background=True)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


@pytest.mark.parametrize("size", [(400, 100), (10, 900), (30, 20)])
def test_a_photograph_fits_and_keeps_its_shape(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), (200, 30, 90), np.uint8)
    picture = decoded(html.photograph(image, 120))
    assert picture.format == "JPEG"
    assert max(picture.size) == min(120, max(size))
    shrunk = min(1, 120 / max(size))
    assert picture.size == pytest.approx((size[1] * shrunk, size[0] * shrunk), abs=0.5)
    np.testing.assert_allclose(np.asarray(picture).reshape(-1, 3).mean(0), (200, 30, 90), atol=3)


@pytest.mark.parametrize("background", [True, False])
def test_a_tint_mixes_a_classs_colour_and_leaves_what_has_none(background: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    label = np.array([[0, 1, 2, 255]] * 4, np.uint8)
    found = html.tinted(image, label, COLOURS, background=background)
    for x, k in enumerate((0, 1, 2)):
        mixed = (1 - html.TINT) * image[:, x] + html.TINT * COLOURS[k]
        expected = image[:, x] if background and k == 0 else mixed
        np.testing.assert_allclose(found[:, x], expected, atol=1)
    np.testing.assert_array_equal(found[:, 3], image[:, 3])


def test_a_stencil_is_a_png_whose_opacity_is_the_value() -> None:
    values = np.array([[0.0, 0.5, 1.0], [-1.0, 2.0, 0.2]])
    picture = decoded(html.stencil(values))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "LA", (3, 2))
    np.testing.assert_allclose(np.asarray(picture)[..., 1] / 255, values.clip(0, 1), atol=1 / 255)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"), (0, "0%"), (1, "100.0%"), (0.123, "12.3%"), (0.0312, "3.12%"), (0.001, "0.10%"),
        (0.000456, "0.046%"), (0.0000012, "0.00012%"),
    ],
)  # fmt: skip
def test_a_share_has_two_significant_digits_however_rare(share: float | None, text: str) -> None:
    environment = html.template_environment({"percent": html._percent})
    assert environment.from_string("{{ x|percent }}").render(x=share) == text


def test_names_are_escaped_and_a_missing_value_is_an_error() -> None:
    environment = html.template_environment({})
    assert environment.from_string("{{ x }}").render(x="<b>&") == "&lt;b&gt;&amp;"
    with pytest.raises(UndefinedError, match="absent"):
        environment.from_string("{{ absent }}").render()


def test_facts_are_json_that_every_reader_takes(tmp_path: Path) -> None:
    html.write_facts(tmp_path / "new" / "facts.json", {"name": "Ä", "share": 0.1})
    assert json.loads((tmp_path / "new" / "facts.json").read_text(encoding="utf-8")) == {"name": "Ä", "share": 0.1}
    with pytest.raises(ValueError, match="JSON"):
        html.write_facts(tmp_path / "nan.json", {"share": float("nan")})
    assert not (tmp_path / "nan.json").exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"page\.html cannot be written .*; choose another place"):
        html.write_text(tmp_path / "file" / "page.html", "x")


def test_plotly_js_is_no_older_than_what_the_figures_are_made_for() -> None:
    banner = html.PLOTLY_JS.read_text(encoding="utf-8")[:200]
    [major] = re.findall(r"plotly\.js \(cartesian - minified\) v(\d+)", banner)
    assert int(major) >= int(get_plotlyjs_version().split(".")[0])
