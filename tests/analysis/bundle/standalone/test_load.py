"""load.py of a bundle, in a process that cannot import this project, gives the labels of the project's predictor."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from factories import with_shipped
from numpy.typing import NDArray
from PIL import Image

from analysis.bundle import standalone
from analysis.bundle.export import BundleFacts, export
from analysis.bundle.manifest import read_bundle
from analysis.bundle.predictor import Predictor
from analysis.postprocess.options import Postprocess

FACTS = BundleFacts("trash", "data", "split", flip_pairs=((1, 2),))
RULES = ("best_single", "hard_vote", "geometric_mean", "member_class")
VIEWS = (("s1.00-none", "s1.00-horizontal"), ("s1.25-r90-vertical",), ("s1.50-none", "s0.75-r180-none"))
ALONE = """
import sys
for name in ("analysis", "search", "trainables", "segmentation_models_pytorch", "cv2", "numba", "pydantic", "ray"):
    sys.modules[name] = None  # to import it is an ImportError
import numpy as np
images = dict(np.load(sys.argv[1]))
found = {}
for folder in sys.argv[3:]:
    sys.path.insert(0, folder)
    from load import load
    bundle = load(folder)
    found |= {f"{folder}|{name}": bundle(image) for name, image in images.items()}
np.savez(sys.argv[2], **found)
"""


@pytest.fixture(scope="module")
def bundles(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle per rule, members in scaled, turned and mirrored views, the last one the mean of two networks."""
    folder = tmp_path_factory.mktemp("bundles")
    rules = tuple(rule.model_copy(update={"views": VIEWS}) for rule in tiny_run.ensemble.rules)
    ensemble = tiny_run.ensemble.model_copy(update={"rules": rules})
    twice = tmp_path_factory.mktemp("folds")
    paths = []
    for fold in range(2):
        for suffix in (".safetensors", ".json"):
            content = tiny_run.weights["0002"][0].with_suffix(suffix).read_bytes()
            (twice / f"fold-{fold}{suffix}").write_bytes(content)
        paths.append(twice / f"fold-{fold}.safetensors")
    weights = {**tiny_run.weights, "0002": tuple(paths)}
    return {name: export(FACTS, with_shipped(ensemble, name), weights, folder / name) for name in RULES}


def test_labels_are_the_predictors(tiny_run: Any, bundles: dict[str, Path], tmp_path: Path) -> None:
    names = {name.replace("/", "-"): image for name, image in tiny_run.images.items()}
    np.savez(tmp_path / "images.npz", **names)
    files = tmp_path / "images.npz", tmp_path / "labels.npz"
    command = [sys.executable, "-c", ALONE, *map(str, (*files, *bundles.values()))]
    subprocess.run(command, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"}, check=True)
    found = np.load(tmp_path / "labels.npz")
    for folder in bundles.values():
        predictor = Predictor(read_bundle(folder), device="cpu", batch_size=1)
        for name, image in names.items():
            label = found[f"{folder}|{name}"]
            assert label.dtype == np.uint8
            expected = predictor.predict(image)
            assert (label == expected).mean() > 0.9995, folder.name
            assert len(np.unique(expected)) > 1


@pytest.fixture
def load_py(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The names of load.py, whose neighbour is importable beside it alone."""
    monkeypatch.syspath_prepend(str(standalone.FOLDER))
    return runpy.run_path(str(standalone.FOLDER / "load.py"))


def test_the_command_writes_a_palette_png(
    tiny_run: Any, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(tiny_run.images["a.png"]).save(tmp_path / "photo.png")
    monkeypatch.syspath_prepend(str(bundles["best_single"]))
    monkeypatch.setattr(sys, "argv", ["load.py", str(tmp_path / "photo.png"), str(tmp_path / "label.png")])
    runpy.run_path(str(bundles["best_single"] / "load.py"), run_name="__main__")
    manifest = read_bundle(bundles["best_single"]).manifest
    with Image.open(tmp_path / "label.png") as png:
        assert (png.mode, png.size) == ("P", (90, 70))
        assert png.getpalette()[:9] == [value for colour in manifest.palette for value in colour]


def post_processed(ensemble: Any) -> Any:
    """The best single model with removed components and filled holes, which ships."""
    of = ensemble.rule("best_single")
    sizes = Postprocess(min_component=(0.01, 0.02, 0.01), max_hole=(0.0, 0.02, 0.01))
    row = of.model_copy(update={"name": "postprocessed", "of": of.name, "postprocess": sizes})
    return with_shipped(ensemble.model_copy(update={"rules": (*ensemble.rules, row)}), "postprocessed")


def test_label_maps_are_post_processed(tiny_run: Any, load_py: Any, tmp_path: Path) -> None:
    folder = export(FACTS, post_processed(tiny_run.ensemble), tiny_run.weights, tmp_path / "bundle")
    predictor, alone = Predictor(read_bundle(folder), device="cpu", batch_size=1), load_py["load"](folder)
    plain = export(FACTS, with_shipped(tiny_run.ensemble, "best_single"), tiny_run.weights, tmp_path / "plain")
    before = load_py["load"](plain)
    labels = [(alone(image), predictor.predict(image), before(image)) for image in tiny_run.images.values()]
    assert all((found == expected).mean() > 0.9995 for found, expected, _ in labels)
    assert any((found != raw).any() for found, _, raw in labels)


def test_what_it_lacks_is_refused_and_the_readme_says_so(tiny_run: Any, load_py: Any, tmp_path: Path) -> None:
    tiles = (("s1.00-t64o25-none",),) * 3
    rules = tuple(rule.model_copy(update={"views": tiles}) for rule in tiny_run.ensemble.rules)
    ensemble = with_shipped(tiny_run.ensemble.model_copy(update={"rules": rules}), "best_single")
    folder = export(FACTS, ensemble, tiny_run.weights, tmp_path / "bundle")
    with pytest.raises(ValueError, match=r"load.py lacks a view in tiles; use `segsearch predict"):
        load_py["load"](folder)
    assert "cannot read this bundle: it lacks a view in tiles" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(64, 96), (128, 160), (32, 64), (320, 352)])
def test_images_are_resized_as_opencv_does(load_py: Any, size: tuple[int, int]) -> None:
    image: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(load_py["resize_image"](image, list(size)), expected)


def test_it_is_short() -> None:
    assert len((standalone.FOLDER / "load.py").read_text(encoding="utf-8").splitlines()) < 100
