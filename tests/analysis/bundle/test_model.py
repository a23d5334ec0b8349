"""A bundle from Python: what it takes, what it refuses, how much it imports, and that the guide's lines run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import TinyRun
from PIL import Image

from analysis.bundle import Model, load
from analysis.bundle.manifest import BundleError

GUIDE = Path(__file__).parents[3] / "docs" / "guide.md"
LIGHT = """
import sys
from analysis.bundle import load
heavy = {"torch", "timm", "numba", "ray", "scipy", "cv2"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Model:
    return load(tiny_bundle, device="cpu")


def test_paths_pictures_and_arrays_give_the_same_labels(model: Model, tiny_run: TinyRun, photos: Path) -> None:
    pixels = tiny_run.images["a.png"]
    given = [photos / "a.png", str(photos / "a.png"), Image.open(photos / "a.png"), Image.fromarray(pixels), pixels]
    labels = [model(photo) for photo in given]
    assert (labels[0].shape, labels[0].dtype, model.classes) == ((70, 90), np.uint8, tiny_run.ensemble.classes)
    for label in labels[1:]:
        np.testing.assert_array_equal(label, labels[0])
    assert model.probabilities(pixels).shape == (3, 70, 90)


def test_what_is_no_photo_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    grey, deep = np.zeros((8, 8), np.uint8), Image.new("I;16", (8, 8))
    for photo, message in (
        (tmp_path / "none.jpg", "where there is none"), (tmp_path / "text.jpg", "cannot be read as an image"),
        (grey, r"uint8 \(H,W,3\)"), (deep, "8 bits a channel, got mode 'I;16'"), (7, "got int"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model(photo)  # type: ignore[arg-type]


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"a bundle is a folder that holds bundle\.json"):
        load(tmp_path)


def test_the_import_is_light() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_the_lines_of_the_guide_run(
    tiny_bundle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    [code] = [block for block in blocks if "import load" in block]
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "bundle").symlink_to(tiny_bundle)
    Image.open(photos / "a.png").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found: dict[str, np.ndarray] = {}
    exec(code, {}, found)  # noqa: S102
    assert found["labels"].shape == (70, 90)
