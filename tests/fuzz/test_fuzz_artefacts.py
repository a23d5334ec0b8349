"""Bundles and logits: read, or refused with a message."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_header, make_score, make_store
from fuzz.hostile import as_json, damaged, examples, reads_or_refuses, spoilt
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.bundle.manifest import Scores, read_bundle, sha256_of
from analysis.external.predictions import read_folder
from analysis.report.palette import palette
from trainables.logits.store import LogitStore
from trainables.models.weights_file import load_weights
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

WEIGHTS = bytes(range(256))
CLASSES = ["a", "b"]


def manifest(folder: Path) -> dict[str, Any]:
    path = folder / "member-0.safetensors"
    path.write_bytes(WEIGHTS)
    recipe = Recipe(backbone=Backbone(name="test_resnet"), head=SegFormerHead())
    member = {"trial": "0000", "weights": path.name, "num_bytes": len(WEIGHTS), "sha256": sha256_of(path)}
    member |= {"recipe": recipe.model_dump(mode="json"), "mean": [0.5] * 3, "std": [0.2] * 3}
    member |= {"views": ["s1.00-none"], "short_px": None}
    return {
        "format": "segsearch-bundle/1", "versions": {}, "data": "d", "data_fingerprint": "1", "split_fingerprint": "2",
        "classes": CLASSES, "background": False, "palette": palette(2, background=False).tolist(),
        "rule": "best_single", "vote": "soft", "members": [member], "weights": [[1.0, 1.0]],
        "scores": dict.fromkeys(Scores.model_fields, make_score(0.5, 2).model_dump()),
        "sentence": "Ship it.", "caveats": [], "licences": [],
        "postprocess": {"min_component": [0.1, 0.0], "max_hole": [0.0, 0.1]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artefacts")


@settings(max_examples=examples())
@given(st.data())
def test_bundle(folder: Path, data: st.DataObject) -> None:
    whole = manifest(folder)
    raw = data.draw(damaged(whole).map(as_json) | spoilt(as_json(whole)))
    (folder / "bundle.json").write_bytes(raw)
    reads_or_refuses(lambda: read_bundle(folder))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole shard in each type."""
    root, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    found = {}
    for dtype in ("float16", "uint8"):
        grids = {name: rng.normal(size=(2, 3, 4)) for name in ("a.png", "b/c.png")}
        store = make_store(root / dtype, make_header(classes=CLASSES, dtype=dtype), grids, (6, 8))
        found[dtype] = next(store.folder.glob("*.safetensors")).read_bytes()
    return found


def with_header(whole: bytes, head: bytes) -> bytes:
    (length,) = struct.unpack("<Q", whole[:8])
    return struct.pack("<Q", len(head)) + head + whole[8 + length :]


def read_all(folder: Path, *, allow_missing: bool) -> None:
    store = LogitStore(folder, allow_missing=allow_missing)
    for view in store.views:
        for image_id in store.ids_of(view):
            assert store.logits(view, image_id).shape[0] == len(CLASSES)


def read_shards(folder: Path, raw: bytes) -> None:
    (folder / "store").mkdir(exist_ok=True)
    (folder / "store" / "s1.00-none-00000.safetensors").write_bytes(raw)
    names = {"a.png": "a.png", "b/c.png": "b/c.png"}
    for allow in (False, True):
        reads_or_refuses(lambda allow=allow: read_all(folder / "store", allow_missing=allow))
        reads_or_refuses(
            lambda allow=allow: list(
                read_folder(folder / "store", CLASSES, names, lambda _: (6, 8), allow_missing=allow)
            )
        )


@settings(max_examples=examples())
@given(st.data())
def test_shard(folder: Path, shards: dict[str, bytes], data: st.DataObject) -> None:
    whole = shards[data.draw(st.sampled_from(sorted(shards)))]
    read_shards(folder, data.draw(spoilt(whole)))


