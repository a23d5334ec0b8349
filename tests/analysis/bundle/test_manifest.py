from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from factories import make_score

from analysis.bundle.manifest import BundleError, Scores, read_bundle, sha256_of
from analysis.report.palette import palette
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    weights = tmp_path / "member-0.safetensors"
    weights.write_bytes(bytes(range(256)))
    recipe = Recipe(backbone=Backbone(name="test_resnet"), head=SegFormerHead())
    member = {"trial": "0000", "weights": weights.name, "num_bytes": 256, "sha256": sha256_of(weights)}
    member |= {"recipe": recipe.model_dump(mode="json"), "mean": [0.5] * 3, "std": [0.2] * 3}
    member |= {"views": ["s1.00-none"], "short_px": None}
    score = make_score(0.5, 2).model_dump()
    manifest = {
        "format": "segsearch-bundle/1", "versions": {}, "data": "d", "data_fingerprint": "1", "split_fingerprint": "2",
        "classes": ["a", "b"], "background": False, "palette": palette(2, background=False).tolist(),
        "rule": "best_single", "vote": "soft", "members": [member], "weights": [[1.0, 1.0]],
        "scores": dict.fromkeys(Scores.model_fields, score),
        "sentence": "Ship it.", "caveats": [], "licences": [],
    }  # fmt: skip
    (tmp_path / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def test_a_whole_bundle_is_read(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert read.manifest.members[0].recipe.backbone.name == "test_resnet"
    assert [path.is_file() for path in read.weights_paths(read.manifest.members[0])] == [True]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "must have 256 bytes, got 100: it was cut short"),
        (lambda f: f.write_bytes(f.read_bytes() + b"x"), "got 257: it has grown"),
        (lambda f: f.write_bytes(bytes(256)), "it was changed"),
        (lambda f: f.unlink(), "got no member-0.safetensors"),
    ],
)
def test_a_damaged_file_is_told_by_name(bundle: Path, damage: Any, message: str) -> None:
    damage(bundle / "member-0.safetensors")
    with pytest.raises(BundleError, match=message) as error:
        read_bundle(bundle)
    assert "member-0.safetensors" in str(error.value)
    assert "copy the bundle again" in str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "segsearch-bundle/9", "a newer one; update segsearch"),
        (["format"], "onnx/1", "use the segsearch that wrote it"),
        (["members", 0, "weights"], "../../etc/passwd.safetensors", "members/0/weights"),
        (["members", 0, "weights"], "weights.pkl", "members/0/weights"),
        (["weights"], [[1.0]], "must be 1 x 2"),
        (["flip_pairs"], [[0, 2]], "flip_pairs must name classes 0 to 1, each once"),
        (["weights"], [[1.0, 1.0], [1.0, 1.0]], "must be 1 x 2"),
        (["postprocess"], {"min_component": [0.1, 0.0], "max_hole": [0.1]}, "got 2 and 1 for 2 classes"),
        (["postprocess"], {"min_component": [0.1, 1.0], "max_hole": [0.1, 0.1]}, "postprocess/min_component/1"),
        (["weights"], [[1.0, float("nan")]], "weights/0/1: Input should be a finite number"),
        (["weights"], [[1.0, 1e39]], "numbers of 0 or more, to 1e"),
        (["palette"], [[0, 0, 256], [0, 0, 0]], "palette/0/2: Input should be less than or equal to 255"),
        (["classes"], ["a", ""], "classes/1"),
        (["members", 0, "views"], ["s1.00-none"] * 5000, "views must differ, got 5000 of which 1 differ"),
        (["members", 0, "views"], ["s9.99-none"], "scales from 0.25 to 4.0, got s9.99-none"),
        (["members", 0, "views"], ["../x"], "members/0/views/0"),
        (["members", 0, "std"], [0.2, 0.2, 0.0], "members/0/std/2"),
        (["members", 0, "short_px"], 10**9, "members/0/short_px"),
        (["members", 0, "temperature"], 1e-300, "members/0/temperature"),
        (["members", 0, "recipe", "head", "channels"], 10**12, "members/0/recipe/head/segformer/channels"),
        (["data"], "\ud800", "half a surrogate pair"),
        (["weights"], [[1.0, -1.0]], "numbers of 0 or more"),
        (["weights"], [[0.0, 0.0]], "must not sum to 0 for a class in a soft vote, got that for a, b"),
        (["surprise"], 1, "surprise"),
    ],
)
def test_a_manifest_that_breaks_the_format_is_refused(bundle: Path, path: list[Any], value: Any, message: str) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = copy.deepcopy(value)
    (bundle / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        read_bundle(bundle)


@pytest.mark.parametrize("vote", ["soft", "geometric"])
def test_a_class_without_weights_may_lose_everywhere_but_not_win(bundle: Path, vote: str) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8")) | {"vote": vote, "weights": [[1, 0]]}
    (bundle / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    if vote == "soft":
        assert read_bundle(bundle).manifest.weights == ((1.0, 0.0),)
    else:
        with pytest.raises(BundleError, match="in a geometric vote, got that for b; give it"):
            read_bundle(bundle)


def test_a_manifest_cut_short_and_a_folder_without_one(bundle: Path, tmp_path: Path) -> None:
    text = (bundle / "bundle.json").read_text(encoding="utf-8")
    (bundle / "bundle.json").write_text(text[:200], encoding="utf-8")
    with pytest.raises(BundleError, match="must be JSON"):
        read_bundle(bundle)
    with pytest.raises(BundleError, match="give the bundle/ folder of a finished run"):
        read_bundle(tmp_path / "nowhere")


def test_a_deep_a_long_and_a_linked_manifest_are_refused(bundle: Path) -> None:
    path = bundle / "bundle.json"
    for raw, message in ((b"[" * 10**5, "nested too deep"), (b" " * (2**24 + 1), "at most 16777216 bytes")):
        path.write_bytes(raw)
        with pytest.raises(BundleError, match=message):
            read_bundle(bundle)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match="symbolic links"):
        read_bundle(bundle)
