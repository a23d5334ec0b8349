"""Which trials become candidates, and how their logits come to disk."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import trainables.logits.write_logits as write_logits_module
from analysis.voting.probabilities import probabilities
from search.stages.candidates import choose
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.reader import read
from trainables.data.splits.make_split import make_split
from trainables.data.synthetic.dataset import write_synthetic
from trainables.logits.quantise import encode
from trainables.logits.store import LogitStore
from trainables.logits.view import View
from trainables.logits.write_logits import FLOAT16, Candidate, Storage, check_space, rounding_note, write_logits
from trainables.metrics import confusion, miou
from trainables.recipe.recipe import Backbone, Recipe, SegFormerHead

VIEWS = [View(), View(0.5, "horizontal")]


def candidate(trial: str, backbone: str, miou: float) -> Candidate:
    recipe = Recipe(backbone=Backbone(name=backbone, pretrained=False), head=SegFormerHead(channels=16))
    return Candidate(trial, recipe, Path(trial), miou)


def test_the_best_are_chosen_within_the_limit_of_a_family() -> None:
    trials = [candidate(str(n), "convnext_atto", 0.5 - n / 100) for n in range(4)] + [candidate("9", "resnet18", 0.1)]
    chosen = choose(trials, limit=4, max_per_family=2)
    assert [c.trial for c in chosen] == ["0", "1", "9"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One candidate's logits on a small synthetic set."""
    import torch

    from trainables.models.segmentor import build_segmentor
    from trainables.models.weights_file import save_weights

    folder = tmp_path_factory.mktemp("logits")
    index = read(read_card(write_synthetic(folder / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, folder / "cache"), make_split(index, seed=0)
    one = candidate("t", "test_convnext", 0.5)
    torch.manual_seed(0)
    save_weights(folder / "best.safetensors", build_segmentor(one.recipe, index.num_classes).state_dict())
    one = Candidate("t", one.recipe, folder, 0.5)
    folders = {"val": folder / "val", "holdout": folder / "holdout"}
    free = check_space([one], cache, split, VIEWS, folder, [folders])
    found = SimpleNamespace(one=one, cache=cache, split=split, folders=folders, forecast=free[0], folder=folder)
    write(found)
    return found


def write(found: Any, storage: Storage = FLOAT16, folders: Any = None, cache: Any = None) -> list[str]:
    """What was said."""
    place, source = folders or found.folders, cache or found.cache
    return write_logits(found.one, source, found.split, VIEWS, place, storage, device="cpu")


def test_the_forecast_is_what_is_written(written: Any) -> None:
    files = [path for folder in written.folders.values() for path in folder.glob("*.safetensors")]
    assert sum(path.stat().st_size for path in files) == pytest.approx(written.forecast, rel=0.1)


def test_a_second_call_writes_nothing(written: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.folder.rglob("*.safetensors")}
    assert not write(written)
    assert {path: path.stat().st_mtime_ns for path in written.folder.rglob("*.safetensors")} == before


def test_a_shard_that_was_cut_short_is_written_again(written: Any) -> None:
    shard = next(written.folders["val"].glob("s1.00-none-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    write(written)
    assert shard.read_bytes() == whole


def test_logits_that_do_not_fit_the_disk_are_refused_before_the_first(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_logits_module.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2**20))
    with pytest.raises(
        ValueError, match=r"has 1 MiB free; free some, set ensemble\.logits to uint8, lower ensemble\.candidates"
    ):
        check_space([written.one], written.cache, written.split, VIEWS, written.folder)
    there = [written.folders]  # as they are when the stage is resumed
    monkeypatch.setattr(write_logits_module, "SPARE_BYTES", 0)
    check_space([written.one], written.cache, written.split, VIEWS, written.folder, there)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_logits_beyond_the_quota_are_refused_with_figures_and_a_remedy(written: Any, dtype: Any) -> None:
    asked = [written.one], written.cache, written.split, VIEWS, written.folder, ()
    needed, _ = check_space(*asked, Storage(dtype))
    check_space(*asked, Storage(dtype, quota_gb=needed / 2**30))
    rule = r"need 0 MiB, and ensemble\.logits_gb allows 0 MiB; raise it, " + ("set" if dtype == "float16" else "lower")
    with pytest.raises(ValueError, match=rule):
        check_space(*asked, Storage(dtype, quota_gb=(needed - 1) / 2**30))


class ValOnly:
    """The cache, with the hold-out's labels locked."""

    def __init__(self, cache: Cache, split: Any) -> None:
        self.cache, self.val = cache, set(split.val_ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def label(self, image_id: str) -> Any:
        assert image_id in self.val, "a label outside val was read"
        return self.cache.label(image_id)


def test_8_bits_take_half_and_what_they_change_on_val_is_said(written: Any, tmp_path: Path) -> None:
    folders = {"val": tmp_path / "val", "holdout": tmp_path / "holdout"}
    said = write(written, Storage("uint8"), folders, ValOnly(written.cache, written.split))
    assert len(said) == len(VIEWS)
    found = re.fullmatch(r"8-bit logits of trial t, s1\.00-none: mIoU ([+-]\d\.\d{4}) on val", said[0])
    assert found is not None
    by_bits = [rescored(written, LogitStore(place["val"])) for place in (written.folders, folders)]
    assert float(found[1]) == pytest.approx(by_bits[1] - by_bits[0], abs=1e-4)
    stores = [LogitStore(folders["val"]), LogitStore(folders["holdout"])]
    assert {store.dtype_of(view) for store in stores for view in store.views} == {"uint8"}
    assert "kept in 8 bits" in rounding_note(stores)[0]
    sizes = [sum(p.stat().st_size for p in place["val"].iterdir()) for place in (written.folders, folders)]
    assert sizes[1] < 0.75 * sizes[0]  # tiny grids: headers weigh much
    assert not write(written, Storage("uint8"), folders)  # kept
    write(written, FLOAT16, folders)
    assert LogitStore(folders["val"]).dtype_of("s1.00-none") == "float16"  # more bits were asked for
    assert not write(written, Storage("uint8"), folders)  # more bits than asked for will do


def rescored(written: Any, store: LogitStore) -> float:
    counts = np.zeros((written.cache.index.num_classes,) * 2, np.int64)
    for image_id in written.split.val_ids:
        predicted = probabilities(store, ["s1.00-none"], image_id).argmax(0).astype(np.uint8)
        counts += confusion(written.cache.label(image_id), predicted, len(counts))
    return float(miou(counts))


def test_a_view_that_8_bits_hurt_is_kept_as_float16_and_said(
    written: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blunt(logits: np.ndarray) -> Any:
        levels, scale = encode(logits)
        return (levels // 128) * 128, scale

    monkeypatch.setattr(write_logits_module, "encode", blunt)  # as if 8 bits were 1
    folders = {"val": tmp_path / "val", "holdout": tmp_path / "holdout"}
    said = write(written, Storage("uint8", max_error=0.0), folders)
    assert all("more than ensemble.max_logit_error 0: the view is kept as float16" in line for line in said)
    for part in ("val", "holdout"):
        store, plain = LogitStore(folders[part]), LogitStore(written.folders[part])
        image_id = store.image_ids[0]
        np.testing.assert_array_equal(
            store.logits("s0.50-horizontal", image_id), plain.logits("s0.50-horizontal", image_id)
        )
    assert rounding_note([store]) == []