@settings(max_examples=examples())
@given(st.data())
def test_header_of_a_shard(folder: Path, shards: dict[str, bytes], data: st.DataObject) -> None:
    whole = shards[data.draw(st.sampled_from(sorted(shards)))]
    (length,) = struct.unpack("<Q", whole[:8])
    head = json.loads(whole[8 : 8 + length])
    meta = head["__metadata__"]
    inner = {key: json.loads(text) for key, text in meta.items() if key != "format"}
    if data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(inner)))
        meta[key] = as_json(data.draw(damaged(inner[key]))).decode()
        raw = as_json(head)
    else:
        raw = as_json(data.draw(damaged(head)))
    read_shards(folder, with_header(whole, raw))


@pytest.mark.parametrize("size_px", [[-1, 8], [6.5, 8], [2**62, 8], [10**400, 8], [True, 8]])
def test_sizes_that_are_none(folder: Path, shards: dict[str, bytes], size_px: list[Any]) -> None:
    whole = shards["float16"]
    (length,) = struct.unpack("<Q", whole[:8])
    head = json.loads(whole[8 : 8 + length])
    head["__metadata__"]["sizes"] = json.dumps({"a.png": size_px, "b/c.png": [6, 8]})
    (folder / "sizes").mkdir(exist_ok=True)
    (folder / "sizes" / "s1.00-none-00000.safetensors").write_bytes(with_header(whole, as_json(head)))
    with pytest.raises(ValueError, match=r"of image 'a\.png', which must be whole numbers from 1 to"):
        LogitStore(folder / "sizes")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One image's logits as other tools write them."""
    from safetensors.numpy import save

    root, grid = tmp_path_factory.mktemp("foreign"), np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)
    np.save(root / "a.npy", grid)
    np.savez_compressed(root / "a.npz", probabilities=grid, classes=np.array(CLASSES))
    (root / "a.safetensors").write_bytes(save({"logits": grid}, {"classes": json.dumps(CLASSES)}))
    return {path.suffix: path.read_bytes() for path in root.iterdir()}


@pytest.mark.parametrize(
    "head", [b"{'shape': (2, ", b"('", b"\n  a\n b", b"[" * 118, b"{'descr': '<f4', 'shape': (9,)}"]
)
def test_a_header_of_an_array_that_is_no_python(folder: Path, head: bytes) -> None:
    """Found by fuzzing: numpy reads it with Python's tokenizer, and lets that one's errors through."""
    place = folder / "npy"
    place.mkdir(exist_ok=True)
    (place / "a.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + head.ljust(117) + b"\n" + bytes(384))
    with pytest.raises(ValueError, match=r"a\.npy cannot be read"):
        list(read_folder(place, CLASSES, {"a": "a.png"}, lambda _: (6, 8)))


def test_a_file_that_would_fill_the_memory_is_not_unpacked(folder: Path) -> None:
    place = folder / "bomb"
    place.mkdir()
    np.savez_compressed(place / "a.npz", probabilities=np.zeros((2, 600, 800), np.float32))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read \(it unpacks to 38\d+ bytes, where all images"):
        list(read_folder(place, CLASSES, {"a": "a.png"}, lambda _: (6, 8)))


@settings(max_examples=examples())
@given(st.data())
def test_foreign_logits(folder: Path, foreign: dict[str, bytes], data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(sorted(foreign)))
    raw = data.draw(spoilt(foreign[suffix]))
    place = folder / f"foreign{suffix}"
    place.mkdir(exist_ok=True)
    (place / f"a{suffix}").write_bytes(raw)
    reads_or_refuses(lambda: list(read_folder(place, CLASSES, {"a": "a.png"}, lambda _: (6, 8))))


@settings(max_examples=examples())
@given(st.data())
def test_weights(folder: Path, foreign: dict[str, bytes], data: st.DataObject) -> None:
    path = folder / "w.safetensors"
    path.write_bytes(data.draw(spoilt(foreign[".safetensors"])))
    reads_or_refuses(lambda: load_weights(path))
