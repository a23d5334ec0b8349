"""Renders a template to one offline HTML file: the same style, script and plotly.js for every page.

A page, and where asked its facts as JSON beside it, is written whole or not at all. Every name in a page is data and
escaped.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image as Pillow

from analysis.report.palette import Colours, paint
from trainables import files
from trainables.data.index import IGNORE_INDEX

TEMPLATES = Path(__file__).parent / "templates"
# plotly.js's bundle of flat charts, a third of the whole (MIT, see plotly-cartesian.LICENSE); as released with the
# version that the Python package plotly holds: `npm pack plotly.js-cartesian-dist-min@VERSION`
PLOTLY_JS = TEMPLATES / "plotly-cartesian.min.js"
TINT = 0.55  # of a class's colour over the photograph


def template_environment(filters: Mapping[str, Callable[..., Any]]) -> Environment:
    """The environment of all templates: everything is escaped, and a missing value is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment


def write_page(
    out: Path,
    template: str,
    values: Mapping[str, Any],
    figures: Mapping[str, str],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> None:
    """Render `template` to `out`, whose folder is made; arguments as of `render_page`."""
    write_text(out, render_page(template, values, figures, filters))


def render_page(
    template: str,
    values: Mapping[str, Any],
    figures: Mapping[str, str],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """The whole page as text.

    Args:
        figures: Name -> a figure as JSON in which `charts.safe_json` has escaped what could begin markup.
        filters: Filters of the template besides `count`, `percent` and `three`.
    """
    environment = template_environment({"count": _count, "percent": _percent, "three": _three, **(filters or {})})
    style, pages, script = (
        (TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "pages.css", "report.js")
    )
    return environment.get_template(template).render(
        **values,
        figures={name: Markup(figure) for name, figure in figures.items()},  # noqa: S704 escaped, see above
        style=Markup(style + pages),  # noqa: S704
        script=Markup(script),  # noqa: S704
        plotly=Markup(PLOTLY_JS.read_text(encoding="utf-8")) if figures else None,  # noqa: S704
    )


def write_facts(out: Path, facts: Mapping[str, Any]) -> None:
    """Write a page's facts as JSON."""
    write_text(out, json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(out: Path, text: str) -> None:
    """Write `text` whole or not at all. Raises ValueError where the place cannot be written to."""
    try:
        files.write_text(out, text)
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error.strerror or error}); choose another place") from error


def photograph(image: NDArray[np.uint8], max_px: int, quality: int = 78) -> str:
    """RGB (H,W,3) -> a JPEG data URI no longer than `max_px` a side."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(image, max_px, quality)).decode('ascii')}"


def jpeg(image: NDArray[np.uint8], max_px: int | None = None, quality: int = 78) -> bytes:
    """RGB (H,W,3) -> a JPEG file, made no longer than `max_px` a side."""
    picture = Pillow.fromarray(np.ascontiguousarray(image))
    if max_px is not None:
        picture.thumbnail((max_px, max_px), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="jpeg", quality=quality, optimize=True)
    return buffer.getvalue()


def tinted(
    image: NDArray[np.uint8], label: NDArray[np.uint8], colours: Colours, *, background: bool
) -> NDArray[np.uint8]:
    """The photograph (H,W,3) under the colours of its label (H,W); background and ignored pixels stay as they are."""
    shown = label != IGNORE_INDEX
    if background:
        shown &= label != 0
    mixed = image.astype(np.float32)
    mixed[shown] = (1 - TINT) * mixed[shown] + TINT * paint(label, colours)[shown]
    return mixed.astype(np.uint8)


def stencil(values: NDArray[np.floating]) -> str:
    """(h,w) in 0 to 1 -> a PNG data URI of opacities, to be used as a mask over any colour of the page."""
    alpha = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(np.dstack([np.zeros_like(alpha), alpha])).save(buffer, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    """A share as a percentage with two significant digits at least: rare classes matter here."""
    if value is None:
        return "–"
    if value == 0:
        return "0%"
    if value >= 0.001:
        return f"{value:.1%}" if value >= 0.0995 else f"{value:.2%}"
    digits = 1 - math.floor(math.log10(100 * value))
    return f"{value:.{digits}%}"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
