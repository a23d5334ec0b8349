"""Which trials become candidates, and how their logits come to disk."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from analysis import candidates
from analysis.candidates import Candidate, check_space, choose, write_logits
from trainables.data.cache import Cache
from trainables.data.card import read_card
from trainables.data.coco import read
from trainables.data.splits import make_split
from trainables.data.synthetic import write_synthetic
from trainables.infer import View
from trainables.logits import LogitStore
from trainables.recipe import Backbone, Recipe, SegFormerHead

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

    from trainables.checkpoint import save_weights
    from trainables.models.segmentor import build_segmentor

    folder = tmp_path_factory.mktemp("logits")
    index = read(read_card(write_synthetic(folder / "data", num_images=18, image_px=64, seed=0)))
    cache, split = Cache.open(index, folder / "cache"), make_split(index, seed=0)
    one = candidate("t", "test_convnext", 0.5)
    torch.manual_seed(0)
    save_weights(folder / "best.safetensors", build_segmentor(one.recipe, index.num_classes).state_dict())
    one = Candidate("t", one.recipe, folder, 0.5)
    folders = {"val": folder / "val", "holdout": folder / "holdout"}
    free = check_space([one], cache, split, VIEWS, folder)
    write_logits(one, cache, split, VIEWS, folders, device="cpu", say=lambda _line: None)
    return SimpleNamespace(one=one, cache=cache, split=split, folders=folders, forecast=free[0], folder=folder)


def test_the_forecast_is_what_is_written(written: Any) -> None:
    files = [path for folder in written.folders.values() for path in folder.glob("*.safetensors")]
    assert sum(path.stat().st_size for path in files) == pytest.approx(written.forecast, rel=0.1)


def test_a_second_call_writes_nothing(written: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.folder.rglob("*.safetensors")}
    said: list[str] = []
    write_logits(written.one, written.cache, written.split, VIEWS, written.folders, device="cpu", say=said.append)
    assert not said
    assert {path: path.stat().st_mtime_ns for path in written.folder.rglob("*.safetensors")} == before


def test_a_shard_that_was_cut_short_is_written_again(written: Any) -> None:
    shard = next(written.folders["val"].glob("s1.00-none-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    write_logits(
        written.one, written.cache, written.split, VIEWS, written.folders, device="cpu", say=lambda _line: None
    )
    assert shard.read_bytes() == whole


def test_logits_that_do_not_fit_the_disk_are_refused_before_the_first(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2**20))
    with pytest.raises(ValueError, match=r"has 1 MiB free; free some, or lower ensemble\.candidates"):
        check_space([written.one], written.cache, written.split, VIEWS, written.folder)


def test_the_readers_of_the_readme_reads_a_store(written: Any) -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "def read_logits" in block]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  (the README's own lines)
    store = LogitStore(written.folders["val"])
    found = {image_id: logits for image_id, logits, _, _ in names["read_logits"](written.folders["val"])}
    assert sorted(found) == list(store.image_ids)
    for image_id, logits in found.items():
        np.testing.assert_array_equal(logits.astype(np.float16), store.logits("s1.00-none", image_id))
